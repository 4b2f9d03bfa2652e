"""Finds models that are named in a tree although an alias should be: in Python, and in YAML, TOML and JSON."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

from projector.errors import AliasConfigError
from projector.llm.yaml_lines import read, read_text

VENDORS = frozenset(
    (
        *("ollama", "groq", "openrouter", "together", "google", "openai", "anthropic", "mistral", "mistralai"),
        *("deepseek", "cohere", "fireworks", "azure", "bedrock", "vertex", "xai", "perplexity", "meta-llama", "qwen"),
        *("x-ai", "nvidia", "cerebras", "moonshotai"),
    )
)
SUFFIXES = {".py", ".yaml", ".yml", ".toml", ".json"}
PASSED_OVER = {"node_modules", "dist", "build", "__pycache__", "site-packages"}
LONGEST_FILE = 4 * 1024 * 1024
UNREADABLE = "(cannot be read)"
"""What a file is said to hold of which nothing else can be said."""
LATER = "{}"
"""Stands for what an f-string puts before the part of a name."""
# Names that need no provider before them to be known.
_BARE = re.compile(
    r"(?:\{\}/)?(?:gpt-|claude-|gemini-|gemma-?\d|llama-?\d|qwen-?\d|qwen-\w|mistral-|mixtral-|deepseek-(?:v\d|r\d|chat|coder)"
    r"|grok-\d|o\d-(?:mini|pro|preview))[\w.:-]*$",
    re.IGNORECASE,
)
# Between the names of a list, and before the value of an option.
_DELIMITERS = re.compile(r"\s*[,;=]\s*")
_LITERAL = re.compile(r'"(?:[^"\\\n]|\\.)*"')


@dataclass(frozen=True, slots=True)
class Found:
    """One place that names a model; `line` counts from 1."""

    path: str
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Allowed:
    """Places that may: a pattern of paths and one of names, and why. `line` is that of the allow-list."""

    path: str
    name: str
    reason: str
    line: int


def read_allow_list(file: Path) -> list[Allowed]:
    """A YAML list of {path, name, reason}; `name` may be left out. Raises AliasConfigError."""
    try:
        root = read(read_text(file), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise AliasConfigError(f"{file}: {getattr(error, 'strerror', None) or 'not a text in UTF-8'}") from None
    allowed = []
    for item in root.items("must be a list of {path, name, reason}"):
        body = item.mapping({"path", "name", "reason"})
        for key in ("path", "reason"):
            if key not in body or not body[key].text():
                item.fail(f"must have a {key}")
        name = body["name"].text() if "name" in body else "*"
        allowed.append(Allowed(body["path"].text(), name, body["reason"].text(), item.line))
    return allowed


def judged(found: Iterable[Found], allowed: Collection[Allowed]) -> tuple[list[Found], list[Allowed]]:
    """What is found and not allowed, and what is allowed and not found."""
    unused = set(allowed)
    wrong = []
    for place in found:
        fitting = [
            entry for entry in allowed if fnmatchcase(place.path, entry.path) and fnmatchcase(place.text, entry.name)
        ]
        unused.difference_update(fitting)
        if not fitting:
            wrong.append(place)
    return wrong, sorted(unused, key=lambda entry: entry.line)


def scan(roots: Iterable[Path], providers: Collection[str] = (), *, base: Path | None = None) -> Iterator[Found]:
    """Everything below `roots`, or the files among them; paths are told relative to `base`."""
    pattern = _pattern(VENDORS | set(providers))
    for file in _files(roots):
        path = file.resolve()
        told = (
            path.relative_to(base.resolve()).as_posix() if base and path.is_relative_to(base.resolve()) else str(file)
        )
        for line, text in _strings(file):
            if text is UNREADABLE or any(pattern.match(part) or _BARE.match(part) for part in _parts(text)):
                yield Found(told, line, text[:100])


def _parts(text: str) -> list[str]:
    parts = _DELIMITERS.split(text)
    # With spaces in one of them it is a sentence.
    return [text] if any(" " in part for part in parts) else parts


def _pattern(providers: Collection[str]) -> re.Pattern[str]:
    names = "|".join(re.escape(name) for name in sorted(providers))
    # A whole name, or the beginning of one that is put together; no sentence, path of a file, or media type.
    return re.compile(rf"(?:{names})/(?:[\w.:@+-]+(?:/[\w.:@+-]+)*)?$", re.IGNORECASE)


def _files(roots: Iterable[Path]) -> Iterator[Path]:
    for root in roots:
        if root.is_file():
            if root.suffix in SUFFIXES:
                yield root
            continue
        for file in sorted(root.rglob("*")):
            inner = file.relative_to(root).parts[:-1]
            if file.suffix not in SUFFIXES or any(part in PASSED_OVER or part.startswith(".") for part in inner):
                continue
            if file.is_file():
                yield file


def _strings(file: Path) -> Iterator[tuple[int, str]]:
    """Keys and values of a file that are strings, with their lines; `UNREADABLE` when they cannot be had."""
    if file.stat().st_size > LONGEST_FILE:
        return iter([(1, UNREADABLE)])
    try:
        text = file.read_text("utf-8-sig")
        match file.suffix:
            case ".py":
                return iter(list(_python(ast.parse(text))))
            case ".yaml" | ".yml":
                return iter([pair for node in yaml.compose_all(text, yaml.SafeLoader) if node for pair in _yaml(node)])
            case ".toml":
                values = _values(tomllib.loads(text))
            case _:
                # Also of files with comments, which are no JSON.
                return iter(list(_literals(text)))
    except (OSError, SyntaxError, ValueError, yaml.YAMLError, RecursionError):
        return iter([(1, UNREADABLE)])
    return _placed(values, text)


def _placed(values: Iterable[str], text: str) -> Iterator[tuple[int, str]]:
    """Values in their order in the file, each with the line on which it comes next."""
    at, line = 0, 1
    for value in values:
        found = text.find(value, at)
        if found >= 0:
            line += text.count("\n", at, found)
            at = found
        yield line, value
        at, line = (at + len(value), line + value.count("\n")) if found >= 0 else (at, line)


def _literals(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        for literal in _LITERAL.findall(line):
            yield number, json.loads(literal, strict=False)


def _python(tree: ast.AST) -> Iterator[tuple[int, str]]:
    # The constants inside of an f-string come by themselves as well: only the first can begin a name, and only one that
    # begins with a slash can end it.
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values[1:]}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant):
            continue
        value = node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value
        if isinstance(value, str) and (id(node) not in inner or value.startswith("/")):
            yield node.lineno, LATER + value if id(node) in inner else value


def _yaml(node: yaml.Node) -> Iterator[tuple[int, str]]:
    if isinstance(node, yaml.ScalarNode):
        yield node.start_mark.line + 1, node.value
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _yaml(item)
    elif isinstance(node, yaml.MappingNode):
        for pair in node.value:
            for part in pair:
                yield from _yaml(part)


def _values(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _values(item)
    elif isinstance(value, list):
        for item in value:
            yield from _values(item)
