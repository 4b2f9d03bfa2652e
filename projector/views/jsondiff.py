"""Where two JSON values first part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

JsonPath = tuple[str | int, ...]
ABSENT = "(absent)"


class Absent:
    """Stands for a key that one side does not have."""


absent = Absent()


@dataclass(frozen=True, slots=True)
class Found:
    """The place, and what stands there on both sides; `absent` where one side has nothing."""

    path: JsonPath
    serving: Any
    log: Any

    @property
    def names(self) -> tuple[str, ...]:
        """The path up to the first array."""
        names: list[str] = []
        for part in self.path:
            if not isinstance(part, str):
                break
            names.append(part)
        return tuple(names)


def first_difference(serving: Any, log: Any, path: JsonPath = ()) -> Found | None:
    """Where two JSON values first part; numbers are doubles, as on devices."""
    return next(differences(serving, log, path), None)


def differences(serving: Any, log: Any, path: JsonPath = ()) -> Iterator[Found]:
    """Every place at which they part."""
    if isinstance(serving, dict) and isinstance(log, dict):
        for name in sorted(serving.keys() | log.keys()):
            yield from differences(serving.get(name, absent), log.get(name, absent), (*path, name))
    elif isinstance(serving, list) and isinstance(log, list):
        for index, (one, other) in enumerate(zip_longest(serving, log, fillvalue=absent)):
            yield from differences(one, other, (*path, index))
    elif serving != log or isinstance(serving, bool) != isinstance(log, bool):
        yield Found(path, serving, log)


def show_path(path: JsonPath) -> str:
    """`record.cadence.atHour`, `record.iterations[2].id`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
