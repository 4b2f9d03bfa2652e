"""Where the log comes from: the server's identity, the generation of its LSNs, and our slot on it.

A slot is recorded in `mana_ai.cdc_sources` before it is created and completed afterwards, so every state that a
crash can leave is told apart: no row and no slot (first start), a row without its LSN (an interrupted creation, done
again), a complete row with its slot (ordinary start), a complete row without (the slot was dropped or lost).
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import psycopg
from psycopg import errors, sql

from projector.cdc.replication import Replication
from projector.config import Settings
from projector.errors import (
    ConfigError,
    ForeignSourceError,
    MissingHistoryError,
    PrivilegeError,
    ReplicationError,
    SlotLostError,
    SlotMissingError,
)
from projector.log.place import lsn_text, parse_lsn
from projector.logging import get
from projector.sql import query

PLUGIN = "pgoutput"
SLOT_RETRY_S = 0.5

Connection = psycopg.AsyncConnection[Any]

log = get("cdc")


class Server(NamedTuple):
    """`wal_sender_timeout` in seconds, 0 when the server never gives up; `lsn` is where its log ends now."""

    system_identifier: str
    lsn: int
    wal_level: str
    wal_sender_timeout: float
    version: int


class Slot(NamedTuple):
    plugin: str
    ours: bool
    """Whether it belongs to this database."""
    active_pid: int | None
    confirmed: int
    wal_status: str
    invalidation: str | None


class Source(NamedTuple):
    """`generation` orders LSNs of different servers; `confirmed` is the slot's confirmed_flush_lsn."""

    generation: int
    confirmed: int


async def read_server(conn: Connection) -> Server:
    row = await (await conn.execute(query("cdc/server"))).fetchone()
    if row is None:
        raise ReplicationError("the server tells nothing about itself")
    return Server(row[0], parse_lsn(row[1]), *row[2:])


async def read_slot(conn: Connection, name: str) -> Slot | None:
    row = await (await conn.execute(query("cdc/slot"), [name])).fetchone()
    if row is None:
        return None
    plugin, ours, active_pid, confirmed, wal_status, invalidation = row
    return Slot(
        plugin, bool(ours), active_pid, parse_lsn(confirmed) if confirmed else 0, wal_status or "", invalidation
    )


async def ensure_slot(conn: Connection, replication: Replication, settings: Settings) -> Source:
    """The generation in force and its slot, created when this is the first start.

    `conn` is a session in projector_cdc, `replication` one with the REPLICATION privilege. Raises ConfigError when
    wal_level is not logical or the slot's name is taken, ForeignSourceError on another server than the one known,
    SlotMissingError, SlotLostError, MissingHistoryError, PrivilegeError.
    """
    server = await read_server(conn)
    if server.wal_level != "logical":
        raise ConfigError(
            f"the server has wal_level={server.wal_level}",
            "set wal_level=logical in postgresql.conf and restart the server",
        )
    known = await (await conn.execute(query("cdc/sources"))).fetchone()
    slot = await read_slot(conn, settings.slot_name)
    if known is None or known[3] is None:
        if known is None and slot is not None:
            raise ConfigError(
                f"a replication slot {settings.slot_name} exists that this installation did not create",
                "set PROJECTOR_SLOT_NAME to another name, or drop it:"
                f" select pg_drop_replication_slot('{settings.slot_name}')",
            )
        return await _create(conn, replication, settings, server, leftover=slot is not None)
    generation, system_identifier, slot_name, _ = known
    if system_identifier != server.system_identifier:
        raise ForeignSourceError(
            f"this is server {server.system_identifier}, the topics hold the log of {system_identifier}"
        )
    if slot_name != settings.slot_name:
        raise ConfigError(
            f"the stream was started with the slot {slot_name}, PROJECTOR_SLOT_NAME says {settings.slot_name}",
            f"set PROJECTOR_SLOT_NAME={slot_name}",
        )
    if slot is None:
        raise SlotMissingError(f"the replication slot {slot_name} was dropped")
    if slot.invalidation or slot.wal_status == "lost":
        raise SlotLostError(f"the replication slot {slot_name} was invalidated ({slot.invalidation})")
    if slot.plugin != PLUGIN or not slot.ours:
        raise ConfigError(
            f"the replication slot {slot_name} belongs to another database or plugin ({slot.plugin})",
            "set PROJECTOR_SLOT_NAME to a name of this installation's own",
        )
    return Source(generation, slot.confirmed)


