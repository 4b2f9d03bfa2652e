"""Carries plans into the log: those announced, and those whose announcement is overdue; and first times of missions."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import psycopg

from projector import crash, freeze, metrics
from projector.config import Settings
from projector.errors import PlanVersionError, RowSecurityError
from projector.health.parts import at_work, moved
from projector.logging import get
from projector.planner.effects import are_stopped
from projector.planner.first_time import PAGE, timeless, write_first_time
from projector.planner.ledger import Connection, Pool
from projector.planner.never_due import CAUSES, Cause, cause_of
from projector.planner.pace import Pace
from projector.planner.restore import BATCH, missions_with_dropped, restore
from projector.planner.together import Together
from projector.planner.tracing import Finished, nobody
from projector.planner.writeback import postpone, unwritten, write_back
from projector.sql.connection import DATABASE_AWAY
from projector.waiting import pause

WRITER = "writer"
"""The part of the sink that must move."""
WRITTEN_AT_ONCE = 32
"""Plans in one transaction, and so how many missions it locks."""
ANNOUNCED_AT_ONCE = 2 * WRITTEN_AT_ONCE
"""Plans under way: the transaction that is at work, and the next one."""

Found = TypeVar("Found", bound=tuple[Any, ...])

log = get("sink")


class Writer:
    """`pool` holds connections of projector_sink, `ledger` of projector_planner (to find what waits)."""

    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        ledger: Pool,
        pace: Pace | None = None,
        *,
        finished: Finished = nobody,
    ) -> None:
        self._finished = finished
        self._pool = pool
        self._ledger = ledger
        self._zone = ZoneInfo(settings.timezone)
        self._day_cap = settings.max_tokens_per_day
        self._pace = pace or Pace()
        self._restored_to = ("", "")
        self._together = Together(self._write_all, most=WRITTEN_AT_ONCE)
        self._places = asyncio.Semaphore(ANNOUNCED_AT_ONCE)
        self._announced: set[asyncio.Task[bool]] = set()
        self._broken: BaseException | None = None
        self._stop = asyncio.Event()

    async def announced(self, run_id: UUID, user_id: str) -> None:
        """Begins to write one plan, and waits only while too many are under way.

        An announcement is a wake-up: one that is forgotten in a crash, or once this is to stop, leaves its plan to
        `sweep`.
        """
        await self._places.acquire()
        if self._stop.is_set():
            self._places.release()
            return
        task = asyncio.create_task(self.write(run_id, user_id))
        self._announced.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[bool]) -> None:
        self._places.release()
        self._announced.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._broken = task.exception()

    async def write(self, run_id: UUID, user_id: str) -> bool:
        """Writes one plan. What cannot be written now waits in the ledger for `sweep`; nothing is lost.

        Whether there was a database to write to, which may have refused.
        """
        try:
            await self._together.ask((run_id, user_id))
        except DATABASE_AWAY as error:
            metrics.PLANNER_DATABASE_ERRORS.inc()
            log.warning("cannot write now", run=str(run_id), error=str(error))
            return not _is_away(error)
        except PlanVersionError as error:
            log.error("a plan of another version", run=str(run_id), reason=error.message)
            await self._postpone(run_id, user_id, error.message)
        except psycopg.Error as error:
            metrics.WRITEBACK_REFUSED.inc()
            # Never its text, which may hold the row.
            log.error("the database refused a plan", run=str(run_id), code=error.sqlstate)
            await self._postpone(run_id, user_id, f"the database refused the plan: {error.sqlstate}")
        except RowSecurityError:
            raise
        except Exception as error:
            # One plan is never in the way of the others'. The text is not logged: it may hold the row's.
            metrics.WRITEBACK_REFUSED.inc()
            log.error("a plan cannot be written", run=str(run_id), error=type(error).__name__)
            await self._postpone(run_id, user_id, f"internal fault: {type(error).__name__}")
        return True

    async def _postpone(self, run_id: UUID, user_id: str, reason: str) -> None:
        try:
            async with self._pool.connection() as conn:
                await postpone(conn, run_id, user_id, reason=reason, pace=self._pace)
        except psycopg.Error as error:
            # The next sweep finds the plan as it is.
            metrics.PLANNER_DATABASE_ERRORS.inc()
            log.warning("cannot postpone a plan now", run=str(run_id), code=error.sqlstate)

    async def _write_all(self, plans: Sequence[tuple[UUID, str]]) -> Sequence[PlanVersionError | None]:
        if await are_stopped(self._ledger, self._day_cap):
            return [None] * len(plans)
        async with self._pool.connection() as conn:
            results = await write_back(conn, plans, zone=self._zone, pace=self._pace)
        for (run_id, _), result in zip(plans, results, strict=True):
            if result in ("written", "refused"):
                self._finished(run_id)
        return [result if isinstance(result, PlanVersionError) else None for result in results]

    async def sweep(self) -> int:
        """Writes the plans whose announcement is overdue; returns how many it tried."""
        try:
            if await are_stopped(self._ledger, self._day_cap):
                moved(WRITER)
                return 0
            async with self._ledger.connection() as conn:
                waiting = await unwritten(conn)
        except DATABASE_AWAY as error:
            metrics.PLANNER_DATABASE_ERRORS.inc()
            log.warning("cannot look for unwritten plans", error=str(error))
            return 0
        if not waiting:
            moved(WRITER)
        for begin in range(0, len(waiting), WRITTEN_AT_ONCE):
            if self._stop.is_set():
                return begin
            group = waiting[begin : begin + WRITTEN_AT_ONCE]
            await asyncio.gather(*(self._sweep_one(run_id, user_id) for run_id, user_id in group))
            crash.point("sink.mid_sweep")
        return len(waiting)

    async def _sweep_one(self, run_id: UUID, user_id: str) -> None:
        # Each, because a group whose plans wait for another sink's locks is tried one by one.
        if await self.write(run_id, user_id):
            moved(WRITER)

    async def give_first_times(self) -> int:
        """Gives missions with a cron expression that have no time their first one; returns how many.

        No more than a page of them at once: the next pass finds the others.
        """
        given = 0
        never: Counter[Cause] = Counter()
        after = ("", "")
        while given < PAGE:
            page = await self._found(partial(timeless, after=after))
            causes = []
            for mission in page:
                causes.append(cause_of(mission))
                await asyncio.sleep(0)  # an expression may take tens of milliseconds, and a page has hundreds
            never.update(cause for cause in causes if cause is not None)
            able = [mission[:2] for mission, cause in zip(page, causes, strict=True) if cause is None]
            given += await self._each(able, partial(write_first_time, zone=self._zone))
            if len(page) < PAGE:
                for cause in CAUSES:
                    metrics.MISSIONS_WITHOUT_TIMES.labels(cause=cause).set(never[cause])
                break
            after = page[-1][:2]
        if given:
            log.info("first times given", missions=given)
        return given

    async def restore_dropped(self) -> int:
        """Puts back what devices dropped; returns how many iterations. What fails is found again by a later pass."""
        rest_s = self._pace.restore_rest_s
        missions = await self._found(partial(missions_with_dropped, after=self._restored_to, rest_s=rest_s))
        self._restored_to = missions[-1] if len(missions) == BATCH else ("", "")
        return await self._each(missions, partial(restore, rest_s=rest_s))

    async def _found(self, look: Callable[[Connection], Awaitable[list[Found]]]) -> list[Found]:
        try:
            async with self._ledger.connection() as conn:
                return await look(conn)
        except DATABASE_AWAY as error:
            metrics.PLANNER_DATABASE_ERRORS.inc()
            log.warning("cannot look for missions to write to", error=str(error))
            return []

    async def _each(
        self, missions: Iterable[tuple[str, str]], write: Callable[[Connection, str, str], Awaitable[int]]
    ) -> int:
        """The sum of what `write` returns for each mission, until effects or this stops. None is in another's way."""
        written = 0
        for user_id, mission_id in missions:
            if self._stop.is_set():
                break
            try:
                if await are_stopped(self._ledger, self._day_cap):
                    break
                async with self._pool.connection() as conn:
                    written += await write(conn, user_id, mission_id)
            except DATABASE_AWAY as error:
                metrics.PLANNER_DATABASE_ERRORS.inc()
                log.warning("cannot write now", mission=mission_id, error=str(error))
                if _is_away(error):  # not this mission's affair
                    break
            except psycopg.Error as error:
                metrics.WRITEBACK_REFUSED.inc()
                # Never its text, which may hold the row.
                log.error("the database refused a change of ours", mission=mission_id, code=error.sqlstate)
            except RowSecurityError:
                raise
            except Exception as error:
                metrics.WRITEBACK_REFUSED.inc()
                # Nor this one's.
                log.error("a mission cannot be written to", mission=mission_id, error=type(error).__name__)
            moved(WRITER)
        return written

    async def sweep_for_ever(self, stop: asyncio.Event) -> None:
        """Sweeps, restores and gives first times until `stop`, with a pause between; then ends what is under way."""
        self._stop = stop
        restored_at = timed_at = time.monotonic()
        with at_work(WRITER):
            while not stop.is_set():
                if self._broken is not None:
                    raise self._broken
                await freeze.point("sink.sweep")
                await self.sweep()
                if time.monotonic() - restored_at >= self._pace.restore_every_s:
                    await self.restore_dropped()
                    restored_at = time.monotonic()
                if time.monotonic() - timed_at >= self._pace.first_times_s:
                    await self.give_first_times()
                    timed_at = time.monotonic()
                await pause(self._pace.poll_s, stop)
            await asyncio.gather(*self._announced, return_exceptions=True)


def _is_away(error: psycopg.Error) -> bool:
    """Whether there is no connection; otherwise the server answered, and it is one plan's or mission's affair."""
    return error.sqlstate is None
