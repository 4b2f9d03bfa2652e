"""Models named where an alias should be; numbers are those of the new facts (L)."""

from __future__ import annotations

from pathlib import Path

import pytest

from projector.errors import AliasConfigError
from projector.llm import scan as scan_module
from projector.llm.scan import UNREADABLE, Found, judged, read_allow_list, scan


def found_in(folder: Path, name: str, text: str) -> list[tuple[int, str]]:
    (folder / name).write_text(text)
    return [(place.line, place.text) for place in scan([folder], ["ours"], base=folder)]


NAMED = {
    "L1 a provider and a model": ("a.py", 'x = 1\nm = "groq/x"\n', [(2, "groq/x")]),
    "L2 google is none of the exceptions": ("a.py", 'm = "google/gemini-2.5-flash"', [(1, "google/gemini-2.5-flash")]),
    "a provider of the file": ("a.py", "m = 'ours/some-model:7b'", [(1, "ours/some-model:7b")]),
    "the beginning of an f-string": ("a.py", 'm = f"openrouter/{name}"', [(1, "openrouter/")]),
    "a name that is added to": ("a.py", 'm = "openrouter/" + name', [(1, "openrouter/")]),
    "bare names": ("a.py", 'm = ["gpt-4o-mini", "claude-3-haiku", "gemini-2.0-flash", "llama3.3", "qwen2.5:7b"]', 5),
    "YAML": ("a.yaml", "a:\n  - model: openai/gpt-4o\n", [(2, "openai/gpt-4o")]),
    "TOML": ("a.toml", '[a]\nmodel = "mistral-large-latest"\n', [(2, "mistral-large-latest")]),
    "bare names of the spec": (
        "a.py",
        'm = ["gemini-pro", "gemini-flash-latest", "qwen-max", "mistral-tiny", "gpt-image-1", "claude-v2", "o3-mini",'
        ' "mixtral-8x7b", "grok-4"]',
        9,
    ),
    "more vendors": ("a.py", 'm = "x-ai/grok-x", "nvidia/nemotron"', 2),
    "bytes": ("a.py", 'm = b"groq/x"', [(1, "groq/x")]),
    "a list in a text": ("a.py", 'm = "openai/gpt-4o, groq/x"', [(1, "openai/gpt-4o, groq/x")]),
    "the value of an option": ("a.yaml", "args: [--model=openai/gpt-4o]", [(1, "--model=openai/gpt-4o")]),
    "the end of an f-string": ("a.py", 'm = f"{p}/gpt-4o"', [(1, "{}/gpt-4o")]),
    "a mark of the order of bytes": ("a.py", '\ufeffm = "groq/x"', [(1, "groq/x")]),
    "keys of YAML": ("a.yaml", "a:\n  groq/x: 1", [(2, "groq/x")]),
    "keys of TOML": ("a.toml", '["groq/x"]\na = 1', [(1, "groq/x")]),
    "JSON with a comment, and a key": ("a.json", '{// a\n"groq/x": "a"}', [(2, "groq/x")]),
    "JSON": ("a.json", '{"a": ["groq/x",\n"groq/x"]}', [(1, "groq/x"), (2, "groq/x")]),
}


@pytest.mark.parametrize("case", NAMED)
def test_L1_L2_a_model_that_is_named_is_found(tmp_path: Path, case: str):
    name, text, expected = NAMED[case]
    found = found_in(tmp_path, name, text)
    assert len(found) == expected if isinstance(expected, int) else found == expected


@pytest.mark.parametrize(
    "text",
    [
        '"""groq/x is a model, says this text."""',
        "from google import groq",
        'kind = "application/json"',
        'path = "google/protobuf/empty file"',
        'alias = "mana/reasoning"',
        'told = f"{provider}groq/x"',
        'told = "so it is, gpt-4o is a model"',
        'path = f"{root}/openai/x"',
        "# groq/x",
        'folder = ".venv/openai/x"',
    ],
)
def test_what_only_looks_like_one_is_not(tmp_path: Path, text: str):
    assert found_in(tmp_path, "a.py", text) == []


def test_what_is_not_ours_or_no_text_is_passed_over(tmp_path: Path):
    for folder in ("node_modules", ".venv", "__pycache__"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text('m = "groq/x"')
    (tmp_path / "a.txt").write_text('"groq/x"')
    assert list(scan([tmp_path])) == []


def test_what_cannot_be_read_is_not_taken_for_clean(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(scan_module, "LONGEST_FILE", 9)
    files = {"bad.json": b"\xff", "bad.py": b"m = (", "bad.toml": b"a", "bad.yaml": b"[", "long.py": b"# 3456789"}
    for name, content in (files | {"short.py": b"# 345678"}).items():
        (tmp_path / name).write_bytes(content + b"\n" * (name == "long.py"))
    assert [(place.path, place.text) for place in scan([tmp_path], base=tmp_path)] == [
        (name, UNREADABLE) for name in files
    ]


def test_L1_an_allowance_needs_a_reason_and_a_use(tmp_path: Path):
    allow = tmp_path / "allow.yaml"
    allow.write_text("- {path: 'src/*', name: 'groq/*', reason: a test}\n- {path: other.py, reason: nothing there}\n")
    allowed = read_allow_list(allow)
    groq, other = Found("src/a.py", 1, "groq/x"), Found("src/a.py", 2, "openai/x")
    assert judged([groq, other], allowed) == ([other], [allowed[1]])
    for wrong in ("- {path: a.py}", "- {path: a.py, reason: ''}", "a: b", "- {path: a.py, reason: x, why: y}"):
        allow.write_text(wrong)
        with pytest.raises(AliasConfigError, match=r"allow\.yaml:1"):
            read_allow_list(allow)
