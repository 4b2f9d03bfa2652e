"""Carries plans into the log: those announced, and those whose announcement is overdue; and first times of missions."""

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
from projector.planner.cadence import names_times
from projector.planner.effects import are_stopped
from projector.planner.first_time import timeless, write_first_time
from projector.planner.ledger import Pool
from projector.planner.pace import Pace
from projector.planner.restore import missions_with_dropped, restore
from projector.planner.writeback import postpone, unwritten, write_back
from projector.waiting import pause

WRITER = "writer"
"""The part of the sink that must move."""

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
                await postpone(
                    conn, run_id, user_id, reason=f"the database refused the plan: {error.sqlstate}", pace=self._pace
                )

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
            moved(WRITER)
        return len(waiting)

    async def give_first_times(self) -> int:
        """Gives missions with a cron expression that have no time their first one; returns how many."""
        try:
            if await are_stopped(self._ledger, self._day_cap):
                return 0
            async with self._ledger.connection() as conn:
                found = [mission async for mission in timeless(conn)]
        except psycopg.OperationalError as error:
            metrics.PLANNER_DATABASE_ERRORS.inc()
            log.warning("cannot look for missions without a time", error=str(error))
            return 0
        able = [(user_id, mission_id) for user_id, mission_id, cadence in found if names_times(cadence)]
        metrics.MISSIONS_WITHOUT_TIMES.set(len(found) - len(able))
        given = sum([await self._give_first_time(user_id, mission_id) for user_id, mission_id in able])
        if given:
            log.info("first times given", missions=given)
        return given

    async def _give_first_time(self, user_id: str, mission_id: str) -> bool:
        try:
            async with self._pool.connection() as conn:
                return await write_first_time(conn, user_id, mission_id, zone=self._zone)
        except psycopg.OperationalError as error:
            metrics.PLANNER_DATABASE_ERRORS.inc()
            log.warning("cannot write now", mission=mission_id, error=str(error))
        except psycopg.Error as error:
            metrics.WRITEBACK_REFUSED.inc()
            log.warning("the database refused a first time", mission=mission_id, code=error.sqlstate)
        return False

    async def restore_dropped(self) -> int:
        """Puts back what devices dropped; returns how many iterations. What fails is found again by the next pass."""
        rest_s = self._pace.restore_rest_s
        restored = 0
        try:
            if await are_stopped(self._ledger, self._day_cap):
                return 0
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
        """Sweeps, restores and gives first times until `stop`, with a pause between."""
        restored_at = timed_at = time.monotonic()
        with at_work(WRITER) as part:
            while not stop.is_set():
                part.moved()
                await freeze.point("sink.sweep")
                await self.sweep()
                if time.monotonic() - restored_at >= self._pace.restore_every_s:
                    await self.restore_dropped()
                    restored_at = time.monotonic()
                if time.monotonic() - timed_at >= self._pace.first_times_s:
                    await self.give_first_times()
                    timed_at = time.monotonic()
                await pause(self._pace.poll_s, stop)
