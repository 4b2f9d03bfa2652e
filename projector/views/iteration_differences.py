"""Where a row of `mission_iterations` and the log first part: by the ids of iterations and steps, not their places."""

from __future__ import annotations

from typing import Any

from projector.views import differences
from projector.views.jsondiff import Found, JsonPath, absent, first_difference

# What people see of an iteration comes before what follows from it.
_PARTS = ("iteration", "shown", "broughtBy", "changedBy")


def first_in_rows(row: dict[str, Any], folded: dict[str, Any]) -> Found | None:
    """The path is `record.iterations.ID.iteration.FIELD`, or `….plan.STEP.FIELD` below it; else as of other views.

    Only where the order of two lists differs, or a list of the row cannot be read by ids, it has places.
    """
    one, other = row["record"], folded["record"]
    found = _first(one, other, ("record",), "iterations", lambda entry: entry["iteration"]["id"], _first_in_entries)
    return found or differences.first_in_rows(_by_stamp(row), _by_stamp(folded))


def _by_stamp(document: dict[str, Any]) -> dict[str, Any]:
    """With the stamps of rows in place of their numbers, of which one row more or less moves all others."""
    state = document["state"]
    try:
        items = {key: _stamped(item, state["o"]) for key, item in state["e"].items()}
    except (AttributeError, IndexError, KeyError, TypeError):
        return document
    return {**document, "state": {**state, "e": items}}


def _stamped(item: dict[str, Any], rows: list[Any]) -> dict[str, Any]:
    def one(entry: list[Any]) -> list[Any]:
        return [rows[entry[0]], *entry[1:]]

    changed = {"b": rows[item["b"]]}
    changed |= {name: one(item[name]) for name in ("s", "p") if name in item}
    if "1" in item:
        changed["1"] = {name: one(entry) for name, entry in item["1"].items()}
    if "f" in item:
        changed["f"] = {name: [one(entry) for entry in entries] for name, entries in item["f"].items()}
    if "t" in item:
        changed["t"] = {key: _stamped(step, rows) for key, step in item["t"].items()}
    return {**item, **changed}


def _first_in_entries(one: dict[str, Any], other: dict[str, Any], path: JsonPath) -> Found | None:
    for name in (*_PARTS, *sorted((one.keys() | other.keys()) - {*_PARTS})):
        if name == "iteration":
            found = _first(one[name], other[name], (*path, name), "plan", lambda step: step["id"], first_difference)
        else:
            found = first_difference(one.get(name, absent), other.get(name, absent), (*path, name))
        if found is not None:
            return found
    return None


def _first(one: Any, other: Any, path: JsonPath, name: str, key: Any, first_in_items: Any) -> Found | None:
    """Of two objects with a list of items under `name`; the list is looked at last."""
    lists = [_by_key(side.get(name), key) if isinstance(side, dict) else None for side in (one, other)]
    ours, theirs = lists
    if ours is None or theirs is None:
        return first_difference(one, other, path)
    found = first_difference(_without(one, name), _without(other, name), path)
    if found is not None:
        return found
    path = (*path, name)
    for item in sorted(ours.keys() | theirs.keys()):
        if item in ours and item in theirs:
            found = first_in_items(ours[item], theirs[item], (*path, item))
        else:
            found = Found((*path, item), ours.get(item, absent), theirs.get(item, absent))
        if found is not None:
            return found
    for place, (mine, its) in enumerate(zip(ours, theirs, strict=True)):
        if mine != its:
            return Found((*path, place, "id"), mine, its)
    return None


def _without(side: dict[str, Any], name: str) -> dict[str, Any]:
    return {field: value for field, value in side.items() if field != name}


def _by_key(items: Any, key: Any) -> dict[str, Any] | None:
    """In the order of the list; None for what is no list of objects with different ids."""
    try:
        found = {key(item): item for item in items}
    except (KeyError, TypeError):
        return None
    return found if len(found) == len(items) and all(isinstance(name, str) for name in found) else None
