"""Where two JSON values first part."""

from __future__ import annotations

from dataclasses import dataclass
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
    if isinstance(serving, dict) and isinstance(log, dict):
        for name in sorted(serving.keys() | log.keys()):
            found = first_difference(serving.get(name, absent), log.get(name, absent), (*path, name))
            if found is not None:
                return found
        return None
    if isinstance(serving, list) and isinstance(log, list):
        for index in range(max(len(serving), len(log))):
            one = serving[index] if index < len(serving) else absent
            other = log[index] if index < len(log) else absent
            found = first_difference(one, other, (*path, index))
            if found is not None:
                return found
        return None
    if serving == log and isinstance(serving, bool) == isinstance(log, bool):
        return None
    return Found(path, serving, log)


def show_path(path: JsonPath) -> str:
    """`record.cadence.atHour`, `record.iterations[2].id`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
