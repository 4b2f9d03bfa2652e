"""The slot never grows without an alarm: looks at it now and then, exports what it sees, and says who holds it.

A slot that stands still fills the server's disk, or loses its WAL, so whoever can mend it must hear of it in time:
above all while the stream cannot run, because Kafka is away or another process is the writer.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any, Final

import psycopg

from projector.cdc.health import Health, duration, sample, size
from projector.config import Settings
from projector.errors import DatabaseUnavailableError, NotMigratedError
from projector.logging import get
from projector.metrics import (
    CDC_OLDEST_TRANSACTION,
    CDC_SLOT_ACTIVE,
    CDC_SLOT_RETAINED,
    CDC_SLOT_SAFE,
    CDC_SLOT_SECONDS,
    CDC_SLOT_WAL_STATUS,
)
from projector.sql.connection import connect

LOOK_S: Final = 5.0
REMIND_S: Final = 600.0
STANDING_S: Final = 60.0
"""The time left counts only for a slot that stands: so long, or as long as it has left."""

_WELL: Final = 0.8
"""A limit counts as crossed until the figure is well below it, so that one that wavers is told once."""
_QUERY_TIMEOUT_S: Final = 10.0
_BLIND_S: Final = 30.0
"""A database that is away is for the stream to tell; that nobody looks at the slot is told after so long."""
_STATUSES: Final = ("reserved", "extended", "unreserved", "lost", "missing")

_GONE: Final = "it keeps no more WAL; `projector run cdc` makes a new one and publishes the gap out of the table"

log = get("guardian")


class Guardian:
    """Watches one slot, through as many sessions of the stream as there are: what it has told, and since when the slot
    has stood, must outlive them. `run` looks every few seconds, with one query each time."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._slot = settings.slot_name
        self._warn_bytes = settings.slot_warn_bytes
        self._warn_s = settings.slot_warn_s
        self._clock = clock
        self._previous: Health | None = None
        self._told: frozenset[str] = frozenset()
        self._told_at = 0.0

    async def run(self) -> None:
        """Watches for ever, over a connection of its own, which it opens again when it fails."""
        seen_at, told = self._clock(), False
        while True:
            try:
                conn = await connect(self._settings, "projector_cdc")
                try:
                    while True:
                        async with asyncio.timeout(_QUERY_TIMEOUT_S):
                            await self.watch(conn)
                        seen_at, told = self._clock(), False
                        await asyncio.sleep(LOOK_S)
                finally:
                    await conn.close()
            except (psycopg.Error, DatabaseUnavailableError, NotMigratedError, TimeoutError) as error:
                if not told and self._clock() - seen_at >= _BLIND_S:
                    told = True
                    log.warning("cannot look at the slot", slot=self._slot, error=str(error) or type(error).__name__)
            await asyncio.sleep(LOOK_S)

    async def watch(self, conn: psycopg.AsyncConnection[Any]) -> Health | None:
        """Looks once and observes what it saw; None when the slot does not exist. Raises psycopg.Error."""
        self._previous = await sample(conn, self._slot, self._previous)
        self.observe(self._previous)
        return self._previous

    def observe(self, health: Health | None) -> None:
        """Exports the figures; warns when a limit is crossed and every ten minutes then, tells when that is over.

        A holder that shows only later (one has to look for a while to see that a reader confirms nothing) is told too.
        """
        export(health)
        alarms = {} if health is None else self.alarms(health)
        if health is None or not alarms:
            told, self._told = self._told, frozenset()
            if told and health is None:
                log.warning("slot that needed attention is gone", slot=self._slot, remedy=_GONE)
            elif told and health is not None:
                log.info("slot is well again", slot=self._slot, **_figures(health))
            return
        kinds = frozenset(alarms).union(holder.kind for holder in health.holders)
        if not kinds <= self._told or self._clock() - self._told_at >= REMIND_S:
            self._told_at = self._clock()
            self._warn(health, alarms)
        self._told |= kinds

    def alarms(self, health: Health) -> dict[str, str]:
        """What is wrong, by kind: `bytes`, `seconds`, `unreserved`, `lost`; empty when all is well."""
        found = {}
        if health.lost:
            found["lost"] = f"it was invalidated ({health.invalidation})"
            return found
        if health.wal_status == "unreserved":
            found["unreserved"] = "the server may take its WAL away at the next checkpoint"
        if health.retained_bytes >= self._warn_bytes * (_WELL if "bytes" in self._told else 1):
            found["bytes"] = f"it keeps {size(health.retained_bytes)} of WAL"
        left = health.seconds_to_invalidation
        if left is not None and left <= self._warn_s / (_WELL if "seconds" in self._told else 1):
            standing = health.at - health.restart_since
            if "seconds" in self._told or standing >= min(STANDING_S, left):
                found["seconds"] = f"it is invalidated in {duration(left)} at the present rate"
        return found

    def _warn(self, health: Health, alarms: dict[str, str]) -> None:
        holders = health.holders
        log.warning(
            "slot needs attention",
            slot=self._slot,
            because="; ".join(alarms.values()),
            held_by="; ".join(holder.what for holder in holders) or "nothing that shows: it may move within 15 s",
            remedy="; ".join(holder.remedy for holder in holders) or "look again with `projector slot status`",
            pids=[holder.pid for holder in holders if holder.pid is not None],
            **_figures(health),
        )


def export(health: Health | None) -> None:
    """Sets the slot's metrics; limits that do not exist are +Inf, so that `< limit` never fires for them.

    A slot that does not exist keeps nothing, waits for nobody and has no limits; its status tells.
    """
    status = "missing" if health is None else health.wal_status
    for known in _STATUSES:
        CDC_SLOT_WAL_STATUS.labels(known).set(known == status)
    left = None if health is None else health.seconds_to_invalidation
    safe = None if health is None else health.safe_bytes
    transaction = None if health is None else health.transaction
    CDC_SLOT_ACTIVE.set(health is not None and health.active_pid is not None)
    CDC_SLOT_RETAINED.set(0 if health is None else health.retained_bytes)
    CDC_SLOT_SAFE.set(math.inf if safe is None else safe)
    CDC_SLOT_SECONDS.set(math.inf if left is None else left)
    CDC_OLDEST_TRANSACTION.set(0 if transaction is None else transaction.seconds)


def _figures(health: Health) -> dict[str, Any]:
    left = health.seconds_to_invalidation
    return {
        "retained_bytes": health.retained_bytes,
        "lag_bytes": health.lag_bytes,
        "wal_status": health.wal_status,
        "safe_bytes": health.safe_bytes,
        "seconds_to_invalidation": None if left is None else round(left),
    }
