"""What is known of one iteration, or of one step of its plan, from every array that ever carried it.

Devices send whole arrays again with every edit, stale copies too, under the stamp of the edit. So carrying a value is
not writing it: a value counts from the row that brought it first, and its stamp is that row's. "First" is by the
order of rows, which is the server's clock: whoever repeats a value has received it before, while his own clock
may say anything. That a copy lacks a field says nothing either.

    status       the highest of the ranks below, whoever wrote it when
    once         the text that came first stays
    passing      the newest stamp decides, as long as the iteration runs
    other fields of the values, the one whose first row has the largest stamp
    parts        each by these same rules; which of them are there, and in what order, is a value like others

Every part grows by minimum or maximum alone. The limits cut by name, which no later row can change.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from projector.fold.counters import Counters
from projector.fold.stamps import Write

_quote = json.encoder.encode_basestring
_NAMES = {None: "null", True: "true", False: "false"}

MAX_FIELDS = 64
MAX_VALUES = 64
"""Of one field. Real ones have had one, feedback a few."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How the fields of one kind of item are told apart. `ranks` are its statuses, the lowest first."""

    status: str
    ranks: tuple[str, ...]
    once: frozenset[str]
    passing: frozenset[str] = frozenset()
    feedback: str = ""
    """The field whose empty text is no value: it is how a form without an entry is sent."""
    only_in: Mapping[str, str] | None = None
    """Fields that belong to one status alone."""
    parts: str = ""
    part: Kind | None = None
    max_parts: int = 0

    def rank(self, status: str) -> int:
        """Texts that are no status of ours are below all that are."""
        return self.ranks.index(status) if status in self.ranks else -1


# An effect that took place stays, whatever a second device reports of it; what the user decided counts more
# than what a machine could not do, and that more than what nobody tried.
STEP = Kind(
    status="status",
    ranks=("planned", "staged", "skipped", "failed", "rejected", "approved"),
    once=frozenset({"proposalId"}),
)
ITERATION = Kind(
    status="overallStatus",
    ranks=("running", "awaiting-review", "failed", "rejected", "approved"),
    once=frozenset({"archivedAt"}),
    passing=frozenset({"currentPhase", "phaseStartedAt", "phaseDetail"}),
    feedback="userFeedback",
    only_in={"cancelRequested": "running", "errorDetails": "failed"},
    parts="plan",
    part=STEP,
    max_parts=200,
)


class Item:
    """Values are shared with the changes they came from, and never altered."""

    __slots__ = ("brought", "fields", "once", "parts", "passing", "status")

    def __init__(self, brought: Write) -> None:
        self.brought = brought
        """The first row that carried the item; without a value."""
        self.status: Write | None = None
        self.once: dict[str, Write] = {}
        self.passing: Write | None = None
        self.fields: dict[str, dict[str, Write]] = {}
        """By name and canonical text of the value, the row that brought it first."""
        self.parts: dict[str, Item] = {}


def read(kind: Kind, element: Mapping[str, Any], write: Write, counters: Counters) -> Item:
    """What one element of an array says; `write` is the array's."""
    item = Item(write._replace(value=None))
    passing = {}
    for name, value in element.items():
        if name in kind.passing:
            passing[name] = value
        elif name == kind.status:
            if _is_text(value):
                item.status = write._replace(value=value)
        elif name in kind.once:
            if _is_text(value):
                item.once[name] = write._replace(value=value)
        elif name == kind.parts and kind.part is not None:
            if isinstance(value, list):
                elements = named(value, kind.max_parts, counters)
                item.parts = {key: read(kind.part, part, write, counters) for key, part in elements.items()}
                item.fields[name] = _value(write, list(elements))
            else:
                counters.odd_arrays += 1
        elif name != "id" and not (name == kind.feedback and value == ""):
            item.fields[name] = _value(write, value)
    if passing and not _is_over(kind, item):
        item.passing = write._replace(value=passing)
    counters.cut_items += cut(item.fields, MAX_FIELDS)
    return item


def join(kind: Kind, one: Item, other: Item) -> int:
    """Lets `one` know what `other` knows, sharing nothing that either alters; how much was cut off."""
    one.brought = _first(one.brought, other.brought)
    one.status = _higher(kind, one.status, other.status)
    for name, write in other.once.items():
        one.once[name] = _first(one.once.get(name), write)
    if other.passing is not None and (one.passing is None or other.passing.beats(one.passing)):
        one.passing = other.passing
    if _is_over(kind, one):
        one.passing = None
    lost = 0
    for name, values in other.fields.items():
        known = one.fields.setdefault(name, {})
        for key, write in values.items():
            known[key] = _first(known.get(key), write)
        lost += cut(known, MAX_VALUES)
    lost += cut(one.fields, MAX_FIELDS)
    if kind.part is not None:
        lost += join_all(kind.part, one.parts, other.parts, kind.max_parts)
    return lost