async def _create(
    conn: Connection, replication: Replication, settings: Settings, server: Server, *, leftover: bool
) -> Source:
    generation = 1
    await conn.execute(query("cdc/add_source"), [generation, server.system_identifier, settings.slot_name])
    name = sql.Identifier(settings.slot_name)
    if leftover:
        await replication.conn.execute(sql.SQL("DROP_REPLICATION_SLOT {}").format(name))
    # A slot that survives a failover of the server, where the server has them.
    options = "SNAPSHOT 'export', FAILOVER" if server.version >= 170_000 else "SNAPSHOT 'export'"
    create = sql.SQL("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput ({})").format(name, sql.SQL(options))
    try:
        row = await (await replication.conn.execute(create)).fetchone()
    except errors.InsufficientPrivilege as error:
        await _undo(conn, replication, settings, generation)
        raise PrivilegeError(f"this login may not create a slot: {error.diag.message_primary}") from error
    except errors.ConfigurationLimitExceeded as error:
        await _undo(conn, replication, settings, generation)
        raise ConfigError(
            f"no replication slot is free: {error.diag.message_primary}", "raise max_replication_slots"
        ) from error
    if row is None:
        raise ReplicationError("the server created no slot")
    consistent_lsn = parse_lsn(row[1])
    snapshot_xmax, has_rows = await _history(conn, row[2])
    if has_rows and not settings.allow_missing_history:
        await _undo(conn, replication, settings, generation)
        raise MissingHistoryError("sync_changes holds rows from before the slot, which the stream does not bring")
    await conn.execute(query("cdc/complete_source"), [lsn_text(consistent_lsn), snapshot_xmax, generation])
    log.info("slot created", slot=settings.slot_name, lsn=lsn_text(consistent_lsn), generation=generation)
    return Source(generation, consistent_lsn)


async def _history(conn: Connection, snapshot: str) -> tuple[str, bool]:
    """Reads in the slot's own snapshot: it shows exactly the rows that the stream will not bring."""
    async with conn.transaction():
        await conn.execute("set transaction isolation level repeatable read")
        await conn.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(snapshot)))
        row = await (await conn.execute(query("cdc/history"))).fetchone()
    return ("0", False) if row is None else (row[0], row[1])


async def _undo(conn: Connection, replication: Replication, settings: Settings, generation: int) -> None:
    if await read_slot(conn, settings.slot_name) is not None:
        drop = sql.SQL("DROP_REPLICATION_SLOT {}").format(sql.Identifier(settings.slot_name))
        await replication.conn.execute(drop)
    await conn.execute(query("cdc/drop_source"), [generation])


async def start_when_free(replication: Replication, settings: Settings, stop: asyncio.Event) -> bool:
    """Starts the stream as soon as no other session holds the slot; False when `stop` was set meanwhile."""
    waiting = False
    while not stop.is_set():
        if await replication.start(settings.slot_name, settings.publication_name):
            return True
        if not waiting:
            waiting = True
            log.info("slot is active in another session; waiting for it", slot=settings.slot_name)
        try:
            await asyncio.wait_for(stop.wait(), SLOT_RETRY_S)
        except TimeoutError:
            continue
    return False


async def confirmed_now(conn: Connection, settings: Settings, source: Source) -> Source:
    """`source` with what the slot has confirmed by now; exact while this process reads the slot."""
    slot = await read_slot(conn, settings.slot_name)
    if slot is None:
        raise SlotMissingError(f"the replication slot {settings.slot_name} was dropped")
    return source._replace(confirmed=max(slot.confirmed, source.confirmed))


async def holds_slot(conn: Connection, settings: Settings, pid: int) -> bool:
    """Whether the server still counts the session with backend `pid` as the reader of our slot."""
    slot = await read_slot(conn, settings.slot_name)
    return slot is not None and slot.active_pid == pid
