"""A state as JSON, for a column of a table.

    {"w": [[path, value, instant, created_us, change_id], ...],   sorted by path
     "i": [created_us, change_id],        latest insert
     "f": [created_us, change_id],        row that made the record; left out when it is the latest insert
     "d": [[text, instant, created_us, change_id], ...],   deletes before that row, latest first
     "t": [created_us, change_id],        latest delete without a time
     "c": true,                           an insert with data was seen
     "n": created_us,                     newest row applied
     "s": [created_us, change_id, space_id],
     "g": [[instant, created_us, change_id, fields] or null,
           [[instant, created_us, change_id, text], ...]]}

A path is an array of its segments; `instant` is null for an unstamped write; every key but `w` is left out when it
holds nothing. Two equal states give equal values, key order included.
"""

from __future__ import annotations

from typing import Any

from projector.fold.grants import Expiry, GrantRegister, Issue
from projector.fold.stamps import NO_INSTANT, Order, Write, parse_instant
from projector.fold.state import State


def dump(state: State) -> dict[str, Any]:
    """Shares its values with the state: encode it, do not alter it. Arrays may be tuples."""
    out: dict[str, Any] = {
        "w": [
            (path, value, None if instant == NO_INSTANT else instant, created_us, change_id)
            for path, (instant, created_us, change_id, value) in sorted(state.writes.items())
        ]
    }
    if state.insert is not None:
        out["i"] = list(state.insert)
    if state.first is not None and state.first != state.insert:
        out["f"] = list(state.first)
    if state.early:
        out["d"] = [[write.value, _out(write.instant), write.created_us, write.change_id] for write in state.early]
    if state.tombstone is not None:
        out["t"] = list(state.tombstone)
    if state.complete:
        out["c"] = True
    if state.newest_us is not None:
        out["n"] = state.newest_us
    if state.space is not None:
        out["s"] = [*state.space[0], state.space[1]]
    if state.grant is not None:
        issue = state.grant.issue
        out["g"] = [
            None if issue is None else [_out(issue.instant), issue.created_us, issue.change_id, issue.fields],
            [[_out(late.instant), late.created_us, late.change_id, late.text] for late in state.grant.later],
        ]
    return out


def load(dumped: dict[str, Any]) -> State:
    """The state that `dump` wrote; takes the values over. KeyError, TypeError or ValueError for anything else."""
    state = State()
    for path, value, instant, created_us, change_id in dumped["w"]:
        state.writes[tuple(path)] = Write(_in(instant), created_us, change_id, value)
        if len(path) > 1:
            state.deep = True
    state.insert = _order(dumped.get("i"))
    state.first = _order(dumped["f"]) if "f" in dumped else state.insert
    if (early := dumped.get("d")) is not None:
        state.early = tuple(Write(_in(instant), created_us, key, text) for text, instant, created_us, key in early)
    state.tombstone = _order(dumped.get("t"))
    state.complete = dumped.get("c", False)
    state.newest_us = dumped.get("n")
    if (space := dumped.get("s")) is not None:
        created_us, change_id, space_id = space
        state.space = (Order(created_us, change_id), space_id)
    if (grant := dumped.get("g")) is not None:
        issue, later = grant
        state.grant = GrantRegister(
            None if issue is None else Issue(_in(issue[0]), issue[1], issue[2], issue[3]),
            tuple(_expiry(*late) for late in later),
        )
    return state


def _out(instant: int) -> int | None:
    return None if instant == NO_INSTANT else instant


def _in(instant: int | None) -> int:
    return NO_INSTANT if instant is None else instant


def _order(dumped: list[Any] | None) -> Order | None:
    return None if dumped is None else Order(dumped[0], dumped[1])


def _expiry(instant: int | None, created_us: int, change_id: str, text: str) -> Expiry:
    expires_us = parse_instant(text)
    if expires_us is None:
        raise ValueError(f"{text!r} is no instant")
    return Expiry(_in(instant), created_us, change_id, expires_us, text)
