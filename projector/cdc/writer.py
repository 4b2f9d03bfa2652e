"""The one writer: whoever holds a lock in the database may create slots, fill topics and stream."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import psycopg
from psycopg.pq import TransactionStatus

from projector.config import Settings
from projector.errors import DatabaseUnavailableError, ReplicationError
from projector.logging import get
from projector.sql import query
from projector.waiting import pause

RETRY_S: Final = 0.5
DEFAULT_TIMEOUT_S: Final = 60.0

log = get("cdc")


class Writer:
    """Holds an advisory lock in a session of projector_cdc that the server ends when nothing is heard of it.

    `timeout` (seconds) is the server's wal_sender_timeout: a process that was paused for so long finds both its
    session and its slot taken, and a successor may have written meanwhile. So whoever is about to write after half
    of that in silence asks first, by `make_sure`.
    """

    def __init__(self, conn: psycopg.AsyncConnection[Any], settings: Settings, timeout: float) -> None:
        self.conn = conn
        self.timeout = timeout or DEFAULT_TIMEOUT_S
        self._slot = settings.slot_name
        self._heard = time.monotonic()

    async def acquire(self, stop: asyncio.Event) -> bool:
        """Waits until no other session holds the lock; False when `stop` was set meanwhile."""
        await self.conn.execute(query("cdc/idle_timeout"), {"timeout": f"{round(self.timeout * 1000)}ms"})
        waiting = False
        while not stop.is_set():
            row = await (await self.conn.execute(query("cdc/writer_lock"), [self._slot])).fetchone()
            self._heard = time.monotonic()
            if row is not None and row[0]:
                return True
            if not waiting:
                waiting = True
                log.info("another process streams; waiting for it to end", slot=self._slot)
            await pause(RETRY_S, stop)
        return False

    async def keep(self) -> None:
        """Lets the server hear of us, for ever; raises psycopg.Error when the session is gone."""
        while True:
            await asyncio.sleep(self.timeout / 6)
            # A session at work is not idle, and a query of ours must not get into its transaction.
            if self.conn.info.transaction_status in (TransactionStatus.IDLE, TransactionStatus.UNKNOWN):
                await self._ask()

    async def make_sure(self) -> None:
        """Raises ReplicationError or psycopg.Error unless the lock has been ours all along."""
        if time.monotonic() - self._heard >= self.timeout / 2:
            await self._ask()

    async def _ask(self) -> None:
        asked = time.monotonic()
        try:
            async with asyncio.timeout(self.timeout / 2):
                await self.conn.execute("select")
        except TimeoutError:
            raise DatabaseUnavailableError("PostgreSQL does not answer") from None
        except psycopg.OperationalError as error:
            raise ReplicationError(f"the session of the writer was ended, another may write now: {error}") from error
        self._heard = asked
