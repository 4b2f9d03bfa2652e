"""Carries plans into the log: those announced, and those whose announcement is overdue."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID
from zoneinfo import ZoneInfo

import psycopg

from projector import freeze, metrics
from projector.config import Settings
from projector.health.parts import at_work, moved
from projector.logging import get
from projector.planner.ledger import Pool
from projector.planner.pace import Pace
from projector.planner.restore import missions_with_dropped, restore
from projector.planner.writeback import postpone, unwritten, write_back
from projector.waiting import pause

# A plan that the database refuses is tried again, but never in the way of the others.
REFUSED_WAIT_S = 60.0

WRITER = "writer"
"""The part of the sink that must move."""

log = get("sink")


class Writer:
    """`pool` holds connections of projector_sink, `ledger` of projector_planner (to find what waits)."""

    def __init__(self, settings: Settings, pool: Pool, ledger: Pool, pace: Pace | None = None) -> None:
        self._pool = pool
        self._ledger = ledger
        self._zone = ZoneInfo(settings.timezone)
        self._pace = pace or Pace()

    async def write(self, run_id: UUID, user_id: str) -> None:
        """Writes one plan. What cannot be written now waits in the ledger for `sweep`; nothing is lost."""
        try:
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
            async with self._ledger.connection() as conn:
                waiting = await unwritten(conn)
        except psycopg.OperationalError as error:
            metrics.PLANNER_DATABASE_ERRORS.inc()
            log.warning("cannot look for unwritten plans", error=str(error))
            return 0
        for run_id, user_id in waiting:
            await self.write(run_id, user_id)
            moved(WRITER)
        return len(waiting)

    async def restore_dropped(self) -> int:
        """Puts back what devices dropped; returns how many iterations. What fails is found again by the next pass."""
        rest_s = self._pace.restore_rest_s
        restored = 0
        try:
            async with self._ledger.connection() as conn:
                missions = await missions_with_dropped(conn, rest_s=rest_s)
            for user_id, mission_id in missions:
                async with self._pool.connection() as conn:
                    restored += await restore(conn, user_id, mission_id, rest_s=rest_s)
                moved(WRITER)
        except psycopg.Error as error:
            metrics.PLANNER_DATABASE_ERRORS.inc()
            log.warning("cannot restore iterations", error=str(error), code=error.sqlstate)
        return restored

    async def sweep_for_ever(self, stop: asyncio.Event) -> None:
        """Sweeps and restores until `stop`, with a pause between."""
        restored_at = time.monotonic()
        with at_work(WRITER) as part:
            while not stop.is_set():
                part.moved()
                await freeze.point("sink.sweep")
                await self.sweep()
                if time.monotonic() - restored_at >= self._pace.restore_every_s:
                    await self.restore_dropped()
                    restored_at = time.monotonic()
                await pause(self._pace.poll_s, stop)
