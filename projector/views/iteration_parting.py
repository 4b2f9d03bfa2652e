"""Which change of the log a row of `mission_iterations` and the log part at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from projector.fold import Counters, Path, State, Write, fold
from projector.fold.items import ITERATION, Item, Kind, join, named, read, show
from projector.fold.iterations import ITERATIONS, MAX_ITERATIONS, IterationsState, apply
from projector.log.change import Change
from projector.views import parting
from projector.views.parting import Parting, changed, same

Facts = dict[tuple[str, ...], Write]
"""Everything that is known of one item, by what it is of."""


def contains(state: IterationsState, change: Change) -> bool:
    """Whether the state would be the same with this change applied once more."""
    if not parting.contains(state.mission, change, _mission):
        return False
    last = max(state.items) if len(state.items) >= MAX_ITERATIONS else None
    for key, item in _carried(change).items():
        is_cut_off = last is not None and key > last
        if not is_cut_off and not _holds(state.items.get(key), item):
            return False
    return True


def part(state: IterationsState | None, changes: Sequence[Change], path: Path = ()) -> Parting | None:
    """As `parting.part`, of the iteration that `path` names, or else of the mission alone."""
    held = IterationsState() if state is None else state
    match path:
        case ("record", "iterations", str(key), *rest) if rest != ["shown"]:
            return _part(held.items.get(key), [(one, _carried(one, key).get(key)) for one in changes], key, rest)
        case ("state", "e", str(key), *_):
            return _part(held.items.get(key), [(one, _carried(one, key).get(key)) for one in changes], key, ())
        case ("record", *_) if path[-1] != "shown":
            path = ()
    return parting.part(held.mission, changes, path, _mission)


def _part(
    held: Item | None, said: Sequence[tuple[Change, Item | None]], key: str, path: Sequence[str]
) -> Parting | None:
    facts = {} if held is None else _facts(held)
    log: Item | None = None
    for change, item in said:
        own = {} if item is None else _facts(item)
        if any(write.change_id == change.id and not _says(own, fact, write) for fact, write in facts.items()):
            return changed(change.id)
        if item is not None:
            log = _joined(log, item)
    in_log = {} if log is None else _facts(log)
    known = {change.id for change, _ in said}
    for fact, write in sorted(facts.items()):
        if write.change_id not in known:
            original = in_log.get(fact)
            if original is not None and original[:2] == write[:2] and same(original.value, write.value):
                return changed(original.change_id)
            return Parting(write.change_id, "not in the log")
    from_row = {write.change_id for write in facts.values()}
    for change, item in said:
        if item is not None and not _holds(held, item):
            return Parting(change.id, "changed in the row" if change.id in from_row else "not applied")
    if log is None:
        return None
    last = show(ITERATION, key, log)[1]
    return changed((last if path[:1] == ["changedBy"] else _decides(ITERATION, log, path[1:])).change_id)


def _decides(kind: Kind, item: Item, path: Sequence[str]) -> Write:
    """The write that a right row would show at the path below the item; its first row where that has none."""
    name = path[0] if path else ""
    step = item.parts.get(path[1]) if name == kind.parts and len(path) > 1 else None
    if kind.part is not None and step is not None:
        return _decides(kind.part, step, path[2:])
    if name == kind.status:
        found = item.status
    elif name in kind.passing:
        found = item.passing
    else:
        found = item.once.get(name) or max(item.fields.get(name, {}).values(), key=lambda w: w[:3], default=None)
    return item.brought if found is None else found


def _mission(changes: Iterable[Change]) -> State:
    """What the view keeps of the mission itself, to which of an iteration only its id matters."""
    state = IterationsState()
    for change in changes:
        array = change.data.get(ITERATIONS[0])
        if isinstance(array, list):
            bare = [{"id": one["id"]} if isinstance(one, dict) and "id" in one else None for one in array]
            change = replace(change, data={**change.data, ITERATIONS[0]: bare})
        apply(state, change)
    return state.mission


def _carried(change: Change, only: str | None = None) -> Mapping[str, Item]:
    """What the change says of each iteration, or of one."""
    counters = Counters()
    write = fold([change]).writes.get(ITERATIONS)
    if write is None or not isinstance(write.value, list):
        return {}
    elements = named(write.value, MAX_ITERATIONS, counters)
    keys = elements if only is None else elements.keys() & {only}
    return {key: read(ITERATION, elements[key], write, counters) for key in keys}


def _joined(one: Item | None, other: Item) -> Item:
    """A new item that knows what both know."""
    joined = Item(other.brought)
    for item in (one, other):
        if item is not None:
            join(ITERATION, joined, item)
    return joined


def _holds(held: Item | None, item: Item) -> bool:
    return held is not None and _facts(_joined(held, item)) == _facts(held)


def _says(facts: Facts, fact: tuple[str, ...], write: Write) -> bool:
    said = facts.get(fact)
    return said is not None and said[:3] == write[:3] and same(said.value, write.value)


def _facts(item: Item) -> Facts:
    facts: Facts = {("brought",): item.brought}
    if item.status is not None:
        facts["status",] = item.status
    if item.passing is not None:
        facts["passing",] = item.passing
    facts |= {("once", name): write for name, write in item.once.items()}
    for name, values in item.fields.items():
        facts |= {("field", name, text): write for text, write in values.items()}
    for key, step in item.parts.items():
        facts |= {("step", key, *fact): write for fact, write in _facts(step).items()}
    return facts
