"""How long the ledger keeps what is over: finished runs, what was written in them, what was spent, who read."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, LiteralString

import psycopg

from projector import freeze, metrics
from projector.config import Settings
from projector.health.parts import moved
from projector.logging import get
from projector.planner.ledger import Pool
from projector.sql import query
from projector.sql.connection import DATABASE_AWAY

Kind = Literal["runs", "steps", "usage", "reads"]
KINDS: tuple[Kind, ...] = ("steps", "runs", "usage", "reads")
BATCH: Final[Mapping[Kind, int]] = {"runs": 200, "steps": 100, "usage": 5000, "reads": 5000}
"""Most rows that one transaction takes: of `runs` with their steps, and for `steps` the runs emptied."""
BATCHES = 50
"""Most transactions of one pass for each kind. What is left then waits for the next pass."""
RETENTION = "retention"
"""The part of the timers that must move: one pass, batch by batch."""
PAUSE_S = 0.05
"""Between two of them: others come first."""

_PRUNE: Final[Mapping[Kind, LiteralString]] = {
    "runs": "planner/prune_runs",
    "steps": "planner/prune_steps",
    "usage": "planner/prune_usage",
    "reads": "planner/prune_reads",
}

Connection = psycopg.AsyncConnection[Any]
Cutoffs = Mapping[Kind, datetime]
"""What is older is forgotten; a kind that is missing is kept for ever."""

log = get("timers")


def cutoffs(settings: Settings) -> Cutoffs:
    """Those of the settings, now."""
    days: Mapping[Kind, int] = {
        "steps": settings.keep_steps_days,
        "runs": settings.keep_runs_days,
        "usage": settings.keep_usage_days,
        "reads": settings.keep_reads_days,
    }
    now = datetime.now(UTC)
    return {kind: now - timedelta(days=number) for kind, number in days.items() if number}


async def count_prunable(conn: Connection, before: Cutoffs) -> dict[Kind, int]:
    """How many rows `prune` would take now."""
    row = await (await conn.execute(query("planner/prunable"), {kind: before.get(kind) for kind in KINDS})).fetchone()
    assert row is not None, "a query without a table gives one row"
    return dict(zip(KINDS, row, strict=True))


async def prune_batch(conn: Connection, kind: Kind, before: datetime) -> int:
    """Takes up to `BATCH` of the oldest in one transaction; when it returns less, nothing older is left.

    Unfinished runs are never touched, nor what budgets ask for, and no due time fires again for it. `conn` is an
    autocommit connection of projector_planner. Several may do this at once.
    """
    cursor = await conn.execute(query(_PRUNE[kind]), {"before": before, "limit": BATCH[kind]})
    metrics.RETENTION_DELETED.labels(kind=kind).inc(cursor.rowcount)
    return cursor.rowcount


async def prune(conn: Connection, before: Cutoffs) -> AsyncIterator[tuple[Kind, int]]:
    """Goes on batch by batch until nothing is left; yields after each how many rows it took. May end at any moment."""
    for kind in KINDS:
        while kind in before:
            rows = await prune_batch(conn, kind, before[kind])
            yield kind, rows
            if rows < BATCH[kind]:
                break


class Retention:
    """The pass that timers make. `pool` holds connections of projector_planner."""

    def __init__(self, settings: Settings, pool: Pool) -> None:
        self._settings = settings
        self._pool = pool

    async def apply(self) -> None:
        """Deletes what is due for it, up to BATCHES of each kind; a database that is away is logged and counted."""
        deleted: Counter[str] = Counter()
        more: list[str] = []
        await freeze.point("timers.retention")
        try:
            async with self._pool.connection() as conn:
                for kind, before in cutoffs(self._settings).items():
                    for _ in range(BATCHES):
                        rows = await prune_batch(conn, kind, before)
                        moved(RETENTION)
                        deleted[kind] += rows
                        if rows < BATCH[kind]:
                            break
                        await asyncio.sleep(PAUSE_S)
                    else:
                        more.append(kind)
        except DATABASE_AWAY as error:
            metrics.PLANNER_DATABASE_ERRORS.inc()
            log.warning("database away", error=str(error))
        if deleted.total():
            log.info("retention", **deleted, more=more)
