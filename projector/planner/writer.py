"""Carries plans into the log: those announced, and those whose announcement is overdue."""

from __future__ import annotations

import asyncio
from uuid import UUID
from zoneinfo import ZoneInfo

import psycopg

from projector import metrics
from projector.config import Settings
from projector.logging import get
from projector.planner.effects import are_stopped
from projector.planner.ledger import Pool
from projector.planner.pace import Pace
from projector.planner.writeback import postpone, unwritten, write_back
from projector.waiting import pause

# A plan that the database refuses is tried again, but never in the way of the others.
REFUSED_WAIT_S = 60.0

log = get("sink")


class Writer:
    """`pool` holds connections of projector_sink, `ledger` of projector_planner (to find what waits)."""

    def __init__(self, settings: Settings, pool: Pool, ledger: Pool, pace: Pace | None = None) -> None:
        self._pool = pool
        self._ledger = ledger
        self._zone = ZoneInfo(settings.timezone)
        self._day_cap = settings.max_tokens_per_day
        self._pace = pace or Pace()

    async def write(self, run_id: UUID, user_id: str) -> None:
        """Writes one plan. What cannot be written now waits in the ledger for `sweep`; nothing is lost."""
        try:
            if await are_stopped(self._ledger, self._day_cap):
                return
            async with self._pool.connection() as conn:
                await write_back(conn, run_id, user_id, zone=self._zone, pace=self._pace)
        except psycopg.OperationalError as error:
            metrics.PLANNER_DATABASE_ERRORS.inc()
            log.warning("cannot write now", run=str(run_id), error=str(error))
        except psycopg.Error as error:
            metrics.WRITEBACK_REFUSED.inc()
            log.exception("the database refused a plan", run=str(run_id), code=error.sqlstate)
            async with self._pool.connection() as conn:
                await postpone(conn, run_id, user_id, wait_s=REFUSED_WAIT_S)

    async def sweep(self) -> int:
        """Writes the plans whose announcement is overdue; returns how many it tried."""
        try:
            if await are_stopped(self._ledger, self._day_cap):
                return 0
            async with self._ledger.connection() as conn:
                waiting = await unwritten(conn)
        except psycopg.OperationalError as error:
            metrics.PLANNER_DATABASE_ERRORS.inc()
            log.warning("cannot look for unwritten plans", error=str(error))
            return 0
        for run_id, user_id in waiting:
            await self.write(run_id, user_id)
        return len(waiting)

    async def sweep_for_ever(self, stop: asyncio.Event) -> None:
        """Sweeps until `stop`, with a pause between."""
        while not stop.is_set():
            await self.sweep()
            await pause(self._pace.poll_s, stop)
