"""Whether anything may leave the installation: calls of the model, research, and changes written into the log.

An operator stops both with one row of the database; the tokens spent in a day stop them by themselves. Runs are opened
all the same, and held: what was due while effects were stopped is carried out when they happen again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from psycopg import sql

from projector import metrics
from projector.planner.gates import Verdict
from projector.planner.ledger import Connection, Pool
from projector.planner.storable import storable
from projector.sql import query

Cause = Literal["operator", "spend-cap"]
CAUSES: tuple[Cause, ...] = ("operator", "spend-cap")
MAX_REASON = 300
EFFECTS = sql.SQL(query("planner/effects"))
"""One row, for the `{effects}` of a query whose session has the time zone UTC."""


@dataclass(frozen=True, slots=True)
class Effects:
    """`spent`: tokens of the installation since the day began (UTC). `cap` 0: none."""

    stopped_at: datetime | None
    reason: str | None
    spent: int
    cap: int

    @property
    def cause(self) -> Cause | None:
        """What stops them now; None when they happen."""
        if self.stopped_at is not None:
            return "operator"
        if self.cap and self.spent >= self.cap:
            return "spend-cap"
        return None

    @property
    def verdict(self) -> Verdict | None:
        """What a run is told that wants one; None when nothing stands against it."""
        if self.stopped_at is not None:
            since = self.stopped_at.strftime("%Y-%m-%d %H:%M:%S UTC")
            return Verdict("hold", "skipped-stopped", f"effects are stopped since {since}: {self.reason}")
        if self.cause == "spend-cap":
            reason = f"effects are stopped until the day ends (UTC): {self.spent} of {self.cap} tokens are spent"
            return Verdict("hold", "skipped-spend-cap", reason)
        return None


async def read_effects(conn: Connection, cap: int) -> Effects:
    """Asks the database, and sets the metric. `conn` is one of projector_planner, whose time zone is UTC."""
    row = await (await conn.execute(EFFECTS)).fetchone()
    assert row is not None, "the migration made the row, and no role may delete it"
    return effects_of(*row, cap=cap)


def effects_of(stopped_at: datetime | None, reason: str | None, spent: int, *, cap: int) -> Effects:
    """The columns of `EFFECTS`; sets the metric."""
    effects = Effects(stopped_at, reason, spent, cap)
    for cause in CAUSES:
        metrics.EFFECTS_STOPPED.labels(cause=cause).set(effects.cause == cause)
    return effects


async def are_stopped(pool: Pool, cap: int) -> bool:
    """Whether nothing may be written now; `pool` holds connections of projector_planner."""
    async with pool.connection() as conn:
        return (await read_effects(conn, cap)).cause is not None


async def wake_stopped(conn: Connection) -> int:
    """Lets runs that were held because effects were stopped be looked at now."""
    return (await conn.execute(query("planner/wake_stopped"))).rowcount


async def stop_effects(conn: Connection, reason: str | None) -> None:
    """Stops them wherever planner and sink run, before their next call or write. `reason` is for people."""
    text = storable(" ".join((reason or "").split()))[:MAX_REASON] or None
    await conn.execute(query("planner/stop_effects"), {"reason": text})


async def start_effects(conn: Connection) -> None:
    """Lets them happen again, as far as the day's cap does. Held runs are woken by the timers' next pass."""
    await conn.execute(query("planner/start_effects"))
