"""Reads and writes the rows of one view's table, many at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
import psycopg
from psycopg import sql

from projector import crash
from projector.log.place import parse_lsn
from projector.sql import query
from projector.views.declared import Identity, View
from projector.views.held import Held, Row, restore

SCHEMA = "mana_ai"
SMALL_BATCH = 50
"""Up to so many rows travel in the statement itself: a temporary table costs more than it saves there."""


class Store:
    """The rows of `view` in one of its two generations."""

    def __init__(self, view: View, generation: int) -> None:
        self.view = view
        self.generation = generation
        target, incoming = table_of(view, generation), sql.Identifier(f"incoming_{view.table}")
        self.target = target
        keys = _comma(map(sql.Identifier, view.key_columns))
        every = _comma(map(sql.Identifier, view.all_columns))
        cast = _comma(
            sql.SQL("{}::{}").format(sql.Identifier(name), sql.SQL(kind)) for name, kind in view.all_columns.items()
        )
        told = _comma(sql.SQL("{} text").format(sql.Identifier(name)) for name in view.all_columns)
        wanted = sql.SQL("unnest({}) as wanted ({})").format(
            _comma([sql.SQL("%b::text[]")] * len(view.key_columns)), keys
        )
        replaced = _comma(
            sql.SQL("{0} = excluded.{0}").format(sql.Identifier(column))
            for column in view.all_columns
            if column not in view.key_columns
        )

        def upsert(rows: sql.Composable) -> sql.Composed:
            return sql.SQL("insert into {} ({}) {} on conflict ({}) do update set {}").format(
                target, every, rows, keys, replaced
            )

        self._prepare = sql.SQL("create temporary table if not exists {} (like {}) on commit delete rows").format(
            incoming, target
        )
        load = sql.SQL("select {}, state::text, source, source_lsn::text from {} join {} using ({})")
        self._load = load.format(keys, target, wanted, keys).as_bytes()
        self._copy = sql.SQL("copy {} ({}) from stdin").format(incoming, every)
        self._fill = sql.SQL("copy {} ({}) from stdin").format(target, every)
        self._merge = upsert(sql.SQL("select {} from {}").format(every, incoming))
        in_text = sql.SQL("select {} from json_to_recordset(%(rows)s::json) as told ({})").format(cast, told)
        self._put = upsert(in_text).as_bytes()
        swap_first = upsert(in_text + sql.SQL(" where (select held from swapped)"))
        self._swap_and_put = (sql.SQL(query("views/position_swap")) + swap_first).as_bytes()
        same = sql.SQL(" and ").join(
            sql.SQL("kept.{0} = wanted.{0}").format(sql.Identifier(column)) for column in view.key_columns
        )
        self._delete = sql.SQL("delete from {} as kept using {} where {}").format(target, wanted, same).as_bytes()

    async def prepare(self, conn: psycopg.AsyncConnection[Any]) -> None:
        """Makes this session's temporary table; once for each connection, before `write`."""
        await conn.execute(self._prepare)

    async def load(self, conn: psycopg.AsyncConnection[Any], identities: Iterable[Identity]) -> dict[Identity, Held]:
        """The records among `identities` that have a row, in one query."""
        wanted = {self.view.key_of(identity): identity for identity in identities}
        if not wanted:
            return {}
        cursor = await conn.execute(self._load, _columns(wanted))
        found = {}
        async for *key, state, source, lsn in cursor:
            found[wanted[tuple(key)]] = restore(self.view.fold, state, source, parse_lsn(lsn))
        return found

    async def write(
        self, conn: psycopg.AsyncConnection[Any], rows: Iterable[Row], count: int, *, new: bool = False
    ) -> None:
        """Puts `count` rows in place of what is there; to be called inside a transaction.

        They are made while the server takes the ones before. More than SMALL_BATCH once in a transaction: the
        temporary table is emptied at its end. `new`: none of these records has a row, which saves the way through
        that table.
        """
        if not count:
            return
        if count <= SMALL_BATCH and not new:
            crash.point("views.mid_copy")
            await conn.execute(self._put, {"rows": self._told(rows)})
            return
        await self.copy(conn, rows, count, new=new)
        if not new:
            await self.merge(conn)

    async def copy(self, conn: psycopg.AsyncConnection[Any], rows: Iterable[Row], count: int, *, new: bool) -> None:
        """Half of `write`, for rows that come in parts: those that are not `new` show only after `merge`."""
        async with conn.cursor() as cursor, cursor.copy(self._fill if new else self._copy) as copy:
            for number, row in enumerate(rows):
                if number == count // 2:
                    crash.point("views.mid_copy")
                await copy.write_row(row)

    async def merge(self, conn: psycopg.AsyncConnection[Any]) -> None:
        """Puts all that was copied in this transaction in place of what is there; once in it."""
        await conn.execute(self._merge)

    async def swap_and_write(
        self, conn: psycopg.AsyncConnection[Any], rows: Iterable[Row], swap: Mapping[str, Any]
    ) -> None:
        """The same for up to SMALL_BATCH rows, and `Positions.swap` with the parameters `swap`, as one statement.

        Raises LOST, and nothing is written then.
        """
        await conn.execute(self._swap_and_put, {**swap, "rows": self._told(rows)})

    def _told(self, rows: Iterable[Row]) -> str:
        """Each value as the text that its column reads, as in a COPY. Arrays take psycopg many times as long."""
        return orjson.dumps([dict(zip(self.view.all_columns, row, strict=True)) for row in rows]).decode()

    async def delete(self, conn: psycopg.AsyncConnection[Any], identities: Iterable[Identity]) -> None:
        """Removes the rows of records of which the log holds nothing any more."""
        keys = [self.view.key_of(identity) for identity in identities]
        if keys:
            await conn.execute(self._delete, _columns(keys))


def table_of(view: View, generation: int) -> sql.Identifier:
    """The table of one generation; readers name `view.table`, which shows the serving one."""
    return sql.Identifier(SCHEMA, f"{view.table}_{generation}")


def _comma(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)


def _columns(rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    """Rows as arrays, one for each column."""
    return [list(column) for column in zip(*rows, strict=True)]
