"""What a client's storage reports as changed, and how it writes such a report into a record.

Both follow the browser database library Dexie (`getObjectDiff`, `setByKeyPath`), which the clients are built on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from projector.fold.values import is_falsy


class _Removed:
    __slots__ = ()

    def __repr__(self) -> str:
        return "REMOVED"


REMOVED: Final = _Removed()
"""Value of a key that is there no more; it travels as null."""


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key → new value (or REMOVED) for everything that differs.

    Only objects on both sides are entered. Two arrays always differ, because clients compare them by identity: so
    every array that was there before rides along in every report, at any depth of objects.
    """
    found: dict[str, Any] = {}
    _collect(before, after, "", found)
    return found


def write_through(record: dict[str, Any], key: str, value: Any) -> None:
    """Writes one dotted key into a record; REMOVED takes the property away.

    Missing, null and otherwise falsy heads become objects. A truthy head that is no object swallows the write (an
    array would take it as a property, which no JSON shows). A key with an empty segment is one literal name.
    """
    segments = key.split(".")
    if not all(segments):
        segments = [key]
    inner = record
    for segment in segments[:-1]:
        below = inner.get(segment)
        if not isinstance(below, dict):
            if not is_falsy(below):
                return
            below = inner[segment] = {}
        inner = below
    if value is REMOVED:
        inner.pop(segments[-1], None)
    else:
        inner[segments[-1]] = value


def _collect(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str, found: dict[str, Any]) -> None:
    for name, old in before.items():
        if name not in after:
            found[prefix + name] = REMOVED
            continue
        new = after[name]
        if isinstance(old, dict) and isinstance(new, dict):
            _collect(old, new, f"{prefix}{name}.", found)
        elif _differs(old, new):
            found[prefix + name] = new
    for name, new in after.items():
        if name not in before:
            found[prefix + name] = new


def _differs(old: Any, new: Any) -> bool:
    if isinstance(old, list | dict) or isinstance(new, list | dict):
        return True
    # 1 and 1.0 are one number there, true and 1 are two values.
    return isinstance(old, bool) is not isinstance(new, bool) or bool(old != new)
