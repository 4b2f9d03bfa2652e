"""Folds a view from `sync_changes` itself, where the topics no longer reach back to the beginning."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import Any

import psycopg
from psycopg import sql

from projector import crash
from projector.log.change import BadChange, Change, decode
from projector.log.place import Place
from projector.logging import get
from projector.sql import query
from projector.views.declared import Identity, View
from projector.views.held import Row, fold_anew
from projector.views.progress import Tell
from projector.views.reload import LOG_VALUE
from projector.views.store import Store

USERS_AT_ONCE = 200
ROWS_AT_ONCE = 2_000

log = get("views")


async def fill_from_log(
    conn: psycopg.AsyncConnection[Any], view: View, apps: tuple[str, ...], store: Store, place: Place, tell: Tell
) -> None:
    """Folds every record of `apps` that the view takes into its row, user by user; goes on where it was interrupted.

    Memory is bounded by the largest record. Every row says that it comes from `place`.
    """
    row = await (await conn.execute(query("rebuild/log_after"), {"view": view.name})).fetchone()
    after = "" if row is None else row[0]
    events = changes = 0
    while True:
        parameters: dict[str, Any] = {"apps": list(apps), "after": after, "limit": USERS_AT_ONCE}
        users = [user for (user,) in await (await conn.execute(query("rebuild/log_users"), parameters)).fetchall()]
        if not users:
            return
        async with conn.transaction():
            async with conn.cursor(name="log_rows") as cursor:
                await cursor.execute(
                    sql.SQL(query("rebuild/log_rows")).format(value=LOG_VALUE), {"apps": list(apps), "users": users}
                )
                ready: list[Row] = []
                rest: list[tuple[Any, ...]] = []
                while found := await cursor.fetchmany(ROWS_AT_ONCE):
                    events += len(found)
                    # The last record may go on in what is fetched next.
                    last = found[-1][:4]
                    rows = rest + found
                    rest = [one for one in rows if one[:4] == last]
                    changes += _fold(view, [one for one in rows if one[:4] != last], place, ready)
                    ready = await _put(conn, store, ready)
                    tell(events, changes)
                changes += _fold(view, rest, place, ready)
            await _put(conn, store, ready)
            after = users[-1]
            await conn.execute(query("rebuild/log_done"), {"view": view.name, "after": after})
            crash.point("rebuild.mid_log")
        tell(events, changes)


async def _put(conn: psycopg.AsyncConnection[Any], store: Store, rows: list[Row]) -> list[Row]:
    await store.write(conn, rows, len(rows), new=True)
    return []


def _fold(view: View, rows: list[tuple[Any, ...]], place: Place, ready: list[Row]) -> int:
    """Adds a row for each record to `ready`; returns how many changes went into them."""
    changes = 0
    for key, its_rows in groupby(rows, itemgetter(0, 1, 2, 3)):
        identity: Identity = key
        if not view.takes(identity[1], identity[2]):
            continue
        usable = [change for change in (_decode(value) for *_, value in its_rows) if change is not None]
        changes += len(usable)
        if usable:
            ready.append(fold_anew(view.fold, usable, place).row(view, identity))
    return changes


def _decode(value: str) -> Change | None:
    try:
        return decode(value.encode())
    except BadChange as bad:
        log.warning("unusable change in the log", code=bad.code)
        return None
