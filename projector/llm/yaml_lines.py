"""YAML that knows on which line each value stands, so that an error can say where to look."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import yaml
from yaml.constructor import SafeConstructor

from projector.errors import AliasConfigError

LONGEST_FILE = 128 * 1024
"""Of bytes: reading costs much more than copying, and no file of aliases is nearly as long."""

T = TypeVar("T", bound=str)


def read_text(path: Path) -> str:
    """Raises AliasConfigError for a file that is longer than any, OSError and UnicodeDecodeError."""
    with path.open("rb") as file:
        data = file.read(LONGEST_FILE + 1)
    if len(data) > LONGEST_FILE:
        raise AliasConfigError(f"{path}: failed to parse: longer than {LONGEST_FILE} bytes")
    return data.decode("utf-8")


def read(text: str, file: str) -> Field:
    """The root of the file; raises AliasConfigError for what is no YAML. An empty file has a null as its root."""
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
    except RecursionError:
        raise AliasConfigError(f"{file}: failed to parse: nested too deep") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}:{mark.line + 1}" if mark is not None else file
        raise AliasConfigError(f"{where}: failed to parse: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise AliasConfigError(f"{file}: failed to parse: {' '.join(str(error).split())}") from None
    if node is None:
        node = yaml.ScalarNode("tag:yaml.org,2002:null", "", yaml.Mark(file, 0, 0, 0, None, 0))
    return Field(file, node, "")


class Field:
    """One value of the file. `path` is its key, dotted, as errors name it."""

    __slots__ = ("_node", "file", "path")

    def __init__(self, file: str, node: yaml.Node, path: str) -> None:
        self.file = file
        self._node = node
        self.path = path

    @property
    def line(self) -> int:
        """From 1."""
        return int(self._node.start_mark.line) + 1

    def fail(self, message: str) -> NoReturn:
        raise AliasConfigError(f"{self.file}:{self.line}: {self.path + ': ' if self.path else ''}{message}")

    @property
    def is_mapping(self) -> bool:
        return isinstance(self._node, yaml.MappingNode)

    def pairs(self) -> list[tuple[Field, Field]]:
        """Keys and values of a mapping in their order; a key that comes twice is an error."""
        assert isinstance(self._node, yaml.MappingNode)
        pairs: list[tuple[Field, Field]] = []
        seen: dict[object, int] = {}
        for key_node, value_node in self._node.value:
            key = Field(self.file, key_node, self.path)
            name = key.scalar()
            path = f"{self.path}.{name}" if self.path else str(name)
            key.path = path
            if (type(name), name) in seen:
                key.fail(f"comes twice: on line {seen[type(name), name]} and on line {key.line}")
            seen[type(name), name] = key.line
            pairs.append((key, Field(self.file, value_node, path)))
        return pairs

    def mapping(self, known: Collection[str], message: str = "must be a mapping") -> dict[str, Field]:
        """The values by key; a key that is not `known` is an error, unless it starts with `x-`."""
        if not self.is_mapping:
            self.fail(message)
        values = {}
        for key, value in self.pairs():
            name = key.scalar()
            if not isinstance(name, str):
                key.fail("keys must be strings")
            if name.startswith("x-"):
                continue
            if name not in known:
                key.fail(f"unknown key; known are {', '.join(sorted(known))}")
            values[name] = value
        return values

    def items(self, message: str = "must be a list") -> Iterator[Field]:
        """The entries of a list."""
        if not isinstance(self._node, yaml.SequenceNode):
            self.fail(message)
        for index, node in enumerate(self._node.value):
            yield Field(self.file, node, f"{self.path}[{index}]")

    def scalar(self) -> Any:
        """A string, number, boolean or None; a mapping or a list gives itself, which is none of them."""
        if not isinstance(self._node, yaml.ScalarNode):
            return self._node
        try:
            return SafeConstructor().construct_object(self._node)
        except (yaml.YAMLError, ValueError, OverflowError, LookupError, AttributeError, TypeError):
            # Anything at all, of a value under a tag that does not fit it.
            self.fail(f"failed to parse: {self._node.value[:40]!r} is no {self._node.tag.rpartition(':')[2]}")

    def text(self, message: str = "must be a string") -> str:
        """A string, trimmed, maybe empty."""
        value = self.scalar()
        if not isinstance(value, str):
            self.fail(message)
        return value.strip()

    def number(self, low: float, high: float) -> float:
        value = self.scalar()
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            self.fail(f"must be a number from {low:g} to {high:g}")
        return float(value)

    def whole(self, low: int, high: int) -> int:
        value = self.scalar()
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.fail(f"must be a whole number from {low} to {high}")
        return value

    def truth(self) -> bool:
        value = self.scalar()
        if not isinstance(value, bool):
            self.fail("must be true or false")
        return value

    def choice(self, choices: Collection[T]) -> T:
        value = self.scalar()
        if value not in choices:
            self.fail(f"must be one of {', '.join(sorted(choices))}")
        return cast("T", value)
