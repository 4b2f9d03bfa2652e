"""The slot never grows without an alarm: looks at it now and then, exports what it sees, and says who holds it.

A slot that stands still fills the server's disk, or loses its WAL, so whoever can mend it must hear of it in time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Final

import psycopg

from projector.cdc.health import Health, duration, sample, size
from projector.config import Settings
from projector.logging import get
from projector.metrics import (
    CDC_OLDEST_TRANSACTION,
    CDC_SLOT_ACTIVE,
    CDC_SLOT_RETAINED,
    CDC_SLOT_SAFE,
    CDC_SLOT_SECONDS,
    CDC_SLOT_WAL_STATUS,
)

REMIND_S: Final = 600.0
STANDING_S: Final = 60.0
"""The time left counts only for a slot that stands: so long, or as long as it has left."""

_WELL: Final = 0.8
"""A limit counts as crossed until the figure is well below it, so that one that wavers is told once."""
_STATUSES: Final = ("reserved", "extended", "unreserved", "lost", "missing")

log = get("guardian")


class Guardian:
    """Watches one slot. Call `watch` every few seconds; it asks one query each time."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._slot = settings.slot_name
        self._warn_bytes = settings.slot_warn_bytes
        self._warn_s = settings.slot_warn_s
        self._clock = clock
        self._previous: Health | None = None
        self._told: frozenset[str] = frozenset()
        self._told_at = 0.0

    async def watch(self, conn: psycopg.AsyncConnection[Any]) -> Health | None:
        """Looks once and observes what it saw; None when the slot does not exist. Raises psycopg.Error."""
        self._previous = await sample(conn, self._slot, self._previous)
        self.observe(self._previous)
        return self._previous

    def observe(self, health: Health | None) -> None:
        """Exports the figures; warns when a limit is crossed and every ten minutes then, tells when all is well again.

        A holder that shows only later (one has to look for a while to see that a reader confirms nothing) is told too.
        """
        export(health)
        alarms = {} if health is None else self.alarms(health)
        if health is None or not alarms:
            if self._told:
                log.info("slot is well again", slot=self._slot, **({} if health is None else _figures(health)))
            self._told = frozenset()
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
    """Sets the slot's metrics; limits that do not exist are +Inf, so that `< limit` never fires for them."""
    status = "missing" if health is None else health.wal_status
    for known in _STATUSES:
        CDC_SLOT_WAL_STATUS.labels(known).set(known == status)
    if health is None:
        CDC_SLOT_ACTIVE.set(0)
        CDC_SLOT_RETAINED.set(0)
        return
    left = health.seconds_to_invalidation
    CDC_SLOT_ACTIVE.set(health.active_pid is not None)
    CDC_SLOT_RETAINED.set(health.retained_bytes)
    CDC_SLOT_SAFE.set(math.inf if health.safe_bytes is None else health.safe_bytes)
    CDC_SLOT_SECONDS.set(math.inf if left is None else left)
    CDC_OLDEST_TRANSACTION.set(0 if health.transaction is None else health.transaction.seconds)


def _figures(health: Health) -> dict[str, Any]:
    left = health.seconds_to_invalidation
    return {
        "retained_bytes": health.retained_bytes,
        "lag_bytes": health.lag_bytes,
        "wal_status": health.wal_status,
        "safe_bytes": health.safe_bytes,
        "seconds_to_invalidation": None if left is None else round(left),
    }
