"""Rows of `sync_changes` read from the table, as the very records that the stream makes of them.

They come by COPY in text form, which prints values as logical decoding does, and go through the same codec: a row that
is published out of the table has the bytes that it would have had out of the WAL.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, Self

import psycopg
from psycopg import sql

from projector.cdc.pgoutput import Column, Relation
from projector.cdc.rows import Row, RowCodec
from projector.sql import query
from projector.sql.copy_out import copy_out

PAGE_ROWS: Final = 10_000
"""Rows of one statement, at most: it holds back cleaning up of the table for as long as they take."""

_NULL: Final = b"\\N"
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)
_MEANINGS: Final = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_RELATION_ID: Final = 1
_NEXT_USERS: Final = sql.SQL("(%(user)s::text is null or c.user_id > %(user)s)")
_REST_OF_USER: Final = sql.SQL(
    "c.user_id = %(user)s and (c.created_at, c.id) > (%(created_at)s::timestamptz, %(id)s::uuid)"
)
# What precedes the columns of a row: whether a topic has it, created_at in ms, and the key of the order.
_LEADING: Final = 5
_SURELY_BEFORE: Final = timedelta(days=1)
"""A row created so long before a fill was laid out had been committed by then."""


class Cursor(NamedTuple):
    """Where reading goes on: after this row of the app, in order of user, creation and id."""

    user_id: str | None
    created_at: str | None
    change_id: str | None


class FilledRow(NamedTuple):
    """`record` is None for a row that the topics hold already."""

    cursor: Cursor
    created_ms: int
    record: Row | None


class TableReader:
    """Reads what a fill takes: with `whole` every row of transactions below `xmin`, and the rows listed for it.

    `started_at` is when the fill was laid out, µs since 1970; `page_rows` are read by one statement.
    """

    def __init__(
        self,
        conn: psycopg.AsyncConnection[Any],
        fill: int,
        xmin: str,
        started_at: int,
        whole: bool,
        page_rows: int,
        columns: list[Column],
    ) -> None:
        self._conn = conn
        self._fill = fill
        self._xmin = xmin
        self._old = datetime.fromtimestamp(started_at / 1e6, UTC) - _SURELY_BEFORE
        self._whole = whole
        self._page_rows = page_rows
        self._columns = sql.SQL(", ").join(sql.SQL("c.{}").format(sql.Identifier(c.name)) for c in columns)
        self._codec = RowCodec(Relation(_RELATION_ID, "public", "sync_changes", "d", tuple(columns)))
        self._header = b"I%bN%b" % (_RELATION_ID.to_bytes(4, "big"), len(columns).to_bytes(2, "big"))

    @classmethod
    async def open(
        cls, conn: psycopg.AsyncConnection[Any], fill: int, xmin: str, started_at: int, *, whole: bool, page_rows: int
    ) -> Self:
        """`conn` is for this reader alone. Raises TableShapeError."""
        await conn.execute("set datestyle = 'ISO'")
        found = await (await conn.execute(query("cdc/log_columns"))).fetchall()
        return cls(
            conn, fill, xmin, started_at, whole, page_rows, [Column(name, oid, -1, False) for name, oid in found]
        )

    async def count(self, app: str | None, cursor: Cursor | None, whole_apps: Iterable[str]) -> int:
        """How many rows are left to publish: those of `app` after the cursor, and all of `whole_apps`."""
        text = query("cdc/count_whole" if self._whole else "cdc/count_listed")
        parameters = self._parameters(app, cursor) | {"apps": list(whole_apps)}
        row = await (await self._conn.execute(text, parameters)).fetchone()
        return 0 if row is None else int(row[0])

    async def walk_indexes(self, wanted: bool) -> None:
        """Whether pages are read off indexes in their order, whatever is known of the table's size.

        Without statistics (a table just restored) the planner would sort all that is left, for every page.
        """
        for method in ("seqscan", "bitmapscan", "sort"):
            await self._conn.execute(f"set enable_{method} = {'off' if wanted else 'on'}")

    async def rows(self, app: str, cursor: Cursor | None) -> AsyncIterator[list[FilledRow]]:
        """The rows of an app after `cursor`, in its order, as many at a time as have arrived."""
        # The rest of a user whose rows were begun, then the users after: each is one range of an index.
        listed = sql.SQL(query("cdc/fill_listed")).format(columns=self._columns)
        rest, others = (self._pages(_REST_OF_USER), self._pages(_NEXT_USERS)) if self._whole else (listed, listed)
        page = others if cursor is None else rest
        while True:
            count = 0
            async for rows in self._page(page, app, cursor):
                cursor = rows[-1].cursor
                count += len(rows)
                yield rows
            if count == self._page_rows:
                page = rest
            elif page != others:
                page = others
            else:
                return

    def _pages(self, after: sql.SQL) -> sql.Composed:
        return sql.SQL(query("cdc/fill_page")).format(columns=self._columns, after=after)

    async def _page(self, text: sql.Composed, app: str, cursor: Cursor | None) -> AsyncIterator[list[FilledRow]]:
        parameters = self._parameters(app, cursor) | {"limit": self._page_rows}
        statement = psycopg.AsyncClientCursor(self._conn).mogrify(text, parameters)
        async for lines in copy_out(self._conn, statement):
            yield [self._decode(line) for line in lines]

    def _parameters(self, app: str | None, cursor: Cursor | None) -> dict[str, Any]:
        user_id, created_at, change_id = cursor or (None, None, None)
        return {
            "fill": self._fill,
            "xmin": int(self._xmin),
            "old": self._old,
            "app": app,
            "user": user_id,
            "created_at": created_at,
            "id": change_id,
        }

    def _decode(self, line: bytes) -> FilledRow:
        values = line[:-1].split(b"\t")
        seen, created_ms, user_id, created_at, change_id = values[:_LEADING]
        if b"\\" in user_id:
            user_id = unescape(user_id)
        cursor = Cursor(user_id.decode(), created_at.decode(), change_id.decode())
        if seen == b"t":
            return FilledRow(cursor, int(created_ms), None)
        parts = [self._header]
        for value in values[_LEADING:]:
            if value == _NULL:
                parts.append(b"n")
                continue
            if b"\\" in value:
                value = unescape(value)
            parts.append(b"t%b%b" % (len(value).to_bytes(4, "big"), value))
        return FilledRow(cursor, int(created_ms), self._codec.insert(b"".join(parts)))


def unescape(value: bytes) -> bytes:
    """A value of COPY's text format as it is. Source: PostgreSQL documentation, COPY, "Text Format"."""
    return _ESCAPED.sub(lambda found: _MEANINGS.get(found[1], found[1]), value)
