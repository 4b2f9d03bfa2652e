"""The record that a state shows: derived anew each time, never stored back."""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from projector.fold.grants import effective_grant
from projector.fold.paths import DELETED_AT, Path
from projector.fold.stamps import NO_INSTANT, Order, Write, parse_instant
from projector.fold.state import State
from projector.fold.values import copy_json, is_falsy

_INSTANT = itemgetter(0)


@dataclass(frozen=True, slots=True)
class Record:
    """What devices show of one record. Instants are microseconds since the Unix epoch, UTC."""

    fields: dict[str, Any]
    """Without identity and `updatedAt`; kept as they are under a deletion."""
    deleted: bool
    deleted_at_us: int | None
    """Set exactly when deleted: the value of `deletedAt`, or the time of the row that deleted."""
    complete: bool
    """False while the record is known by updates alone."""
    updated_at_us: int | None
    """The largest stamp of a write; None when none was stamped."""
    grant: dict[str, Any] | None
    """The effective grant, which may be narrower than `fields["grant"]` and never wider."""
    space_id: str | None


def derive(state: State, *, share: bool = False) -> Record:
    """The record shown. With `share` its values belong to the state: read them, do not alter them."""
    fields = _show_tree(state.writes) if state.deep else {path[0]: write.value for path, write in state.writes.items()}
    deleted_at_us = _deleted_at(state, fields)
    newest = max(state.writes.values(), key=_INSTANT)[0] if state.writes else NO_INSTANT
    return Record(
        fields=fields if share else copy_json(fields),
        deleted=deleted_at_us is not None,
        deleted_at_us=deleted_at_us,
        complete=state.complete,
        updated_at_us=None if newest == NO_INSTANT else newest,
        grant=effective_grant(state.grant, state.writes),
        space_id=None if state.space is None else state.space[1],
    )


def replaced_by(writes: dict[Path, Write], path: Path) -> Path | None:
    """The ancestor whose winning write came no earlier than that of `path`, and therefore hides it."""
    order = writes[path][1:3]
    for depth in range(1, len(path)):
        ancestor = writes.get(path[:depth])
        if ancestor is not None and ancestor[1:3] >= order:
            return path[:depth]
    return None


def _show_tree(writes: dict[Path, Write]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    nested: list[Path] = []
    for path, write in writes.items():
        if len(path) == 1:
            fields[path[0]] = write.value
        else:
            nested.append(path)
    # Objects belong to the state until a child is written into them: then they are copied, once and one level.
    own: set[int] = {id(fields)}
    keep: list[dict[str, Any]] = []
    for path in sorted(nested, key=len):
        if replaced_by(writes, path) is None:
            _show(fields, path, writes[path].value, own, keep)
    return fields


def _show(fields: dict[str, Any], path: Path, value: Any, own: set[int], keep: list[dict[str, Any]]) -> None:
    inner = fields
    for segment in path[:-1]:
        below = inner.get(segment)
        if isinstance(below, dict):
            if id(below) not in own:
                below = inner[segment] = dict(below)
                own.add(id(below))
                keep.append(below)
        elif is_falsy(below):
            below = inner[segment] = {}
            own.add(id(below))
            keep.append(below)
        else:
            return
        inner = below
    inner[path[-1]] = value


def standing_tombstone(state: State) -> Order | None:
    """The tombstone that no later insert has undone, and that the record was there for."""
    tombstone = state.tombstone
    if tombstone is None or (state.insert is not None and state.insert >= tombstone) or passed_over(state, tombstone):
        return None
    return tombstone


def passed_over(state: State, delete: Order) -> bool:
    """Whether the delete came before the row that made the record; while nothing made it, its deletes count."""
    return state.first is not None and delete < state.first


def _deleted_at(state: State, fields: dict[str, Any]) -> int | None:
    tombstone = standing_tombstone(state)
    if tombstone is not None:
        return tombstone.created_us
    if state.first is None and state.early:
        newest = state.early[-1]
        return newest.created_us if newest.instant == NO_INSTANT else newest.instant
    text = fields.get("deletedAt")
    if not isinstance(text, str) or not text:
        return None
    instant = parse_instant(text)
    return state.writes[DELETED_AT].created_us if instant is None else instant
