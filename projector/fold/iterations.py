"""The iterations of a mission, folded one by one from every array that was ever written to it.

The mission's record shows the newest array, as devices do; a device that had not pulled an iteration drops it from
there with its next edit. Here it stays. Same laws as the fold of records: no order, no repetition and no batching
leaves a trace.
"""

from __future__ import annotations

import marshal
from dataclasses import dataclass
from typing import Any

from projector.fold import record
from projector.fold.counters import Counters
from projector.fold.items import ITERATION, Item, join_all, named, read, show
from projector.fold.paths import DELETED_AT, Path
from projector.fold.record import Record
from projector.fold.stamps import NO_INSTANT, Order, Write, parse_instant
from projector.fold.state import ChangeLike, State, fold
from projector.fold.state import merge as merge_records

ITERATIONS: Path = ("iterations",)
MAX_ITERATIONS = 5000
"""Of one array, the last ones, far beyond what fits into a message. Of one mission, those whose ids sort first.

An id is the only thing of an iteration that no later row can change; its age is known by the rows that came so far. So
which ones a mission with more of them keeps says nothing about their age: a new one may be left out.
"""


class IterationsState:
    """All that is known of one mission's iterations."""

    __slots__ = ("items", "mission", "seen")

    def __init__(self) -> None:
        self.mission = State()
        """The mission's record, as far as the view shows it: its deletion, and the ids in the newest array."""
        self.items: dict[str, Item] = {}
        self.seen: dict[str, tuple[Order, int]] = {}
        """What was read of an id last, and in which row: nearly all that comes is a repetition. Not dumped."""

    @property
    def newest_us(self) -> int | None:
        """The largest `created_at` applied."""
        return self.mission.newest_us


@dataclass(frozen=True, slots=True)
class Iteration:
    """One iteration as it stands after all rows. Values of `fields` belong to the state: read them only."""

    fields: dict[str, Any]
    shown: bool
    """Whether the newest array has it, and so the devices."""
    brought_by: str
    """Id of the first change that carried it."""
    changed_by: str
    """Id of the change that brought the last of what `fields` holds; that repeated it does not count."""

    def to_json(self) -> dict[str, Any]:
        return {
            "iteration": self.fields,
            "shown": self.shown,
            "broughtBy": self.brought_by,
            "changedBy": self.changed_by,
        }


def apply(state: IterationsState, change: ChangeLike, counters: Counters | None = None) -> None:
    """Takes one change of the mission in. Raises ValueError for an unknown `op`."""
    if counters is None:
        counters = Counters()
    mission = fold([change], counters)
    write = mission.writes.pop(ITERATIONS, None)
    # Arrays are values: what a key below one says shows nowhere.
    counters.odd_arrays += sum(path[0] == ITERATIONS[0] for path in mission.writes)
    mission.writes = {path: kept for path, kept in mission.writes.items() if path[0] == DELETED_AT[0]}
    if write is not None:
        ids = None
        if isinstance(write.value, list):
            elements = named(write.value, MAX_ITERATIONS, counters)
            carried = _read_new(state, elements, write, counters)
            counters.cut_items += join_all(ITERATION, state.items, carried, MAX_ITERATIONS)
            ids = sorted(elements)
        else:
            counters.odd_arrays += 1
        mission.writes[ITERATIONS] = write._replace(value=ids)
    mission.grant = None
    mission.deep = any(len(path) > 1 for path in mission.writes)
    state.mission = merge_records(state.mission, mission)


def merge(one: IterationsState, other: IterationsState) -> IterationsState:
    """A new state that knows what both know; neither is altered."""
    merged = IterationsState()
    merged.mission = merge_records(one.mission, other.mission)
    for state in (one, other):
        join_all(ITERATION, merged.items, state.items, MAX_ITERATIONS)
    return merged


def derive(state: IterationsState) -> list[Iteration]:
    """By `startedAt`, those without one first, then by id."""
    write = state.mission.writes.get(ITERATIONS)
    in_array = set(write.value or ()) if write is not None else set()
    found = []
    for key, item in state.items.items():
        fields, changed = show(ITERATION, key, item)
        found.append(Iteration(fields, key in in_array, item.brought.change_id, changed.change_id))
    return sorted(found, key=_place)


def as_record(state: IterationsState) -> Record:
    """All of them as the one record `{"iterations": [...]}`, deleted and complete as the mission is."""
    mission = record.derive(state.mission, share=True)
    return Record(
        fields={"iterations": [iteration.to_json() for iteration in derive(state)]},
        deleted=mission.deleted,
        deleted_at_us=mission.deleted_at_us,
        complete=mission.complete,
        updated_at_us=mission.updated_at_us,
        grant=None,
        space_id=mission.space_id,
    )


def _read_new(
    state: IterationsState, elements: dict[str, dict[str, Any]], write: Write, counters: Counters
) -> dict[str, Item]:
    """The elements read, but for those that a later row repeats unaltered: they teach nothing."""
    carried = {}
    if len(state.seen) > MAX_ITERATIONS:  # ids that were cut
        state.seen.clear()
    for key, element in elements.items():
        # Not compared by value, because True equals 1. Version 2 knows nothing of what values share.
        mark = hash(marshal.dumps(element, 2))
        seen = state.seen.get(key)
        if seen is not None and seen[1] == mark and seen[0] < write.order:
            continue
        carried[key] = item = read(ITERATION, element, write, counters)
        if item.passing is None:  # otherwise the newest stamp counts, also of a repetition
            state.seen[key] = (write.order, mark)
    return carried


def _place(iteration: Iteration) -> tuple[int, str]:
    started = iteration.fields.get("startedAt")
    instant = parse_instant(started) if isinstance(started, str) else None
    return NO_INSTANT if instant is None else instant, iteration.fields["id"]
