"""Which change of the log a row and the log part at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from projector.fold import Path, State, Write, fold, merge, standing_tombstone
from projector.fold.paths import DELETED_AT
from projector.fold.record import replaced_by
from projector.log.change import Change
from projector.views.jsondiff import first_difference

Why = Literal["not applied", "changed in the row", "not in the log"]
Folding = Callable[[Iterable[Change]], State]
"""What of some changes belongs to the state."""


@dataclass(frozen=True, slots=True)
class Parting:
    """`change_id` is the first change at which a row and the log part.

    `not applied`: the row lacks what the change wrote, and holds nothing that beats it. `changed in the row`: the row
    has something from this change that the change does not say. `not in the log`: the row names a change that is not
    there.
    """

    change_id: str
    why: Why


def contains(state: State, change: Change, folding: Folding = fold) -> bool:
    """Whether the state would be the same with this change applied once more."""
    once_more = merge(state, folding([change]))
    return _parts(once_more) == _parts(state) and once_more.grant == state.grant


def part(state: State | None, changes: Sequence[Change], path: Path = (), folding: Folding = fold) -> Parting | None:
    """Where the state of a row and the log's changes of the record, in the order of their topic, first part.

    `path` is what the row was found to show differently: it decides when the state agrees with every change, and what
    is derived from it does not. None when no change is to blame.
    """
    held = State() if state is None else state
    log = folding(changes)
    known = {change.id for change in changes}
    # What the row says wrongly comes first: a stamp that is too low also makes it look as if others were missing.
    for change in changes:
        if _contradicts(held, folding([change]), change.id):
            return Parting(change.id, "changed in the row")
    for place, write in _writes(held):
        if write.change_id not in known:
            for path_of, original in _writes(log):
                if path_of == place and original[:2] == write[:2] and same(original.value, write.value):
                    return changed(original.change_id)
            return Parting(write.change_id, "not in the log")
    for change in changes:
        if not contains(held, change, folding):
            return Parting(change.id, "changed in the row" if change.id in _named(held) else "not applied")
    strangers = sorted(_named(held) - known)
    if strangers:
        return Parting(strangers[0], "not in the log")
    derived_from = _derived_from(changes, log, path)
    return None if derived_from is None else changed(derived_from)


def changed(change_id: str) -> Parting:
    return Parting(change_id, "changed in the row")


def _parts(state: State) -> tuple[object, ...]:
    made = state.insert, state.first, state.tombstone, state.complete
    return state.writes, state.early, made, state.newest_us, state.space


def _writes(state: State) -> list[tuple[Path, Write]]:
    """Those that win, in order of their paths, and the deletes passed over."""
    return [*sorted(state.writes.items()), *((DELETED_AT, write) for write in state.early)]


def _named(state: State) -> set[str]:
    """The ids of the changes that the state says it has something from."""
    named = {write.change_id for _, write in _writes(state)}
    named |= {order.change_id for order in (state.insert, state.first, state.tombstone) if order is not None}
    if state.space is not None:
        named.add(state.space[0].change_id)
    if state.grant is not None:
        named |= {late.change_id for late in state.grant.later}
        if state.grant.issue is not None:
            named.add(state.grant.issue.change_id)
    return named


def _contradicts(state: State, own: State, change_id: str) -> bool:
    """Whether the state has something in the name of this change that is not in `own`, what the change says."""
    own_writes = own.all_writes()
    for path, write in _writes(state):
        if write.change_id == change_id:
            said = own_writes.get(path)
            if said is None or said[:3] != write[:3] or not same(said.value, write.value):
                return True
    for held, order in (
        (state.insert, own.insert),
        (state.first, own.first),
        (state.tombstone, own.tombstone),
        (None if state.space is None else state.space[0], None if own.space is None else own.space[0]),
    ):
        if held is not None and held.change_id == change_id and held != order:
            return True
    if state.space is not None and state.space[0].change_id == change_id and state.space != own.space:
        return True
    return _contradicts_grant(state, own, change_id)


def _contradicts_grant(state: State, own: State, change_id: str) -> bool:
    if state.grant is None:
        return False
    issue, later = (None, ()) if own.grant is None else own.grant
    held = state.grant.issue
    if held is not None and held.change_id == change_id and held != issue:
        return True
    return any(late.change_id == change_id and late not in later for late in state.grant.later)


def same(one: Any, other: Any) -> bool:
    return first_difference(one, other) is None


def _derived_from(changes: Sequence[Change], log: State, path: Path) -> str | None:
    """The change that decides what a right row would show at `path`."""
    match path:
        case ("record", *rest):
            return _winner(log, tuple(rest))
        case ("deleted" | "deleted_at", *_) if (tombstone := standing_tombstone(log)) is not None:
            return tombstone.change_id
        case ("deleted" | "deleted_at", *_) if log.first is None and log.early:
            return log.early[-1].change_id
        case ("deleted" | "deleted_at", *_):
            return _winner(log, DELETED_AT) or (None if log.insert is None else log.insert.change_id)
        case ("complete", *_):
            return next((one.id for one in changes if one.op == "insert" and not one.data_is_null), None)
        case ("last_applied_at", *_) | ("state", "n"):
            return max(changes, key=lambda one: (one.created_at_us, one.id)).id if changes else None
        case ("updated_at", *_) if log.writes:
            return max(log.writes.values(), key=lambda write: write[:3]).change_id
        case ("space_id", *_) if log.space is not None:
            return log.space[0].change_id
        case ("effective_grant", *_) if log.grant is not None and log.grant.issue is not None:
            return log.grant.issue.change_id
    return None


def _winner(log: State, path: Path) -> str | None:
    """The visible write at the path, at the nearest one above it, or at the first below it."""
    for depth in range(len(path), 0, -1):
        if path[:depth] in log.writes and replaced_by(log.writes, path[:depth]) is None:
            return log.writes[path[:depth]].change_id
    below: Iterable[Path] = sorted(known for known in log.writes if known[: len(path)] == path)
    return next((log.writes[known].change_id for known in below), None)
