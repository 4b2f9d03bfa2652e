"""The file of aliases; numbers are those of the reference's facts (13.1) and of the new ones (A)."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest

from projector.errors import AliasConfigError, NoModelError, UnknownAliasError
from projector.llm.config import BreakerSettings, Budgets, Entry, Limits, Policy, ProbeSettings, parse
from projector.llm.registry import Registry, is_alias
from projector.llm.yaml_lines import LONGEST_FILE

SHIPPED = Path(__file__).parents[2] / "deploy" / "llm.yaml"
C = """
aliases:
  mana/fast-text: {description: short, chain: ["ollama/qwen2.5:7b", groq/llama-3.1-8b-instant]}
  mana/long-form: {description: " long ", chain: ["ollama/gemma3:12b", groq/llama-3.3-70b-versatile]}
default: mana/fast-text
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "llm.yaml"
    file.write_text(C)
    return file


def test_13_1_1_to_6_what_is_loaded_can_be_asked_for(path: Path):
    found = Registry(str(path))
    assert (found.path, found.default_alias) == (path, "mana/fast-text")
    alias = found.resolve("mana/long-form")
    assert (alias.name, alias.description) == ("mana/long-form", "long")
    assert alias.chain == ("ollama/gemma3:12b", "groq/llama-3.3-70b-versatile")
    with pytest.raises(dataclasses.FrozenInstanceError):
        alias.name = "other"
    assert found.resolve_chain("mana/fast-text") == ("ollama/qwen2.5:7b", "groq/llama-3.1-8b-instant")
    assert [alias.name for alias in found.list_aliases()] == ["mana/fast-text", "mana/long-form"]
    with pytest.raises(UnknownAliasError, match=r"mana/nope.*mana/fast-text, mana/long-form") as caught:
        found.resolve("mana/nope")
    assert isinstance(caught.value, KeyError)
    path.write_text(C.replace("default: mana/fast-text", ""))
    assert Registry(path).default_alias is None


def test_13_1_7_to_16_an_alias_is_known_by_its_prefix():
    assert all(is_alias(name) for name in ("mana/fast-text", "mana/anything", "mana/foo", "mana/"))
    assert not any(is_alias(n) for n in ("ollama/gemma3:4b", "groq/llama", "gemma3:4b", "", "mana", "manaX/foo", None))


