"""Holds a view against a fold of `sync_changes` that shares no code with the engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import psycopg
from psycopg import sql

from projector.config import Settings
from projector.sql import query
from projector.sql.connection import connect
from projector.views.declared import IDENTITY, Identity, View
from projector.views.store import SCHEMA

EXAMPLES = 20
SETTLE_S = 5.0
"""How long a difference may be what the view has not applied yet."""
SETTLE_POLL_S = 0.2

_ABSENT = "(absent)"


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place, in order of names, at which a row and the log part; both values as JSON text."""

    identity: Identity
    path: str
    serving: str
    log: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """`rows` records were compared, of the log and of the view together."""

    view: str
    rows: int
    differences: int
    examples: tuple[Difference, ...]


async def verify(
    settings: Settings, view: View, *, users: Sequence[str] | None = None, settle_s: float = SETTLE_S
) -> VerifyReport:
    """Compares every record (of `users`, when given) with the log: what it shows, its deletion, and each stamp.

    The log runs ahead of a live view, so records that differ are looked at again until they agree, for at most
    `settle_s` seconds.
    """
    async with await connect(settings, "projector_engine") as conn:
        deadline = time.monotonic() + settle_s
        rows, found = await _compare(conn, settings, view, users)
        while found and time.monotonic() < deadline:
            await asyncio.sleep(SETTLE_POLL_S)
            _, again = await _compare(conn, settings, view, sorted({one.identity[0] for one in found}))
            known = {one.identity for one in found}
            found = [one for one in again if one.identity in known]
    return VerifyReport(view.name, rows, len(found), tuple(found[:EXAMPLES]))


async def _compare(
    conn: psycopg.AsyncConnection[Any], settings: Settings, view: View, users: Sequence[str] | None
) -> tuple[int, list[Difference]]:
    named = view.sources or tuple(source for other in view.rest_of for source in other.sources)
    parameters = {
        "apps": list(view.apps(settings.apps)),
        "source_apps": [app for app, _ in named],
        "source_tables": [table for _, table in named],
        "named": bool(view.sources),
        "users": None if users is None else list(users),
    }
    rows = await (await conn.execute(_statement(view), parameters)).fetchall()
    total = rows[0][0]
    differences = []
    for _, *identity, serving, log in rows:
        if identity[0] is None:
            continue
        place = first_difference(_parse(serving), _parse(log))
        if place is not None:
            differences.append(Difference((identity[0], identity[1], identity[2], identity[3]), *place))
    return total, differences


def _statement(view: View) -> sql.Composed:
    """Rows (total, identity, serving, log): the total alone when nothing differs."""
    identity = sql.SQL(", ").join(map(sql.Identifier, IDENTITY))
    constants = dict(zip(IDENTITY[1:3], view.sources[0], strict=True)) if view.sources else {}
    keys = [
        sql.SQL("{} as {}").format(
            sql.Literal(constants[name]) if column is None else sql.Identifier(column), sql.Identifier(name)
        )
        for name, column in zip(IDENTITY, view.key, strict=True)
    ]
    return sql.Composed(
        [
            sql.SQL("with log as ("),
            sql.SQL(query(view.log_fold)),
            sql.SQL("), serving as (select {}, record, deleted, complete, state -> 'w' as writes from {}").format(
                sql.SQL(", ").join(keys), sql.Identifier(SCHEMA, view.table)
            ),
            sql.SQL(" where %(users)s::text[] is null or user_id = any (%(users)s)), "),
            sql.SQL(query("views/verify")).format(identity=identity),
        ]
    )


def _parse(row: str | None) -> Any:
    return {} if row is None else orjson.loads(row)


def first_difference(serving: Any, log: Any, path: str = "") -> tuple[str, str, str] | None:
    """(path, serving value, log value) where two JSON values first part; numbers are doubles, as on devices."""
    if isinstance(serving, dict) and isinstance(log, dict):
        for name in sorted(serving.keys() | log.keys()):
            below = f"{path}.{name}" if path else name
            if name not in serving or name not in log:
                return below, _show(serving, name), _show(log, name)
            found = first_difference(serving[name], log[name], below)
            if found is not None:
                return found
        return None
    if isinstance(serving, list) and isinstance(log, list):
        for index, (one, other) in enumerate(zip(serving, log, strict=False)):
            found = first_difference(one, other, f"{path}[{index}]")
            if found is not None:
                return found
        if len(serving) == len(log):
            return None
        return f"{path}[{min(len(serving), len(log))}]", f"{len(serving)} items", f"{len(log)} items"
    if serving == log and isinstance(serving, bool) == isinstance(log, bool):
        return None
    return path, orjson.dumps(serving).decode(), orjson.dumps(log).decode()


def _show(values: dict[str, Any], name: str) -> str:
    return orjson.dumps(values[name]).decode() if name in values else _ABSENT
