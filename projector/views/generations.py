"""The two generations of a view: which one serves, and what the spare one holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from projector import crash
from projector.config import Settings
from projector.errors import NotMigratedError, RebuildBusyError
from projector.sql import query
from projector.sql.connection import connect
from projector.views.declared import View
from projector.views.positions import Positions
from projector.views.store import table_of

FILLING = "filling"
READY = "ready"
FAILED = "failed"
PREVIOUS = "previous"
EMPTY = "empty"

TRUNCATE_TRIES = 10
TRUNCATE_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class Generations:
    """`state` is what the spare generation holds: `filling`, `ready`, `failed`, `previous` or `empty`.

    `events` of `total` records of the topics (or rows of the log, by `source`) were read, `changes` of them were the
    view's. `at_work`: some process has the rebuild in hand now. Times are the server's, `seconds` those of filling.
    """

    view: str
    serving: int
    promoted_at: datetime | None
    state: str
    source: str | None
    events: int | None
    total: int | None
    changes: int | None
    seconds: float | None
    error: str | None
    started_at: datetime | None
    updated_at: datetime | None
    at_work: bool

    @property
    def spare(self) -> int:
        """The number of the generation that readers are not shown."""
        return 3 - self.serving


@asynccontextmanager
async def hold_spare(settings: Settings, view: View) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A connection that alone may work on the view's spare generation; raises RebuildBusyError."""
    async with await connect(settings, "projector_engine") as conn:
        locked = await (await conn.execute(query("rebuild/lock"), {"view": view.name})).fetchone()
        if locked != (True,):
            raise RebuildBusyError(f"another rebuild command works on view {view.name}")
        try:
            yield conn
        finally:
            # The server ends a session a little after it was left, and would refuse whoever comes next meanwhile.
            if conn.info.transaction_status == TransactionStatus.IDLE:
                with suppress(psycopg.OperationalError):  # a session that is lost holds nothing
                    await conn.execute(query("rebuild/unlock"), {"view": view.name})


async def load(conn: psycopg.AsyncConnection[Any], views: Iterable[View] | None = None) -> list[Generations]:
    """The generations of `views`, by default of all, ordered by name."""
    names = None if views is None else [view.name for view in views]
    return [
        Generations(*row) for row in await (await conn.execute(query("rebuild/state"), {"views": names})).fetchall()
    ]


async def load_one(conn: psycopg.AsyncConnection[Any], view: View) -> Generations:
    """The generations of `view`; raises NotMigratedError when it has no tables."""
    found = await load(conn, [view])
    if not found:
        raise NotMigratedError(f"view {view.name} has no tables in this database")
    return found[0]


async def empty_spare(conn: psycopg.AsyncConnection[Any], view: View, spare: int) -> None:
    """Removes all rows and positions of the spare generation; what it held is `empty` afterwards.

    Readers name both generations, so a long reader keeps TRUNCATE waiting, and would keep others waiting behind it:
    it is tried for moments only, and then the rows are deleted.
    """
    for _ in range(TRUNCATE_TRIES):
        try:
            async with conn.transaction():
                await _forget(conn, view)
                await conn.execute("set local lock_timeout = '20ms'")
                await conn.execute(sql.SQL("truncate {}").format(table_of(view, spare)))
                crash.point("rebuild.before_emptied")
            return
        except psycopg.errors.LockNotAvailable:
            await asyncio.sleep(TRUNCATE_PAUSE_S)
    async with conn.transaction():
        await _forget(conn, view)
        await conn.execute(sql.SQL("delete from {}").format(table_of(view, spare)))


async def _forget(conn: psycopg.AsyncConnection[Any], view: View) -> None:
    await settle(conn, view, EMPTY)
    await conn.execute(query("rebuild/forget_positions"), {"view": Positions(view.name, "", spare=True).name})


async def settle(conn: psycopg.AsyncConnection[Any], view: View, state: str, error: str | None = None) -> None:
    """Records what the spare generation holds."""
    await conn.execute(query("rebuild/settle"), {"view": view.name, "state": state, "error": error})


async def flip(conn: psycopg.AsyncConnection[Any], view: View) -> None:
    """Lets the spare generation serve, and the serving one be spare, each with its positions.

    Inside a transaction that holds the serving positions. The engine loses its next swap and opens anew.
    """
    serving, spare = Positions(view.name, ""), Positions(view.name, "", spare=True)
    between = f"{view.name}@between"
    await conn.execute(query("rebuild/spare_revision"), {"view": serving.name, "spare": spare.name})
    for old, new in ((serving.name, between), (spare.name, serving.name), (between, spare.name)):
        await conn.execute(query("rebuild/rename_positions"), {"old": old, "new": new})
    await conn.execute(query("rebuild/flip"), {"view": view.name})
    await settle(conn, view, PREVIOUS)
