"""The life of our slot: created with a snapshot that fits it to the row, started, dropped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import chain, repeat

from psycopg import errors, sql

from projector import crash
from projector.cdc import fill
from projector.cdc.fill import Plan
from projector.cdc.health import sample
from projector.cdc.replication import Replication
from projector.cdc.server import Connection, read_slot
from projector.config import Settings
from projector.errors import ConfigError, PrivilegeError, ReplicationError
from projector.log.place import lsn_text, parse_lsn
from projector.log.watermark import Ends
from projector.logging import get
from projector.sql import query
from projector.waiting import alongside, pause

RETRY_S = 0.5
TELL_S = 5.0
REMIND_S = 60.0
FIRST_WITH_FAILOVER = 170_000

log = get("cdc")


async def create_slot(
    conn: Connection, replication: Replication, settings: Settings, generation: int, plan: Plan, ends: Ends
) -> None:
    """Creates the slot anew and, in the same snapshot, lays out the fill that brings what the slot does not.

    A crash in between leaves `slot_ready` false, and everything is done again. Raises PrivilegeError, ConfigError.
    """
    name = settings.slot_name
    await conn.execute(query("cdc/slot_wanted"), [generation])
    crash.point("cdc.before_slot")
    if (slot := await read_slot(conn, name)) is not None:
        # WAIT: a reader that was paused may still hold it, until the server gives that up.
        if slot.active_pid is not None:
            log.info("slot is active in another session; waiting to drop it", slot=name, pid=slot.active_pid)
        await replication.conn.execute(sql.SQL("DROP_REPLICATION_SLOT {} WAIT").format(sql.Identifier(name)))
    failover = replication.conn.info.server_version >= FIRST_WITH_FAILOVER
    options = "SNAPSHOT 'export', FAILOVER" if failover else "SNAPSHOT 'export'"
    lsn, snapshot = await _create(conn, replication, name, "", options)
    crash.point("cdc.after_slot_before_recorded")
    async with _in_snapshot(conn, snapshot):
        await conn.execute(query("cdc/drop_fills"), [generation])
        await fill.lay_out(conn, generation, plan, lsn, ends)
        await conn.execute(query("cdc/slot_ready"), {"generation": generation, "lsn": lsn_text(lsn)})
        await _bring(conn, generation, plan.apps, lsn)
    crash.point("cdc.after_recorded")
    log.info("slot created", slot=name, lsn=lsn_text(lsn), source=generation, fill=plan.reason)


async def add_apps(
    conn: Connection, replication: Replication, settings: Settings, generation: int, plan: Plan, ends: Ends
) -> None:
    """Lays out the fill of apps that the stream has not brought so far, and from which LSN it will.

    A slot of its own, gone at once, gives the LSN and the snapshot that fits it to the row; it also waits until no
    transaction is left that began before the publication named these apps.
    """
    name = f"{settings.slot_name[:50]}_added_apps"
    lsn, snapshot = await _create(conn, replication, name, "TEMPORARY", "SNAPSHOT 'export'")
    try:
        async with _in_snapshot(conn, snapshot):
            await fill.lay_out(conn, generation, plan, lsn, ends)
            await _bring(conn, generation, plan.apps, lsn)
    finally:
        await replication.conn.execute(sql.SQL("DROP_REPLICATION_SLOT {}").format(sql.Identifier(name)))
    log.info("apps added", apps=plan.apps, lsn=lsn_text(lsn))


async def _create(conn: Connection, replication: Replication, name: str, kind: str, options: str) -> tuple[int, str]:
    """Returns the slot's consistent point and the snapshot of just before it.

    The server waits until every transaction has ended that writes now. It drops the slot when this is cancelled.
    """
    create = sql.SQL("CREATE_REPLICATION_SLOT {} {} LOGICAL pgoutput ({})").format(
        sql.Identifier(name), sql.SQL(kind), sql.SQL(options)
    )
    log.info("creating the slot", slot=name)
    try:
        cursor = await alongside(_tell_what_it_waits_for(conn, name), replication.conn.execute(create))
        row = await cursor.fetchone()
    except errors.InsufficientPrivilege as error:
        raise PrivilegeError(f"this login may not create a slot: {error.diag.message_primary}") from error
    except errors.ConfigurationLimitExceeded as error:
        raise ConfigError(
            f"no replication slot is free: {error.diag.message_primary}", "raise max_replication_slots"
        ) from error
    if row is None:
        raise ReplicationError("the server created no slot")
    return parse_lsn(row[1]), row[2]


async def _tell_what_it_waits_for(conn: Connection, name: str) -> None:
    """For as long as the slot is being created; it is there to be looked at from the beginning."""
    health = None
    for again_s in chain([TELL_S], repeat(REMIND_S)):
        await asyncio.sleep(again_s)
        health = await sample(conn, name, health)
        for holder in [] if health is None else health.holders:
            if holder.kind == "transaction":
                log.warning(
                    "the slot's creation waits for an open transaction",
                    slot=name,
                    waits_for=holder.what,
                    remedy=holder.remedy,
                    pid=holder.pid,
                )


@asynccontextmanager
async def _in_snapshot(conn: Connection, snapshot: str) -> AsyncIterator[None]:
    """A transaction that sees exactly what the stream of the new slot will not bring."""
    async with conn.transaction():
        await conn.execute("set transaction isolation level repeatable read")
        await conn.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(snapshot)))
        await conn.execute("set local row_security = off")
        yield


async def _bring(conn: Connection, generation: int, apps: tuple[str, ...], lsn: int) -> None:
    await conn.execute(query("cdc/add_apps"), {"generation": generation, "apps": list(apps), "lsn": lsn_text(lsn)})


async def start_when_free(replication: Replication, settings: Settings, stop: asyncio.Event) -> bool:
    """Starts the stream as soon as no other session holds the slot; False when `stop` was set meanwhile."""
    waiting = False
    while not stop.is_set():
        if await replication.start(settings.slot_name, settings.publication_name):
            return True
        if not waiting:
            waiting = True
            log.info("slot is active in another session; waiting for it", slot=settings.slot_name)
        await pause(RETRY_S, stop)
    return False


async def confirmed_lsn(conn: Connection, settings: Settings) -> int:
    """What the slot has confirmed by now; exact while this process reads the slot."""
    slot = await read_slot(conn, settings.slot_name)
    if slot is None:
        raise ReplicationError(f"the replication slot {settings.slot_name} was dropped")
    return slot.confirmed
