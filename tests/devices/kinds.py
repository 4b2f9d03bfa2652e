"""What differs between a row and what a new device of the author shows, path by path, and why.

A few kinds are allowed. A difference counts as one of them only when its cause, taken away, makes both equal there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from projector.devices import Key, Replica, comparable
from projector.fold import Record, derive, fold
from projector.log.change import Change
from tests.devices.fleet import History, made

LITERAL = "a: literal dotted keys of a record whose insert came after updates"
FORGOTTEN = "b: fields that devices forgot at a tombstone"
FOREIGN = "c: changes of other members of a space"
KINDS = (LITERAL, FORGOTTEN, FOREIGN)

Path = tuple[str, ...]
_MISSING = object()


def differences(history: History, shown: Callable[[Key], Mapping[str, Any] | None]) -> Counter[str]:
    """Counts of paths by kind, over all records of the author; `shown` gives a row's record, None when deleted.

    Raises AssertionError that names the first path of no kind.
    """
    counts: Counter[str] = Counter()
    everything = _new_device(history, history.changes)
    alone = _new_device(history, [change for change in history.changes if change.user_id == history.user_id])
    for key, rows in history.rows().items():
        ours, theirs = _flat(comparable(shown(key))), _flat(comparable(everything.get(key)))
        whole = () in ours and () in theirs
        for path in sorted(ours.keys() | theirs.keys()) if whole else [()]:
            if _same(path, ours, theirs):
                continue
            kind = _kind(path, ours, alone.get(key), everything.get(key), sorted(rows, key=_order))
            assert kind is not None, (history.user_id, key, path, ours.get(path), theirs.get(path))
            counts[kind] += 1
    return counts


def folded(history: History) -> Callable[[Key], dict[str, Any] | None]:
    """The rows as the fold has them."""
    rows = history.rows()
    return lambda key: _fields(derive(fold(rows[key])))


def _kind(
    path: Path,
    ours: dict[Path, Any],
    alone: dict[str, Any] | None,
    everything: dict[str, Any] | None,
    rows: list[Change],
) -> str | None:
    device = _flat(comparable(alone))
    if alone != everything and _same(path, device, ours):
        return FOREIGN
    known = made(rows)
    tombstones = [n for n, row in enumerate(known) if row.op == "delete" and not row.data.get("deletedAt")]
    if tombstones:
        known = made(known[tombstones[-1] + 1 :])
        kept = _flat(comparable(_fields(derive(fold(known))) if known else None))
        if _same(path, kept, device):
            return FORGOTTEN
    if known and known[0].op == "update" and _literal(path, alone):
        return FORGOTTEN if tombstones else LITERAL
    return None


def _same(path: Path, one: dict[Path, Any], other: dict[Path, Any]) -> bool:
    return bool(one.get(path, _MISSING) == other.get(path, _MISSING))


def _literal(path: Path, device: dict[str, Any] | None) -> bool:
    """Whether `path` is a dotted name that the device has, or what that name means."""
    names = {name for name in device or {} if "." in name}
    return any(".".join(path[:depth]) in names for depth in range(1, len(path) + 1))


def _new_device(history: History, changes: list[Change]) -> dict[Key, dict[str, Any]]:
    """Of the author, who pulls these rows: what the user and the members of the space wrote."""
    device = Replica(history.user_id)
    for change in sorted(changes, key=_order):
        device.apply(change)
    return device.records()


def _order(change: Change) -> tuple[int, str]:
    return change.created_at_us, change.id


def _fields(record: Record) -> dict[str, Any] | None:
    return None if record.deleted else record.fields


def _flat(value: Any, path: Path = ()) -> dict[Path, Any]:
    """Path → value of everything that is no object with members; a missing record has no path."""
    if value is None and path == ():
        return {}
    if not isinstance(value, dict) or (not value and path):
        return {path: value}
    found = {(): "a record"} if path == () else {}
    for name, item in value.items():
        found |= _flat(item, (*path, name))
    return found
