"""Why a record looks as it does: for each path the write that won, and what it beat. Pure.

The rules are those of `projector.fold` and are asked there: a change that is folded alone tells what it writes, and the
derived record tells what is shown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from projector.fold import (
    Order,
    Path,
    Record,
    State,
    Write,
    apply,
    derive,
    fold,
    passed_over,
    replaced_by,
    standing_tombstone,
)
from projector.fold.paths import DELETED_AT
from projector.log.change import Change
from projector.log.place import Place

BEATEN = 5
"""Losing writes of a path that are listed; the rest is counted."""
LISTED = 20
"""The same of unstamped writes."""

Status = Literal["shown", "replaced", "swallowed"]
Whence = Literal["topic", "before the topic's beginning", "not in the topic yet"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A change with where it was found; `place` and `offset` are None for one that sync_changes alone holds.

    `at_us` is the commit time, or `created_at` where that is all there is: of filled changes, and of those without a
    place. In µs since the epoch.
    """

    change: Change
    at_us: int
    place: Place | None = None
    offset: int | None = None
    filled: bool = False
    whence: Whence = "topic"


class Beaten(NamedTuple):
    """A write that another one of the same path beat."""

    write: Write
    entry: Entry


@dataclass(frozen=True, slots=True)
class Field:
    """One path of the record.

    `status` is "shown"; "replaced" by a write of the ancestor `by`, which came no earlier; or "swallowed" by the value
    of the ancestor `by`, which is no object. `shown` is what the record shows there, with all that later children wrote
    into it, and None where nothing is shown. `beaten` has the largest stamp first.
    """

    path: Path
    write: Write
    entry: Entry
    status: Status
    by: Path | None
    shown: Any
    beaten: tuple[Beaten, ...]
    beaten_more: int


@dataclass(frozen=True, slots=True)
class Grant:
    """The effective grant: `issue` wrote or took away the wrapped key, `later` may have shortened it since."""

    effective: dict[str, Any] | None
    issue: Entry | None
    later: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """`fields` in order of their paths. `insert` and `tombstone` are the latest of their kind.

    `passed_over` are the deletes, of both kinds, that the log has before `made`, the row that made the record: as on a
    device, they do not count. While nothing made it, `deleted_by` is the delete that does.

    `unstamped` are the losing writes that carried no instant, newest row first: each lost against any stamped one.
    """

    state: State
    record: Record
    fields: tuple[Field, ...]
    insert: Entry | None
    tombstone: Entry | None
    tombstone_stands: bool
    made: Entry | None
    passed_over: tuple[Entry, ...]
    deleted_by: Entry | None
    grant: Grant | None
    space: Entry | None
    unstamped: tuple[tuple[Path, Beaten], ...]
    unstamped_more: int
    restored: bool
    """Whether it was deleted once, outright or by a time, and is shown again."""


def explain(entries: Iterable[Entry], *, keep: int = BEATEN) -> Explanation:
    """The fold of the changes of one record, taken apart; each change counts once, as it is found first."""
    by_id: dict[str, Entry] = {}
    state = State()
    written: dict[Path, list[Beaten]] = defaultdict(list)
    for entry in entries:
        if by_id.setdefault(entry.change.id, entry) is not entry:
            continue
        apply(state, entry.change)
    over = [one for one in by_id.values() if one.change.op == "delete" and passed_over(state, _order(one.change))]
    for entry in by_id.values():
        alone = fold([entry.change])
        counts = state.first is not None and entry not in over
        for path, write in (alone.all_writes() if counts else alone.writes).items():
            written[path].append(Beaten(write, entry))
    record = derive(state)
    for every in written.values():
        every.sort(key=lambda one: one.write[:3], reverse=True)
    unstamped = sorted(
        ((path, one) for path, every in written.items() for one in every[1:] if not one.write.stamped),
        key=lambda found: (found[1].write.order, found[0]),
        reverse=True,
    )
    return Explanation(
        state=state,
        record=record,
        fields=tuple(_field(state, record, path, written[path], by_id, keep) for path in sorted(state.writes)),
        insert=None if state.insert is None else by_id[state.insert.change_id],
        tombstone=None if state.tombstone is None else by_id[state.tombstone.change_id],
        tombstone_stands=standing_tombstone(state) is not None,
        made=None if state.first is None else by_id[state.first.change_id],
        passed_over=tuple(sorted(over, key=lambda one: _order(one.change))),
        deleted_by=by_id[state.early[-1].change_id] if state.first is None and state.early else None,
        grant=_grant(state, record, by_id),
        space=None if state.space is None else by_id[state.space[0].change_id],
        unstamped=tuple(unstamped[:LISTED]),
        unstamped_more=max(0, len(unstamped) - LISTED),
        restored=not record.deleted and _was_deleted(state, written),
    )


def _field(
    state: State, record: Record, path: Path, written: Sequence[Beaten], by_id: dict[str, Entry], keep: int
) -> Field:
    winner = state.writes[path]
    beaten = [one for one in written if one.write.change_id != winner.change_id]
    status: Status = "shown"
    shown = None
    by = replaced_by(state.writes, path)
    if by is not None:
        status = "replaced"
    else:
        by, shown = _walk(record.fields, path)
        if by is not None:
            status = "swallowed"
    entry = by_id[winner.change_id]
    more = max(0, len(beaten) - keep)
    return Field(path, winner, entry, status, by, shown, tuple(beaten[:keep]), more)


def _walk(fields: dict[str, Any], path: Path) -> tuple[Path | None, Any]:
    """What stands at `path`; or the ancestor that is no object, and so keeps the path from being shown."""
    value: Any = fields
    for depth, segment in enumerate(path):
        if not isinstance(value, dict):
            return path[:depth], None
        value = value[segment]
    return None, value


def _grant(state: State, record: Record, by_id: dict[str, Entry]) -> Grant | None:
    register = state.grant
    if register is None:
        return None
    return Grant(
        record.grant,
        None if register.issue is None else by_id[register.issue.change_id],
        tuple(by_id[late.change_id] for late in register.later),
    )


def _was_deleted(state: State, written: dict[Path, list[Beaten]]) -> bool:
    times = (one.write.value for one in written.get(DELETED_AT, ()))
    if state.tombstone is not None and not passed_over(state, state.tombstone):
        return True
    return any(isinstance(value, str) and value for value in times)


def _order(change: Change) -> Order:
    return Order(change.created_at_us, change.id)