WRONG = [
    ("18", "aliases: [", "failed to parse"),
    ("19", "- a", "root must be a mapping"),
    ("19 empty", "", "root must be a mapping"),
    ("20", "aliases: text", "`aliases` must be a mapping"),
    ("20 null", "aliases:", "`aliases` must be a mapping"),
    ("21", "{}", "empty"),
    ("21 no alias", "aliases: {}", "empty"),
    ("22", "aliases: {fast-text: {chain: [a/b]}}", "mana/"),
    ("22 number", "aliases: {1: {chain: [a/b]}}", "mana/"),
    ("23", "aliases: {mana/foo/bar: {chain: [a/b]}}", "exactly one segment"),
    ("23 none", "aliases: {mana/: {chain: [a/b]}}", "exactly one segment"),
    ("body", "aliases: {mana/x: }", "body must be a mapping"),
    ("description", "aliases: {mana/x: {description: 1, chain: [a/b]}}", "description must be a string"),
    ("24", "aliases: {mana/x: {chain: a/b}}", "chain must be a list"),
    ("24 none", "aliases: {mana/x: {}}", "chain must be a list"),
    ("25", "aliases: {mana/x: {chain: []}}", "must not be empty"),
    ("26", "aliases: {mana/x: {chain: ['gemma3:4b']}}", "provider prefix"),
    ("27", "aliases: {mana/x: {chain: [42]}}", "non-empty string"),
    ("27 blank", "aliases: {mana/x: {chain: ['  ']}}", "non-empty string"),
    ("28", "aliases: {mana/x: {chain: [a/b]}}\ndefault: mana/missing", "references unknown alias"),
    ("28 empty", "aliases: {mana/x: {chain: [a/b]}}\ndefault: ''", "references unknown alias"),
    ("28 number", "aliases: {mana/x: {chain: [a/b]}}\ndefault: 3", "`default` must be a string"),
    ("A2 nested", "aliases: {mana/x: {chain: [mana/other]}}", "is an alias"),
    ("A2 no model", "aliases: {mana/x: {chain: [ollama/]}}", "model after it"),
    ("A2 slash", "aliases: {mana/x: {chain: ['/']}}", "provider before"),
    ("a name with a line break", 'aliases: {mana/x: {chain: ["a/b\\nX: 1"]}}', "without spaces"),
    ("an alias with a line break", 'aliases: {"mana/x\\r\\nX: 1": {chain: [a/b]}}', "without spaces"),
    ("an alias beyond ASCII", "aliases: {mana/schön: {chain: [a/b]}}", "printable ASCII"),
    ("a model beyond ASCII", "aliases: {mana/x: {chain: [a/schön]}}", "printable ASCII"),
    ("version true", "version: true\naliases: {mana/x: {chain: [a/b]}}", "version 1"),
    ("an empty number", "aliases: {mana/x: {chain: [a/b]}}\nbudgets: {total_s: !!int ''}", "'' is no int"),
    ("an odd truth", "aliases: {mana/x: {chain: [a/b]}}\npolicy: {last_resort: !!bool foo}", "'foo' is no bool"),
    ("an odd time", "aliases: {mana/x: {chain: [a/b]}}\ndefault: !!timestamp x", "'x' is no timestamp"),
    ("A2 twice", "aliases: {mana/x: {chain: [a/b, A/b]}}", "already"),
    ("unknown key", "aliases: {mana/x: {chian: [a/b]}}", "unknown key"),
    ("version", "version: 2\naliases: {mana/x: {chain: [a/b]}}", "version 1"),
    ("url", "providers: {p: {base_url: 'http://u:pw@h/v1'}}\naliases: {mana/x: {chain: [p/b]}}", "without user"),
    ("key", "providers: {p: {base_url: 'http://h', api_key_env: sk-123}}\naliases: {}", "name of an environment"),
    ("number", "aliases: {mana/x: {chain: [a/b]}}\nbudgets: {total_s: soon}", "must be a number"),
    ("10 timeouts", "providers: {p: {base_url: 'http://h', timeouts: 5}}\naliases: {}", "must be a mapping"),
    ("10 null", "providers: {p: {base_url: 'http://h', timeouts: }}\naliases: {}", "must be a mapping"),
    ("10 whose", "providers: {p: {base_url: 'http://h', timeouts: {deadline_s: 5}}}\naliases: {}", "unknown key"),
    ("10 none", "providers: {p: {base_url: 'http://h', timeouts: {idle_s: 0}}}\naliases: {}", "from 0.01 to 3600"),
    ("10 long", "providers: {p: {base_url: 'http://h', timeouts: {total_s: 3601}}}\naliases: {}", "from 0.01 to 3600"),
    ("10 text", "providers: {p: {base_url: 'http://h', timeouts: {total_s: '5'}}}\naliases: {}", "must be a number"),
    ("10 nan", "providers: {p: {base_url: 'http://h', timeouts: {total_s: .nan}}}\naliases: {}", "must be a number"),
    ("recursion", "aliases: &a {mana/x: *a}", "unknown key"),
]


@pytest.mark.parametrize(("number", "text", "told"), WRONG, ids=[number for number, _, _ in WRONG])
def test_13_1_18_to_28_a_wrong_file_is_refused_with_its_line_and_key(number: str, text: str, told: str):
    with pytest.raises(AliasConfigError) as caught:
        parse("# a comment\n" + text, "some.yaml")
    assert told in caught.value.message
    assert isinstance(caught.value, ValueError)
    assert caught.value.message.startswith("some.yaml:"), "the file"
    assert caught.value.message.split(":")[1].isdecimal(), "the line"
    assert "sk-123" not in caught.value.message


