"""What the stream asks of the server: who it is, and how our slot is."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import psycopg

from projector.cdc.visibility import Snapshot
from projector.errors import ConfigError, DatabaseUnavailableError, ReplicationError
from projector.log.place import parse_lsn
from projector.sql import query

PLUGIN: Final = "pgoutput"

Connection = psycopg.AsyncConnection[Any]


class Server(NamedTuple):
    """`wal_sender_timeout` in seconds, 0 when the server never gives up; `lsn` is where its log ends now."""

    system_identifier: str
    lsn: int
    wal_level: str
    wal_sender_timeout: float
    version: int
    in_recovery: bool


class Slot(NamedTuple):
    plugin: str
    ours: bool
    """Whether it belongs to this database."""
    active_pid: int | None
    confirmed: int
    wal_status: str
    invalidation: str | None

    @classmethod
    def of(cls, row: tuple[Any, ...] | None) -> Slot | None:
        """From the answer of `cdc/slot`; None when there is no such slot."""
        if row is None:
            return None
        plugin, ours, active_pid, confirmed, wal_status, invalidation = row
        lsn = parse_lsn(confirmed) if confirmed else 0
        return cls(plugin, bool(ours), active_pid, lsn, wal_status or "", invalidation)

    @property
    def lost(self) -> bool:
        return self.invalidation is not None or self.wal_status == "lost"


async def read_server(conn: Connection) -> Server:
    """Raises ConfigError when it cannot be streamed from, DatabaseUnavailableError when it is a standby."""
    row = await (await conn.execute(query("cdc/server"))).fetchone()
    if row is None:
        raise ReplicationError("the server tells nothing about itself")
    server = Server(row[0], parse_lsn(row[1]), *row[2:])
    if server.in_recovery:
        raise DatabaseUnavailableError(
            "the server is a standby", "promote it, or point PROJECTOR_DATABASE_URL at the primary"
        )
    if server.wal_level != "logical":
        raise ConfigError(
            f"the server has wal_level={server.wal_level}",
            "set wal_level=logical in postgresql.conf and restart the server",
        )
    return server


async def read_slot(conn: Connection, name: str) -> Slot | None:
    return Slot.of(await (await conn.execute(query("cdc/slot"), [name])).fetchone())


async def read_snapshot(conn: Connection) -> Snapshot:
    """What a query that begins now can see."""
    row = await (await conn.execute(query("cdc/snapshot"))).fetchone()
    if row is None:
        raise ReplicationError("the server does not say what can be seen")
    return Snapshot.parse(row[0])


async def holds_slot(conn: Connection, name: str, pid: int) -> bool:
    """Whether the server still counts the session with backend `pid` as the reader of the slot."""
    slot = await read_slot(conn, name)
    return slot is not None and slot.active_pid == pid
