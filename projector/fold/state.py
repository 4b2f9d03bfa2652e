"""The mergeable state of one record, and what one change does to it.

Every part of the state grows by maximum alone, so the order in which changes arrive, their repetition and the way
they are batched leave no trace in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from projector.fold.counters import Counters
from projector.fold.deletes import settle
from projector.fold.grants import GRANT, GrantRegister, join, observe
from projector.fold.paths import DELETED_AT, Path, insert_path, update_path
from projector.fold.stamps import FUTURE_TOLERANCE_US, NO_INSTANT, Order, Write, parse_instant

_UNSEEN = object()
_new = tuple.__new__
"""Makes a Write or an Order in half the time that its own constructor takes; each change makes several."""


class ChangeLike(Protocol):
    """What the fold reads of a row of the log. Its data is given away: nobody may alter it afterwards."""

    @property
    def id(self) -> str: ...
    @property
    def op(self) -> str: ...
    @property
    def data(self) -> dict[str, Any]: ...
    @property
    def data_is_null(self) -> bool: ...
    @property
    def field_meta(self) -> dict[str, Any]: ...
    @property
    def created_at_us(self) -> int: ...
    @property
    def space_id(self) -> str | None: ...


class State:
    """All that is known of one record. Values in it are shared with the changes they came from, and never altered."""

    __slots__ = ("complete", "deep", "early", "first", "grant", "insert", "newest_us", "space", "tombstone", "writes")

    def __init__(self) -> None:
        self.writes: dict[Path, Write] = {}
        """For each path the write with the largest stamp."""
        self.insert: Order | None = None
        """The latest insert."""
        self.first: Order | None = None
        """The earliest row that makes the record on a device: an insert, or an update with a stamp."""
        self.early: tuple[Write, ...] = ()
        """Deletes before `first`: devices pass over them. Those that could still win, the largest stamp last."""
        self.tombstone: Order | None = None
        """The latest delete that named no `deletedAt`."""
        self.complete = False
        """Whether an insert with data was seen: without one the record is known by updates alone."""
        self.newest_us: int | None = None
        """The largest `created_at` applied."""
        self.space: tuple[Order, str] | None = None
        """The space named by the latest row that named one: carried, never identity and never authority."""
        self.grant: GrantRegister | None = None
        self.deep = False
        """Whether some path has more than one segment; follows from `writes`."""

    def all_writes(self) -> dict[Path, Write]:
        """`writes` as if no delete had been passed over: of one row alone, all that it writes."""
        return {**self.writes, DELETED_AT: self.early[-1]} if self.early else self.writes

    def newest_instant(self, paths: Iterable[Path]) -> int | None:
        """The largest instant written to any of `paths`, for a writer that has to beat it."""
        instants = [self.writes[path].instant for path in paths if path in self.writes]
        newest = max(instants, default=NO_INSTANT)
        return None if newest == NO_INSTANT else newest


def apply(state: State, change: ChangeLike, counters: Counters | None = None) -> bool:
    """Takes one change of the record in; True when the state is another one now.

    Raises ValueError for an unknown `op`.
    """
    if counters is None:
        counters = Counters()
    counters.changes += 1
    if change.data_is_null:
        counters.null_data += 1
    op = change.op
    if op == "update":
        changed = _apply_update(state, change, counters)
    elif op == "insert":
        changed = _apply_insert(state, change, counters)
    elif op == "delete":
        changed = _apply_delete(state, change, counters)
    else:
        raise ValueError(f"op of change {change.id} is {op!r}")
    created_us = change.created_at_us
    if state.first is None or created_us <= state.first.created_us:
        changed |= _begin(state, change)
    if state.early:
        changed |= _settle(state, state.early)
    if state.newest_us is None or created_us > state.newest_us:
        state.newest_us = created_us
        changed = True
    if change.space_id is not None and (state.space is None or created_us >= state.space[0][0]):
        space = (_new(Order, (created_us, change.id)), change.space_id)
        if state.space is None or space > state.space:
            state.space = space
            changed = True
    return changed


def fold(changes: Iterable[ChangeLike], counters: Counters | None = None) -> State:
    """The state after `changes` of one record, in whatever order they come."""
    state = State()
    for change in changes:
        apply(state, change, counters)
    return state


def merge(one: State, other: State) -> State:
    """A new state that knows what both know; neither is altered."""
    merged = State()
    merged.writes = dict(one.writes)
    for path, write in other.writes.items():
        _put(merged, path, write)
    merged.insert = _later(one.insert, other.insert)
    merged.first = min((first for first in (one.first, other.first) if first is not None), default=None)
    if one.early or other.early:
        _settle(merged, (*one.early, *other.early))
    merged.tombstone = _later(one.tombstone, other.tombstone)
    merged.complete = one.complete or other.complete
    if one.newest_us is None or other.newest_us is None:
        merged.newest_us = other.newest_us if one.newest_us is None else one.newest_us
    else:
        merged.newest_us = max(one.newest_us, other.newest_us)
    if one.space is None or other.space is None:
        merged.space = one.space or other.space
    else:
        merged.space = max(one.space, other.space)
    merged.grant = join(one.grant, other.grant)
    merged.deep = one.deep or other.deep
    return merged


def _apply_update(state: State, change: ChangeLike, counters: Counters) -> bool:
    created_us, change_id, meta, writes = change.created_at_us, change.id, change.field_meta, state.writes
    changed = False
    grant_writes: list[tuple[Path, Write]] = []
    # One row has one stamp for all its keys, as a rule: it is parsed once.
    last_slot: object = _UNSEEN
    instant = NO_INSTANT
    is_ordinary = True
    for key, value in change.data.items():
        path = update_path(key)
        if path is None:
            counters.stripped_keys += 1
            continue
        slot = meta.get(key)
        if slot != last_slot:
            last_slot = slot
            instant = _instant_of(slot, counters)
            is_ordinary = NO_INSTANT < instant <= created_us + FUTURE_TOLERANCE_US
        if not is_ordinary:
            if instant == NO_INSTANT:
                counters.unstamped_keys += 1
            else:
                counters.future_stamps += 1
        known = writes.get(path)
        if known is None or instant >= known[0]:
            write = _new(Write, (instant, created_us, change_id, value))
            if known is None or instant > known[0] or write.beats(known):
                writes[path] = write
                changed = True
                if len(path) > 1:
                    state.deep = True
        if path[0] == GRANT:
            grant_writes.append((path, Write(instant, created_us, change_id, value)))
    if grant_writes:
        changed |= _observe_grant(state, grant_writes)
    return changed


def _apply_insert(state: State, change: ChangeLike, counters: Counters) -> bool:
    created_us, change_id, meta, data = change.created_at_us, change.id, change.field_meta, change.data
    changed = False
    order = Order(created_us, change_id)
    if state.insert is None or order > state.insert:
        state.insert = order
        changed = True
    if not change.data_is_null and not state.complete:
        state.complete = True
        changed = True
    row_instant = _instant_of(data.get("updatedAt"), counters)
    if row_instant == NO_INSTANT:
        row_instant = _instant_of(data.get("createdAt"), counters)
    for key, value in data.items():
        path = insert_path(key)
        if path is None:
            continue
        instant = _instant_of(meta[key], counters) if key in meta else NO_INSTANT
        if instant == NO_INSTANT:
            instant = row_instant
        if instant > created_us + FUTURE_TOLERANCE_US:
            counters.future_stamps += 1
        write = _new(Write, (instant, created_us, change_id, value))
        changed |= _put(state, path, write)
        if key == GRANT:
            changed |= _observe_grant(state, [(path, write)])
    return changed


def _apply_delete(state: State, change: ChangeLike, counters: Counters) -> bool:
    deleted_at = change.data.get("deletedAt")
    if isinstance(deleted_at, str) and deleted_at:
        instant = _instant_of(deleted_at, counters)
        if instant > change.created_at_us + FUTURE_TOLERANCE_US:
            counters.future_stamps += 1
        return _settle(state, (*state.early, Write(instant, change.created_at_us, change.id, deleted_at)))
    order = Order(change.created_at_us, change.id)
    if state.tombstone is None or order > state.tombstone:
        state.tombstone = order
        return True
    return False


def _begin(state: State, change: ChangeLike) -> bool:
    """Takes the change as the one that made the record, if it did."""
    if change.op == "delete" or (change.op == "update" and change.data.keys().isdisjoint(change.field_meta)):
        return False
    order = _new(Order, (change.created_at_us, change.id))
    if state.first is not None and order >= state.first:
        return False
    state.first = order
    return True


def _settle(state: State, deletes: Iterable[Write]) -> bool:
    known = state.writes.get(DELETED_AT)
    winner, early = settle(state.first, known, deletes)
    if winner is known and early == state.early:
        return False
    if winner is not None:
        state.writes[DELETED_AT] = winner
    state.early = early
    return True


def _put(state: State, path: Path, write: Write) -> bool:
    known = state.writes.get(path)
    if known is not None and not write.beats(known):
        return False
    state.writes[path] = write
    if len(path) > 1:
        state.deep = True
    return True


def _observe_grant(state: State, writes: list[tuple[Path, Write]]) -> bool:
    register = observe(state.grant, writes)
    if register is state.grant:
        return False
    state.grant = register
    return True


def _instant_of(slot: object, counters: Counters) -> int:
    """The instant that a slot of `field_meta` holds: a text, or an object with a text `at`."""
    text = slot.get("at", "") if isinstance(slot, dict) else slot
    if text is None or text == "":
        return NO_INSTANT
    instant = parse_instant(text) if isinstance(text, str) else None
    if instant is None:
        counters.invalid_stamps += 1
        return NO_INSTANT
    return instant


def _later(one: Order | None, other: Order | None) -> Order | None:
    if one is None or other is None:
        return other if one is None else one
    return max(one, other)
