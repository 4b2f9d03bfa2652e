"""The serving row of one record, how far its view is, and whether the row is the fold of the log."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import orjson
import psycopg
from psycopg import sql

from projector.fold import State, derive, dump, fold, load
from projector.log.change import Change
from projector.log.place import parse_lsn
from projector.sql import query
from projector.views.declared import Identity, View
from projector.views.positions import Partition
from projector.views.store import SCHEMA

Standing = Literal["equal", "behind", "different"]


@dataclass(frozen=True, slots=True)
class ServingRow:
    """The row as it is stored; `state` is the fold's, `source` and `lsn` the largest place applied to it."""

    record: dict[str, Any]
    state: State
    deleted: bool
    deleted_at: datetime | None
    complete: bool
    space_id: str | None
    source: int
    lsn: int
    last_applied_at: datetime
    updated_at: datetime | None


@dataclass(frozen=True, slots=True)
class Position:
    """How far the view is: the next offset of the record's partition (None before its start), and the LSN up to which
    it has applied every commit (None before the first watermark)."""

    next_offset: int | None
    lsn: int | None


async def read_row(conn: psycopg.AsyncConnection[Any], view: View, identity: Identity) -> ServingRow | None:
    """The row, if the record has one."""
    statement = sql.SQL(
        "select record::text, state::text, deleted, deleted_at, complete, space_id, source, source_lsn::text,"
        " last_applied_at, updated_at from {} where {}"
    ).format(
        sql.Identifier(SCHEMA, view.table),
        sql.SQL(" and ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in view.key_columns),
    )
    found = await (await conn.execute(statement, view.key_of(identity))).fetchone()
    if found is None:
        return None
    record, state, deleted, deleted_at, complete, space_id, source, lsn, last_applied_at, updated_at = found
    return ServingRow(
        orjson.loads(record),
        load(orjson.loads(state)),
        deleted,
        deleted_at,
        complete,
        space_id,
        source,
        parse_lsn(lsn),
        last_applied_at,
        updated_at,
    )


async def read_position(
    conn: psycopg.AsyncConnection[Any], view: View, cluster: str, partition: Partition, topics: list[str]
) -> Position:
    """The view's position in the partition; `topics` are all that the view reads."""
    parameters = {"view": view.name, "cluster": cluster, "topics": topics}
    rows = await (await conn.execute(query("views/position_all"), parameters)).fetchall()
    offsets = {Partition(topic, number): next_offset for _, topic, number, next_offset in rows}
    mark = await (await conn.execute(query("views/applied_watermark"), parameters)).fetchone()
    return Position(offsets.get(partition), None if mark is None else mark[0])


def standing(row: ServingRow | None, all_changes: Iterable[Change], *applied: Iterable[Change]) -> Standing:
    """ "equal" when the row is the fold of `all_changes`; "behind" when it is that of one of the sets in `applied`.

    State and record are compared as bytes, keys in order: a column of JSON keeps no order of keys.
    """
    held = _bytes_of_row(row)
    if held == _bytes_of(all_changes):
        return "equal"
    return "behind" if any(held == _bytes_of(changes) for changes in applied) else "different"


def _bytes_of_row(row: ServingRow | None) -> bytes | None:
    return None if row is None else _encode(row.state, row.record)


def _bytes_of(changes: Iterable[Change]) -> bytes | None:
    known = list(changes)
    if not known:
        return None
    state = fold(known)
    return _encode(state, derive(state, share=True).fields)


def _encode(state: State, record: dict[str, Any]) -> bytes:
    return orjson.dumps([dump(state), record], option=orjson.OPT_SORT_KEYS)
