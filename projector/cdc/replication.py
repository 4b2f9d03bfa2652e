"""The replication connection: COPY BOTH over psycopg 3, read until it would block.

psycopg has no API for replication; since 3.3 it lets START_REPLICATION pass, and libpq's own functions do the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import errors, sql
from psycopg.pq import ExecStatus

from projector.cdc.wire import KEEPALIVE, XLOG_DATA, XLOG_HEADER, Keepalive, parse_keepalive, standby_status
from projector.config import Settings
from projector.errors import MalformedMessageError, PublicationMissedError, ReplicationError
from projector.metrics import CDC_STATUS_UPDATES
from projector.sql.connection import complete, explain_failure

# How values are printed is ours to say: `rows` relies on it.
_OPTIONS = "-c timezone=UTC -c datestyle=ISO -c client_encoding=UTF8 -c statement_timeout=0"

# A read that brought less than this has emptied the socket; asking again would only cost a system call.
_MORE_LIKELY = 8 * 1024


class Replication:
    """A session in replication mode, first for commands, after `start` for the stream."""

    def __init__(self, conn: psycopg.AsyncConnection[Any]) -> None:
        self.conn = conn
        self._pgconn = conn.pgconn
        self._unflushed = False

    @classmethod
    async def connect(cls, settings: Settings) -> Replication:
        """Raises DatabaseUnavailableError, also when the login may not replicate."""
        try:
            conn = await psycopg.AsyncConnection.connect(
                complete(
                    settings.require_replication(),
                    replication="database",
                    options=_OPTIONS,
                    application_name="projector_cdc",
                ),
                autocommit=True,
            )
        except psycopg.OperationalError as error:
            raise explain_failure(error) from error
        return cls(conn)

    async def start(self, slot: str, publication: str) -> bool:
        """Starts to stream from the slot's confirmed LSN. False when the slot is active in another session.

        Raises ReplicationError when there is no such slot: it was dropped since the session found it.
        """
        command = sql.SQL(
            "START_REPLICATION SLOT {} LOGICAL 0/0 (proto_version '1', publication_names {}, messages 'true')"
        ).format(sql.Identifier(slot), sql.Literal(publication))
        try:
            await self.conn.execute(command)
        except errors.ObjectInUse:
            return False
        except errors.UndefinedObject as error:
            raise ReplicationError(f"the stream cannot start: {error.diag.message_primary}") from error
        return True

    async def timeline(self) -> int:
        """The timeline that the server is on."""
        row = await (await self.conn.execute("IDENTIFY_SYSTEM")).fetchone()
        if row is None:
            raise ReplicationError("the server does not say on which timeline it is")
        return int(row[1])

    async def timeline_history(self, timeline: int) -> str:
        """The history file of a timeline; there is none for the first, so it must not be asked for."""
        row = await (await self.conn.execute(sql.SQL("TIMELINE_HISTORY {}").format(timeline))).fetchone()
        if row is None:
            raise ReplicationError(f"the server has no history of its timeline {timeline}")
        return row[1].decode("utf-8", "replace") if isinstance(row[1], bytes) else str(row[1])

    @property
    def backend_pid(self) -> int:
        return self.conn.info.backend_pid

    def fileno(self) -> int:
        return self._pgconn.socket

    def receive(
        self, on_message: Callable[[bytes], None], on_keepalive: Callable[[Keepalive], None], budget: int
    ) -> int:
        """Hands over what has arrived, up to about `budget` bytes; returns how many there were.

        Raises psycopg.OperationalError when the connection is gone, ReplicationError when the server ended the
        stream, MalformedMessageError for a frame of an unknown kind, PublicationMissedError.
        """
        pgconn = self._pgconn
        get_copy_data = pgconn.get_copy_data
        total = 0
        while total < budget:
            pgconn.consume_input()
            before = total
            while True:
                size, frame = get_copy_data(1)
                if size <= 0:
                    break
                total += size
                kind = frame[0]
                if kind == XLOG_DATA:
                    on_message(bytes(frame[XLOG_HEADER:]))
                elif kind == KEEPALIVE:
                    on_keepalive(parse_keepalive(bytes(frame)))
                else:
                    raise MalformedMessageError(f"replication frame of unknown kind {kind}")
            if size < 0:
                self._ended()
            if total - before < _MORE_LIKELY:
                break
        return total

    def _ended(self) -> None:
        result = self._pgconn.get_result()
        if result is not None and result.status == ExecStatus.FATAL_ERROR:
            error = errors.error_from_result(result, encoding="utf-8")
            if isinstance(error, errors.UndefinedObject):
                # Of the publication as it was when the change was written: what the slot holds stays so.
                reason = error.diag.message_primary
                raise PublicationMissedError(
                    f"before PostgreSQL 18 nothing can be decoded that was written without it: {reason}"
                ) from error
            raise error
        raise ReplicationError("the server ended the stream")

    def confirm(self, received: int, flushed: int, *, reply_wanted: bool) -> None:
        """Tells the server how far we are. What the socket does not take now goes out with `flush`."""
        status = standby_status(received, flushed, reply_wanted=reply_wanted)
        if self._pgconn.put_copy_data(status) == 1:
            CDC_STATUS_UPDATES.inc()
        self.flush()

    def flush(self) -> None:
        self._unflushed = self._pgconn.flush() == 1

    @property
    def unflushed(self) -> bool:
        return self._unflushed

    async def close(self) -> None:
        await self.conn.close()