def test_an_error_names_the_very_line_and_the_whole_key():
    with pytest.raises(AliasConfigError, match=r"^some.yaml:5: aliases.mana/x.chain\[1\]: 'b' has no provider prefix"):
        parse("aliases:\n  mana/x:\n    chain:\n    - a/b\n    - b\n", "some.yaml")


def test_10_an_error_in_the_timeouts_of_a_provider_is_named_as_exactly():
    text = "providers:\n  p:\n    base_url: http://h\n    timeouts:\n      first_byte_s: soon\naliases: {}"
    with pytest.raises(AliasConfigError, match=r"^some.yaml:5: providers\.p\.timeouts\.first_byte_s: must be a number"):
        parse(text, "some.yaml")


def test_10_a_limit_is_that_of_the_entry_else_of_its_provider_else_of_all():
    found = parse(
        """
providers: {p: {base_url: 'http://h', timeouts: {first_byte_s: 90, idle_s: 7}}, q: {base_url: 'http://h'}}
aliases: {mana/x: {chain: [p/m, {model: p/n, timeout_s: 5}, q/m, {model: q/n, timeout_s: 6}]}}
budgets: {connect_s: 1, total_s: 100}
"""
    )
    limits = [found.limits_of(entry) for entry in found.aliases["mana/x"].entries]
    assert limits == [Limits(1, 90, 7, 100), Limits(1, 5, 7, 5), Limits(1, 30, 20, 100), Limits(1, 6, 20, 6)]
    assert found.limits_of(Entry("p", "that no chain names")) == limits[0]


def test_13_1_17_a_missing_file_is_said_to_be_missing(tmp_path: Path):
    with pytest.raises(AliasConfigError, match="not found"):
        Registry(tmp_path / "none.yaml")


def test_13_1_29_a_reload_takes_what_stands_there_now(path: Path):
    found = Registry(path)
    path.write_text("aliases: {mana/long-form: {chain: [groq/x]}}\ndefault: mana/long-form")
    assert found.reload().generation == 2
    assert (found.resolve_chain("mana/long-form"), found.default_alias) == (("groq/x",), "mana/long-form")
    with pytest.raises(UnknownAliasError):
        found.resolve("mana/fast-text")


@pytest.mark.parametrize("case", ["30 broken", "31 A3 empty", "A3 deleted", "A3 bytes", "A3 folder", "A3 long"])
def test_13_1_30_31_A3_a_bad_file_keeps_the_old_one(path: Path, case: str):
    found = Registry(path)
    before = found.snapshot
    path.unlink()
    match case.rpartition(" ")[2]:
        case "broken":
            path.write_text("aliases: [")
        case "empty":
            path.write_text("{}")
        case "bytes":
            path.write_bytes(b"\xff\xfe\x00")
        case "long":
            path.write_text(C + "#" * LONGEST_FILE)
        case "folder":
            path.mkdir()
    with pytest.raises(AliasConfigError, match=path.name):
        found.reload()
    assert found.snapshot is before
    assert found.resolve_chain("mana/long-form") == ("ollama/gemma3:12b", "groq/llama-3.3-70b-versatile")


def test_13_1_32_the_shipped_file_has_the_five_classes_and_no_warning():
    names = ["fast-text", "long-form", "reasoning", "structured", "vision"]
    found = Registry(SHIPPED, environment={})
    assert [alias.name for alias in found.list_aliases()] == [f"mana/{name}" for name in names]
    assert found.default_alias == "mana/fast-text"
    assert found.snapshot.config.warnings == ()


