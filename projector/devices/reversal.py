"""The reversal of what an iteration did: each field that is still its write goes back to what it would be without.

Which fields those are is asked of the log, by the fold. Arrays ride along with every update, so a later row that
repeats the iteration's array has not changed it, and an array that the iteration repeated was not written by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from projector.devices.difference import REMOVED
from projector.devices.effects import effects
from projector.devices.replica import Key
from projector.fold import Order, Path, Write, derive, fold, replaced_by, standing_tombstone
from projector.fold.items import canonical
from projector.fold.paths import DELETED_AT, insert_path, update_path
from projector.log.change import Change

# Written once by the creating device; no edit reaches them.
_FIXED = frozenset({"spaceId", "authorId"})
_OWN_ROW: Final = "deleted outright, without a time: no edit brings it back"
_ODD_NAME: Final = "a name that no edit can write"


@dataclass(frozen=True, slots=True)
class Undo:
    """What to write to one record. `present`: path → value that it shows as long as nobody has changed it since."""

    key: Key
    delete: bool
    fields: dict[Path, Any]
    """Path → former value, or REMOVED. Empty when the record, which the iteration created, is deleted."""
    present: dict[Path, Any]


@dataclass(frozen=True, slots=True)
class Reversal:
    """`undos` come with the last written record first. Fields in `changed_since` stay as they are."""

    records: int
    """How many records the iteration wrote to."""
    undos: tuple[Undo, ...]
    changed_since: tuple[tuple[Key, Path], ...]
    unsupported: tuple[tuple[Key, str], ...]


def reversal(changes: Iterable[Change], mission_id: str, iteration_id: str) -> Reversal:
    """What has to be written to take back an iteration, given all rows of the records that it wrote to.

    After that is written and in `changes`, there is nothing left to write. Raises ValueError for rows of several
    users.
    """
    rows = list(changes)
    if len({row.user_id for row in rows}) > 1:
        raise ValueError("a reversal is of one user's rows")
    ours = {
        change.id
        for change, actor in effects(rows)
        if (actor.mission_id, actor.iteration_id) == (mission_id, iteration_id)
    }
    grouped: dict[Key, list[Change]] = {}
    for row in sorted(rows, key=_order):
        grouped.setdefault(Key(row.app_id, row.table, row.record_id), []).append(row)
    written = {key: of_key for key, of_key in grouped.items() if any(row.id in ours for row in of_key)}
    newest_first = sorted(
        written, key=lambda key: max(_order(row) for row in written[key] if row.id in ours), reverse=True
    )
    records = [_Record(key, written[key], ours) for key in newest_first]
    undos = [undo for undo in (record.undo() for record in records) if undo is not None]
    return Reversal(
        len(records),
        tuple(undos),
        tuple((record.key, path) for record in records for path in sorted(record.changed_since)),
        tuple((record.key, reason) for record in records for reason in sorted(record.unsupported)),
    )


class _Record:
    """One record that the iteration wrote to. `undo` also fills the two sets."""

    def __init__(self, key: Key, rows: list[Change], ours: set[str]) -> None:
        self.key = key
        self.changed_since: set[Path] = set()
        self.unsupported: set[str] = set()
        self._ours = ours
        self._brought = _bringers(rows)
        own = [row for row in rows if row.id in ours]
        first = _order(own[0])
        self._own = fold(self._intended(row) for row in own)
        self._without = fold(self._intended(row) for row in rows if row.id not in ours)
        self._before = derive(fold(row for row in rows if _order(row) < first)).fields
        self._state = fold(rows)
        shown = derive(self._state)
        self._now, self._deleted = shown.fields, shown.deleted
        self._shown = {path: write for path, write in self._state.writes.items() if self._shows(path)}
        self._created = self._own.insert is not None and self._without.insert is None

    def undo(self) -> Undo | None:
        tombstone = standing_tombstone(self._state)
        if tombstone is not None:
            if tombstone.change_id in self._ours:
                self.unsupported.add(_OWN_ROW)
            return None
        return self._undo_creation() if self._created else self._undo_fields()

    def _undo_creation(self) -> Undo | None:
        if self._deleted:
            return None
        others = {path for path, write in self._shown.items() if not self._is_ours(path, write)}
        if others:
            # Somebody works with it: taking it away would take their work along.
            self.changed_since |= others
            return None
        present: dict[Path, Any] = {(name,): value for name, value in self._now.items() if name not in _FIXED}
        return Undo(self.key, True, {}, present)

    def _undo_fields(self) -> Undo | None:
        fields, present = {}, {}
        wanted = derive(self._without).fields
        for path, value, former in _differences(self._now, wanted):
            if path[0] in _FIXED:
                continue
            if not self._is_untouched(path):
                self.changed_since.add(path)
            elif any(not segment or "." in segment for segment in path):
                self.unsupported.add(_ODD_NAME)
            else:
                fields[path] = former
                present[path] = value
        for path, write in self._own.all_writes().items():
            known = self._shown.get(path)
            overwritten = known is None or not self._is_ours(path, known)
            former, now = _value(self._before, path), _value(self._now, path)
            if overwritten and not _same(write.value, former) and not _same(now, former):
                self.changed_since.add(path)
        return Undo(self.key, False, fields, present) if fields else None

    def _is_untouched(self, path: Path) -> bool:
        """Whether all that shows at `path` and below was written by the iteration."""
        above = [(written, write) for written, write in self._shown.items() if path[: len(written)] == written]
        below = [
            (written, write)
            for written, write in self._shown.items()
            if written[: len(path)] == path and written != path
        ]
        nearest = max(above, key=lambda found: len(found[0]), default=None)
        return all(self._is_ours(*found) for found in ([nearest] if nearest else []) + below)

    def _shows(self, path: Path) -> bool:
        inside = len(path) == 1 or isinstance(_value(self._now, path[:-1]), dict)
        return inside and replaced_by(self._state.writes, path) is None

    def _is_ours(self, path: Path, write: Write) -> bool:
        return self._brought.get((write.change_id, path), write.change_id) in self._ours

    def _intended(self, row: Change) -> Change:
        """The row without arrays that it only repeats, where the iteration repeats others or they the iteration."""
        named = insert_path if row.op == "insert" else update_path
        kept = {}
        for key, value in row.data.items():
            path = named(key)
            bringer = row.id if path is None else self._brought.get((row.id, path), row.id)
            if (bringer in self._ours) == (row.id in self._ours):
                kept[key] = value
        return replace(row, data=kept)


def _bringers(rows: Iterable[Change]) -> dict[tuple[str, Path], str]:
    """(row, path) → the row that brought the value: for an array that is written again unaltered, an earlier one."""
    brought: dict[tuple[str, Path], str] = {}
    last: dict[Path, tuple[str, str]] = {}
    for row in rows:
        for path, write in fold([row]).all_writes().items():
            value = canonical(write.value)
            known = last.get(path)
            repeated = known is not None and isinstance(write.value, list) and known[0] == value
            bringer = known[1] if known is not None and repeated else row.id
            last[path] = (value, bringer)
            brought[row.id, path] = bringer
    return brought


def _differences(
    now: Mapping[str, Any], wanted: Mapping[str, Any], above: Path = ()
) -> Iterator[tuple[Path, Any, Any]]:
    """(path, present value, wanted value or REMOVED), objects entered where both sides have one; null is missing."""
    for name in [*now, *(name for name in wanted if name not in now)]:
        one, other = now.get(name), wanted.get(name)
        path = (*above, name)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _differences(one, other, path)
        elif not _same(one, other):
            # A deletion is undone as people undo it, with a null.
            yield path, one, REMOVED if other is None and path != DELETED_AT else other


def _value(record: Mapping[str, Any], path: Path) -> Any:
    value: Any = record
    for segment in path:
        value = value.get(segment) if isinstance(value, dict) else None
    return value


def _same(one: Any, other: Any) -> bool:
    return canonical(one) == canonical(other)


def _order(row: Change) -> Order:
    return Order(row.created_at_us, row.id)
