"""Models named where an alias should be; numbers are those of the new facts (L)."""

from __future__ import annotations

from pathlib import Path

import pytest

from projector.errors import AliasConfigError
from projector.llm.scan import Found, judged, read_allow_list, scan


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
        'word = "gpt-like"',
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
    (tmp_path / "bad.py").write_text("m = (")
    (tmp_path / "bad.json").write_bytes(b"\xff")
    (tmp_path / "a.txt").write_text('"groq/x"')
    assert list(scan([tmp_path])) == []


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