def test_A1_an_alias_that_stands_there_twice_is_refused_with_both_lines():
    text = "aliases:\n  mana/x: {chain: [a/b]}\n  mana/y: {chain: [a/b]}\n  mana/x: {chain: [c/d]}\n"
    with pytest.raises(AliasConfigError, match=r"aliases\.mana/x: comes twice: on line 2 and on line 4"):
        parse(text)


def test_A4_readers_never_see_a_mixture_of_two_files(path: Path):
    texts = [f"aliases: {{mana/{n}: {{chain: [p/{n}]}}}}\ndefault: mana/{n}" for n in ("a", "b")]
    path.write_text(texts[0])
    found = Registry(path)
    wrong: list[object] = []
    over = threading.Event()

    def read() -> None:
        while not over.wait(0.001):
            snapshot = found.snapshot
            letter = str(snapshot.default)[-1]
            others = {"a": "mana/b", "b": "mana/a"}[letter] in snapshot.config.aliases
            if snapshot.route("").chain != (f"p/{letter}",) or snapshot.entries != {f"p/{letter}"} or others:
                wrong.append(snapshot)

    readers = [threading.Thread(target=read) for _ in range(50)]
    for reader in readers:
        reader.start()
    for n in range(100):
        path.write_text(texts[n % 2])
        found.reload()
    over.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert found.snapshot.generation == 101


def test_A5_A6_nothing_is_the_default_and_what_is_unknown_leads_nowhere(path: Path):
    found = Registry(path).snapshot
    assert found.route("").name == "mana/fast-text"
    assert found.route("OpenRouter/meta-llama/x").chain == ("openrouter/meta-llama/x",)
    for unknown in ("mana/nope", "gpt-x", "/x", "groq/", "MANA/fast-text"):
        with pytest.raises(UnknownAliasError):
            found.route(unknown)
    path.write_text(C.replace("default: mana/fast-text", ""))
    with pytest.raises(NoModelError):
        Registry(path).snapshot.route("")


def test_2_6_the_namespace_may_be_another():
    found = parse("namespace: ours\naliases: {ours/x: {chain: [mana/m]}}\ndefault: ours/x")
    assert found.aliases["ours/x"].chain == ("mana/m",), "which is a provider like any then"
    for wrong in ("aliases: {mana/x: {chain: [a/b]}}", "aliases: {ours/x: {chain: [ours/y]}}"):
        with pytest.raises(AliasConfigError, match=r"ours/|is an alias"):
            parse(f"namespace: ours\n{wrong}")


EXAMPLE = """
version: 1
namespace: mana
providers:
  ollama:
    {base_url: "http://h:11434/v1/", api_key_env: null, supports: [json], tool_models: ["qwen2.5*"],
     probe: {kind: completion, path: /tags}}
  groq: {base_url: "https://h/openai/v1", api_key_env: GROQ_API_KEY, supports: [tools, json]}
aliases:
  mana/reasoning:
    description: "agent missions"
    requires: [tools]
    chain:
      - groq/some/model
      - {model: groq/llama, timeout_s: 40, max_output_tokens: 900, requires: [json]}
default: mana/reasoning
breaker: {failure_threshold: 3, open_s: 61, multiplier: 2.5, max_open_s: 301, rate_limit_default_s: 16, jitter: 0.2}
probe:   {interval_s: 31, timeout_s: 4, jitter: 0.3}
budgets: {deadline_s: 121, connect_s: 4, first_byte_s: 31, idle_s: 21, total_s: 61, max_attempts: 5, min_attempt_s: 3}
policy:  {auth: next, payment: next, last_retry: 2, last_resort: true}
"""