def join_all(kind: Kind, ones: dict[str, Item], others: Mapping[str, Item], limit: int) -> int:
    """The same for items by id, of which `limit` are kept."""
    lost = 0
    for key, item in others.items():
        if key not in ones:
            ones[key] = Item(item.brought)
        lost += join(kind, ones[key], item)
    return lost + cut(ones, limit)


def show(kind: Kind, key: str, item: Item) -> tuple[dict[str, Any], Write]:
    """The item as devices have it, and the row that brought the last of what is shown."""
    status = None if item.status is None else item.status.value
    winners = {name: max(values.values(), key=_stamp) for name, values in item.fields.items()}
    for name, only in (kind.only_in or {}).items():
        if status != only:
            winners.pop(name, None)
    winners |= item.once
    if item.status is not None:
        winners[kind.status] = item.status
    shown = {"id": key} | {name: write.value for name, write in winners.items()}
    if item.passing is not None:
        shown |= item.passing.value
    changed = max([item.brought, *winners.values()], key=_order)
    if kind.part is not None and kind.parts in shown:
        parts = [show(kind.part, part, item.parts[part]) for part in shown[kind.parts] if part in item.parts]
        shown[kind.parts] = [part for part, _ in parts]
        changed = max([changed, *(last for _, last in parts)], key=_order)
    return shown, changed


def named(array: list[Any], limit: int, counters: Counters) -> dict[str, dict[str, Any]]:
    """The objects among the last `limit` elements by their `id`, in order; of repeated ones the last."""
    counters.cut_items += max(0, len(array) - limit)
    found: dict[str, dict[str, Any]] = {}
    for element in array[-limit:]:
        key = element.get("id") if isinstance(element, dict) else None
        if not isinstance(key, str) or not key:
            counters.unnamed_items += 1
            continue
        if found.pop(key, None) is not None:
            counters.repeated_items += 1
        found[key] = element
    return found


def cut(entries: dict[str, Any], limit: int) -> int:
    """Leaves the `limit` smallest names."""
    surplus = sorted(entries)[limit:] if len(entries) > limit else []
    for name in surplus:
        del entries[name]
    return len(surplus)


def canonical(value: Any) -> str:
    """One text for each value, as PostgreSQL's jsonb compares and writes it.

    Objects without an order of their own, `1.0` the same as `1`, all digits of a number and no exponent.
    """
    if isinstance(value, str):
        return _quote(value)
    if isinstance(value, dict):
        # jsonb's own order of names, so that SQL cuts the same values.
        names = sorted(value, key=lambda name: (len(name.encode()), name))
        return "{" + ", ".join([f"{_quote(name)}: {canonical(value[name])}" for name in names]) + "}"
    if isinstance(value, list):
        return "[" + ", ".join([canonical(item) for item in value]) + "]"
    if isinstance(value, float):
        digits = Decimal(repr(value))
        return str(int(digits)) if value.is_integer() else format(digits, "f")
    return _NAMES[value] if value is None or isinstance(value, bool) else str(value)


def _value(write: Write, value: Any) -> dict[str, Write]:
    return {canonical(value): write._replace(value=value)}


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_over(kind: Kind, item: Item) -> bool:
    return item.status is not None and kind.rank(item.status.value) > 0


def _order(write: Write) -> tuple[int, str]:
    return write[1:3]


def _stamp(write: Write) -> tuple[int, int, str]:
    return write[:3]


def _first(one: Write | None, other: Write) -> Write:
    return other if one is None or other[1:3] < one[1:3] else one


def _higher(kind: Kind, one: Write | None, other: Write | None) -> Write | None:
    if one is None or other is None:
        return other if one is None else one
    if one.value == other.value:
        return _first(one, other)
    return max(one, other, key=lambda write: (kind.rank(write.value), write.value))


def writes_of(item: Item) -> Iterable[Write]:
    """Every row that the item remembers."""
    yield item.brought
    yield from item.once.values()
    yield from (write for write in (item.status, item.passing) if write is not None)
    for values in item.fields.values():
        yield from values.values()
    for part in item.parts.values():
        yield from writes_of(part)
