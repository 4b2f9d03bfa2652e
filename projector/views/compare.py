"""Holds rows of a view against the fold of the log in SQL, within one snapshot of the database."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, LiteralString

import orjson
import psycopg
from psycopg import sql

from projector.config import Settings
from projector.errors import HiddenRowsError
from projector.log.change import BadChange, Change, decode
from projector.sql import query
from projector.sql.connection import connect
from projector.views.declared import COMMON, IDENTITY, PLACE, Identity, View
from projector.views.jsondiff import Found, absent
from projector.views.reading import reading_of
from projector.views.reload import LOG_VALUE
from projector.views.store import SCHEMA

_EXTRA = ("effective_grant",)
"""Columns that the fold in SQL has beside those, for the views that keep them."""
_READINGS: dict[LiteralString, LiteralString] = {
    "text": "case when jsonb_typeof(({value})) = 'string' then ({value}) #>> '{{}}' end",
    "timestamptz": "case when jsonb_typeof(({value})) = 'string' then mana_ai.fold_instant(({value}) #>> '{{}}') end",
}
"""What a typed column of the type shows of a value of the record."""


@dataclass(frozen=True, slots=True)
class Users:
    """The users after one and up to another: all records of each. None is no limit."""

    after: str | None
    upto: str | None


@dataclass(frozen=True, slots=True)
class Keys:
    """These records, without the changes `without`."""

    identities: Sequence[Identity]
    without: Collection[str] = ()


Scope = Users | Keys


@dataclass(frozen=True, slots=True)
class Differing:
    """A record whose row is not the fold: where they first part, and the state that the row holds, as JSON."""

    identity: Identity
    found: Found
    state: dict[str, Any] | None
    in_view: bool
    in_log: bool


@dataclass(frozen=True, slots=True)
class Compared:
    """`rows` records were compared, of the view and the log together; `changes` rows of the log went into it."""

    rows: int
    changes: int
    differing: list[Differing]


@dataclass(frozen=True, slots=True)
class Digest:
    """SHA-256 of what is compared, in hexadecimal: of the row and of the fold of the log, None where there is none."""

    identity: Identity
    row: str | None
    log: str | None


class Comparison:
    """The statements of one view. `users` limits everything to these."""

    def __init__(self, settings: Settings, view: View, users: Sequence[str] | None) -> None:
        self.view = view
        self._reading = reading_of(view)
        named = view.sources or tuple(source for other in view.rest_of for source in other.sources)
        self._parameters: dict[str, Any] = {
            "apps": list(view.apps(settings.apps)),
            "source_apps": [app for app, _ in named],
            "source_tables": [table for _, table in named],
            "named": bool(view.sources),
            "users": None if users is None else list(users),
        }
        self._columns = _columns(view)
        self._serving = sql.Identifier(SCHEMA, view.table)
        self.instants = frozenset(name for name, kind in view.all_columns.items() if kind == "timestamptz")

    @property
    def skipped(self) -> tuple[str, ...]:
        """Columns of the view that are not compared."""
        return tuple(name for name in self.view.all_columns if name not in {*self.view.key_columns, *self._columns})

    async def compare(self, conn: psycopg.AsyncConnection[Any], scope: Scope) -> Compared:
        """Transfers only records that differ."""
        text = sql.SQL(
            "select (select count(*) from joined), (select count(*) from chosen), {identity},"
            " serving::text, log::text, state::text"
            " from (select) as one"
            " left join (select * from joined where serving is distinct from log) as differing on true"
            " order by {identity}"
        )
        rows = await self._fetch(conn, self._statement(scope, text), scope)
        differing = []
        for _, _, *identity, serving, log, state in rows:
            if identity[0] is None:
                continue
            key = (identity[0], identity[1], identity[2], identity[3])
            row, folded = _parse(serving), _parse(log)
            if row is None or folded is None:
                found: Found | None = Found(
                    (), row["record"] if row else absent, folded["record"] if folded else absent
                )
            else:
                found = self._reading.first(row, folded)
            if found is not None:
                differing.append(Differing(key, found, _parse(state), row is not None, folded is not None))
        return Compared(rows[0][0], rows[0][1], differing)

    async def digests(self, conn: psycopg.AsyncConnection[Any], scope: Scope) -> list[Digest]:
        """Of every record in the scope, in order."""
        text = sql.SQL(
            "select {identity}, encode(sha256(convert_to(serving::text, 'UTF8')), 'hex'),"
            " encode(sha256(convert_to(log::text, 'UTF8')), 'hex') from joined order by {identity}"
        )
        rows = await self._fetch(conn, self._statement(scope, text), scope)
        return [Digest((user, app, table, record), row, log) for user, app, table, record, row, log in rows]

    async def changes(
        self, conn: psycopg.AsyncConnection[Any], identities: Sequence[Identity]
    ) -> dict[Identity, list[Change]]:
        """The rows of the log of these records that the fold admits, in created order."""
        statement = sql.SQL("with chosen as ({}) {}").format(
            sql.SQL(query("views/verify_scope_keys")), sql.SQL(query("views/verify_changes")).format(value=LOG_VALUE)
        )
        found: dict[Identity, list[Change]] = {identity: [] for identity in identities}
        for (value,) in await self._fetch(conn, statement, Keys(identities)):
            try:
                change = decode(value.encode())
            except BadChange:
                # A dead letter of the view: it is no part of either fold.
                continue
            found[change.user_id, change.app_id, change.table, change.record_id].append(change)
        return found

    async def next_page(
        self, conn: psycopg.AsyncConnection[Any], after: str | None, size: int
    ) -> tuple[str | None, str | None]:
        """(last user of the page, user who would make it too long); see verify_page.sql."""
        statement = sql.SQL(query("views/verify_page")).format(serving=self._serving)
        [row] = await self._fetch(conn, statement, None, {"after": after, "size": size})
        return row[0], row[1]

    async def total(self, conn: psycopg.AsyncConnection[Any]) -> int:
        """Rows of the log that belong to the view."""
        [row] = await self._fetch(conn, sql.SQL(query("views/verify_total")).format(), None)
        return int(row[0])

    @asynccontextmanager
    async def records_of(
        self, conn: psycopg.AsyncConnection[Any], user: str, after: Identity | None
    ) -> AsyncIterator[psycopg.AsyncServerCursor[Any]]:
        """(app, table, record, number of changes) of one user in order, kept by the server without a snapshot."""
        statement = sql.SQL(query("views/verify_records")).format(serving=self._serving, **_names(self.view, "kept"))
        _, app, table, record = after or (None,) * len(IDENTITY)
        async with conn.cursor(name="verify_records", withhold=True) as cursor:
            more = {"user": user, "after_app": app, "after_table": table, "after_record": record}
            await cursor.execute(statement, self._parameters | more)
            yield cursor

    async def _fetch(
        self,
        conn: psycopg.AsyncConnection[Any],
        statement: sql.Composed,
        scope: Scope | None,
        more: dict[str, Any] | None = None,
    ) -> list[tuple[Any, ...]]:
        parameters = self._parameters | (more or {})
        if isinstance(scope, Users):
            parameters |= {"after": scope.after, "upto": scope.upto}
        elif isinstance(scope, Keys):
            names = ("user_ids", "app_ids", "tables", "record_ids")
            columns = [list(column) for column in zip(*scope.identities, strict=True)] or [[], [], [], []]
            parameters |= dict(zip(names, columns, strict=True)) | {"without": list(scope.without)}
        # Never a generic plan: it would not use the indexes, because "no limit" is a parameter too.
        return await (await conn.execute(statement, parameters, prepare=False)).fetchall()

    def _statement(self, scope: Scope, text: sql.SQL) -> sql.Composed:
        """`text` selects from `joined` and `chosen`; see verify.sql."""
        identity = sql.SQL(", ").join(map(sql.Identifier, IDENTITY))
        place = "keys" if isinstance(scope, Keys) else "users"
        names = _names(self.view, "kept")
        serving = sql.SQL(query(f"views/verify_serving_{place}")).format(
            keys=sql.SQL(", ").join(sql.SQL("{} as {}").format(names[name], sql.Identifier(name)) for name in IDENTITY),
            document=_document({name: kept for name, (kept, _) in self._columns.items()}),
            serving=self._serving,
            **names,
        )
        joined = sql.SQL(query("views/verify")).format(
            chosen=sql.SQL(query(f"views/verify_scope_{place}")),
            fold=log_fold(self.view),
            folded=_document({name: folded for name, (_, folded) in self._columns.items()}),
            serving=serving,
            identity=identity,
        )
        return joined + text.format(identity=identity)


def log_fold(view: View) -> sql.Composable:
    """The statement that folds the rows of `chosen`."""
    admitted, fold = sql.SQL(query("views/fold_admitted")), sql.SQL(query(view.log_fold.query))
    if view.log_fold.after is None:
        return sql.SQL("with chosen as ({}) select * from ({}) as folded").format(admitted, fold)
    return sql.SQL("with chosen as ({}), records as materialized ({}) select * from ({}) as folded").format(
        admitted, sql.SQL(query(view.log_fold.after)), fold
    )


def _columns(view: View) -> dict[str, tuple[sql.Composable, sql.Composable]]:
    """For each column that is compared, the expression for a row `kept`, and that for a row `folded` of the fold."""
    found: dict[str, tuple[sql.Composable, sql.Composable]] = {}
    for name, kind in view.all_columns.items():
        if name in COMMON and name not in PLACE:
            found[name] = _of_row(name, kind), sql.Identifier("folded", name)
    for column in view.columns:
        if column.field is not None:
            reading = sql.SQL(_READINGS[column.type])
            value = sql.SQL("folded.record -> {}").format(sql.Literal(column.field))
            found[column.name] = _of_row(column.name, column.type), reading.format(value=value)
        elif column.name in _EXTRA:
            found[column.name] = _of_row(column.name, column.type), sql.Identifier("folded", column.name)
    return found


def _of_row(name: LiteralString, kind: LiteralString) -> sql.Composable:
    column = sql.Identifier("kept", name)
    # As the fold has its instants. Numeric, because a column may hold infinity, and no integer does.
    return sql.SQL("trunc(extract(epoch from {}) * 1000000)").format(column) if kind == "timestamptz" else column


def _document(columns: dict[str, sql.Composable]) -> sql.Composed:
    parts = [sql.SQL("{}, {}").format(sql.Literal(name), value) for name, value in columns.items()]
    return sql.SQL("jsonb_build_object({})").format(sql.SQL(", ").join(parts))


def _names(view: View, row: str) -> dict[str, sql.Composable]:
    """The parts of a record's identity in the view's table: columns of `row`, or what the view's one source fixes."""
    fixed = (None, *view.sources[0], None) if view.sources else (None,) * len(IDENTITY)
    return {
        name: sql.SQL("{}::text").format(sql.Literal(constant)) if column is None else sql.Identifier(row, column)
        for name, column, constant in zip(IDENTITY, view.key, fixed, strict=True)
    }


