"""The state of a mission's iterations as JSON, for a column of a table.

    {...,                                   the mission, as `codec` writes a record's state
     "o": [[instant, created_us, change_id], ...],   the rows that are remembered, in this order
     "e": {id: item, ...}}

    item: {"b": row,                        first row that carried it; rows are indexes into "o"
           "s": [row, text],                status
           "1": {name: [row, text], ...},   texts that stay as they came first
           "p": [row, {...}],               fields of a running iteration
           "f": {name: [[row, value], ...], ...},
           "t": {id: item, ...}}            steps

Most rows are shared: an array brings all its iterations at once. Names are in order, and keys of an item that hold
nothing are left out, so two equal states give equal values, key order included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from projector.fold import codec
from projector.fold.items import Item, canonical, writes_of
from projector.fold.iterations import IterationsState
from projector.fold.stamps import NO_INSTANT, Write

Rows = Mapping[tuple[int, int, str], int]


def dump(state: IterationsState) -> dict[str, Any]:
    """Shares its values with the state: encode it, do not alter it."""
    stamps = sorted({write[:3] for item in state.items.values() for write in writes_of(item)})
    rows = {stamp: number for number, stamp in enumerate(stamps)}
    return {
        **codec.dump(state.mission),
        "o": [[None if instant == NO_INSTANT else instant, us, key] for instant, us, key in stamps],
        "e": _dump_all(state.items, rows),
    }


def load(dumped: dict[str, Any]) -> IterationsState:
    """The state that `dump` wrote; takes the values over. KeyError, TypeError or ValueError for anything else."""
    state = IterationsState()
    state.mission = codec.load(dumped)
    rows = [Write(NO_INSTANT if instant is None else instant, us, key, None) for instant, us, key in dumped["o"]]
    state.items = _load_all(dumped["e"], rows)
    return state


def _dump_all(items: Mapping[str, Item], rows: Rows) -> dict[str, Any]:
    return {key: _dump(items[key], rows) for key in sorted(items)}


def _dump(item: Item, rows: Rows) -> dict[str, Any]:
    def one(write: Write) -> list[Any]:
        return [rows[write[:3]], write.value]

    out: dict[str, Any] = {"b": rows[item.brought[:3]]}
    if item.status is not None:
        out["s"] = one(item.status)
    if item.once:
        out["1"] = {name: one(write) for name, write in sorted(item.once.items())}
    if item.passing is not None:
        out["p"] = one(item.passing)
    if item.fields:
        out["f"] = {
            name: [one(write) for _, write in sorted(values.items())] for name, values in sorted(item.fields.items())
        }
    if item.parts:
        out["t"] = _dump_all(item.parts, rows)
    return out


def _load_all(dumped: dict[str, Any], rows: list[Write]) -> dict[str, Item]:
    return {key: _load(item, rows) for key, item in dumped.items()}


def _load(dumped: dict[str, Any], rows: list[Write]) -> Item:
    def one(entry: list[Any]) -> Write:
        instant, created_us, change_id, _ = rows[entry[0]]
        return Write(instant, created_us, change_id, entry[1])

    item = Item(rows[dumped["b"]])
    if "s" in dumped:
        item.status = one(dumped["s"])
    item.once = {name: one(entry) for name, entry in dumped.get("1", {}).items()}
    if "p" in dumped:
        item.passing = one(dumped["p"])
    item.fields = {
        name: {canonical(entry[1]): one(entry) for entry in values} for name, values in dumped.get("f", {}).items()
    }
    item.parts = _load_all(dumped.get("t", {}), rows)
    return item