def test_18_1_every_key_is_taken_as_it_is_given():
    found = parse(EXAMPLE)
    ollama, groq = found.providers["ollama"], found.providers["groq"]
    assert (ollama.base_url, ollama.key_env, ollama.tool_models) == ("http://h:11434/v1", "", ("qwen2.5*",))
    assert (ollama.probe, ollama.probe_path, groq.probe, groq.key_env) == (
        *("completion", "/tags"),
        *("inventory", "GROQ_API_KEY"),
    )
    assert (groq.supports, ollama.can("qwen2.5:7b")) == ({"tools", "json"}, {"tools", "json"})
    alias = found.aliases["mana/reasoning"]
    assert (alias.requires, found.default) == ({"tools"}, "mana/reasoning")
    assert alias.entries == (Entry("groq", "some/model"), Entry("groq", "llama", 40.0, 900, frozenset({"json"})))
    assert found.breaker == BreakerSettings(3, 61, 2.5, 301, 16, 0.2)
    assert found.probe == ProbeSettings(31, 4, 0.3)
    assert found.budgets == Budgets(121, Limits(4, 31, 21, 61), 5, 3)
    assert found.policy == Policy("next", "next", 2, True)


def test_18_1_what_is_not_given_is_as_the_spec_has_it():
    found = parse("aliases: {mana/x: {chain: [a/b]}}")
    assert found.breaker == BreakerSettings(2, 60, 2, 300, 15, 0.1)
    assert found.probe == ProbeSettings(30, 3, 0.2)
    assert found.budgets == Budgets(120, Limits(3, 30, 20, 60), 4, 2)
    assert found.policy == Policy("propagate", "propagate", 1, False)


def test_what_is_probably_a_mistake_is_warned_of():
    warnings = parse(
        "providers: {local: {base_url: 'http://h', supports: []}}\n"
        "aliases: {mana/x: {requires: [tools], chain: [typo/m, local/m]}}"
    ).warnings
    assert [text.partition(": ")[2] for text in warnings] == [
        "typo/m: there is no provider 'typo': never asked",
        "local/m: cannot do tools: never asked",
        "ends with local/m, which is no hosted provider",
    ]


def test_keys_come_from_variables_and_files_and_are_never_shown(tmp_path: Path):
    (tmp_path / "key").write_text("from-file\n")
    text = f"""
providers:
  a: {{base_url: http://h, api_key_env: KEY_A}}
  b: {{base_url: http://h, api_key_env: KEY_B}}
  c: {{base_url: http://h, api_key_file: {tmp_path}/key}}
  d: {{base_url: http://h}}
aliases: {{mana/x: {{chain: [a/m]}}}}
"""
    (tmp_path / "llm.yaml").write_text(text)
    found = Registry(tmp_path / "llm.yaml", environment={"KEY_A": "from-env", "KEY_B": " "}).snapshot
    assert found.keys == {"a": "from-env", "c": "from-file", "d": ""}
    assert "from-" not in repr(found)


@pytest.mark.parametrize("key", ["one\ntwo", "schlüssel", "a key"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_quoted(tmp_path: Path, key: str):
    (tmp_path / "key").write_text(key)
    provider = "providers:\n  c:\n    base_url: http://h\n    "
    aliases = "\naliases: {mana/x: {chain: [c/m]}}"
    (tmp_path / "llm.yaml").write_text(f"{provider}api_key_file: {tmp_path}/key{aliases}")
    with pytest.raises(
        AliasConfigError, match=r"llm.yaml:4: providers\.c\.api_key_file: the key in .*/key is"
    ) as caught:
        Registry(tmp_path / "llm.yaml", environment={})
    assert key not in caught.value.message
    (tmp_path / "llm.yaml").write_text(f"{provider}api_key_env: KEY_C{aliases}")
    with pytest.raises(AliasConfigError, match=r"llm.yaml:4: providers\.c\.api_key_env: the key in KEY_C is") as caught:
        Registry(tmp_path / "llm.yaml", environment={"KEY_C": key})
    assert key not in caught.value.message
    (tmp_path / "llm.yaml").write_text(f"{provider}api_key_file: {tmp_path}/none{aliases}")
    with pytest.raises(AliasConfigError, match=r"llm.yaml:4: providers\.c\.api_key_file: .*/none: No such file"):
        Registry(tmp_path / "llm.yaml", environment={})