def _parse(document: str | None) -> dict[str, Any] | None:
    if document is None:
        return None
    try:
        parsed: dict[str, Any] = orjson.loads(document)
    except orjson.JSONDecodeError:
        # Somebody gave the row a number that no double holds, which is a difference like any other.
        parsed = json.loads(document, parse_int=_number, parse_float=_number)
    return parsed


def _number(digits: str) -> Any:
    """The number, or its digits when they are too many for a double."""
    return digits if math.isinf(float(digits)) else orjson.loads(digits)


@asynccontextmanager
async def session(settings: Settings) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A connection that sees every user's rows; raises HiddenRowsError when the role may not."""
    async with await connect(settings, "projector_engine") as conn:
        # A policy that would hide rows is an error then, so that an empty view never passes for a correct one.
        await conn.execute("set row_security = off")
        # A page's rows fit, and are sorted several times.
        await conn.execute("set work_mem = '64MB'")
        # The planner knows nothing of how many rows a fold gives, and would loop over them.
        await conn.execute("set enable_nestloop = off")
        try:
            yield conn
        except psycopg.errors.InsufficientPrivilege as error:
            raise HiddenRowsError(
                f"not every row may be compared: {error.diag.message_primary}",
                "run `projector migrate`, and `alter role projector_engine bypassrls` as a superuser",
            ) from error


@asynccontextmanager
async def snapshot(conn: psycopg.AsyncConnection[Any]) -> AsyncIterator[None]:
    """Everything inside sees one state of the database."""
    await conn.execute("begin isolation level repeatable read, read only")
    try:
        yield
    finally:
        if not conn.closed:
            await conn.execute("rollback")
