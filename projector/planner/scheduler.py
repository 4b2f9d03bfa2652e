"""The passes that timers make over the ledger."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg

from projector import freeze, metrics
from projector.config import Settings
from projector.errors import DatabaseUnavailableError
from projector.health.parts import moved
from projector.logging import get
from projector.planner.due import BATCH, open_due_runs, reannounce, until_next_due, wake_changed
from projector.planner.effects import read_effects, wake_stopped
from projector.planner.iteration import iso_ms
from projector.planner.ledger import Connection, Pool
from projector.sql import query
from projector.sql.connection import DATABASE_AWAY, connect
from projector.waiting import pause

SHORTEST_REST_S = 0.02
"""Between two passes, however often a pass is asked for."""

DUE, WAITING = "due", "waiting runs"
"""The parts that must move: one pass each."""

log = get("timers")


@dataclass(slots=True)
class Pass:
    """What a pass has done so far."""

    opened: int = 0
    woken: int = 0
    announced: int = 0
    errors: list[str] = field(default_factory=list)


class Scheduler:
    """A pass that cannot reach the database is logged and counted; the next one finds the same work."""

    def __init__(self, settings: Settings, pool: Pool) -> None:
        self._settings = settings
        self._pool = pool
        self._interval_s = settings.due_interval_s
        self._late_s = settings.reannounce_interval_s
        self._day_cap = settings.max_tokens_per_day
        self._opening = False
        self._stop = asyncio.Event()
        self._passed_at = time.monotonic()

    async def run(self, stop: asyncio.Event) -> None:
        """Opens due runs until `stop`: when a mission's row says that it is due now, when the next one's time has
        come, and every `due_interval_s` in any case. What is due beyond the batch in hand is left to others then.
        """
        self._stop = stop
        while not stop.is_set():
            try:
                async with await connect(self._settings, "projector_planner") as listening:
                    await listening.execute(query("planner/listen"))
                    while not stop.is_set():
                        began = time.monotonic()
                        await self.open_due_runs()
                        # However often it is asked for, looking takes half of the time at most.
                        took_s = time.monotonic() - began
                        await pause(min(max(SHORTEST_REST_S, took_s), self._interval_s), stop)
                        await self._rest(listening, stop)
            except (*DATABASE_AWAY, DatabaseUnavailableError) as error:
                _away(error)
                await self.open_due_runs()  # the pool may have a connection where there is none to listen with
                await pause(self._interval_s, stop)

    async def _rest(self, listening: Connection, stop: asyncio.Event) -> None:
        following_s = await until_next_due(listening)
        # A tick that is at work may be past a mission that it was woken for.
        rest_s = SHORTEST_REST_S if self._opening else self._interval_s
        if following_s is not None:
            rest_s = min(max(following_s, 0.0), rest_s)
        told = asyncio.create_task(_notified(listening, rest_s))
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({told, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if told.done():
                told.result()
        finally:
            for task in (told, stopped):
                task.cancel()
            await asyncio.gather(told, stopped, return_exceptions=True)

    def lag_s(self) -> float:
        """The seconds since a pass should have gone through."""
        return max(0.0, time.monotonic() - self._passed_at - self._interval_s)

    async def open_due_runs(self) -> int:
        """Opens a run for every mission that is due; returns how many it opened. 0 while another call does it."""
        done = Pass()
        if not self._opening:
            await self._open_due_runs(done)
        return done.opened

    async def look_after_waiting(self) -> None:
        """Wakes held runs whose mission or agent changed, and announces again what nobody came for.

        While effects are stopped all of them wait; once they happen again, those held for their sake are woken too.
        """
        await self._look_after_waiting(Pass())

    async def tick(self) -> dict[str, Any]:
        """Both passes now, as `{scannedAt, dueMissionCount, runsWoken, runsAnnouncedAgain, errors}`.

        While missions are being opened already, nothing is done, and `errors` says so.
        """
        scanned_at = iso_ms(datetime.now(UTC))
        done = Pass()
        if self._opening:
            done.errors.append("overlap-skipped")
        else:
            await self._open_due_runs(done)
            await self._look_after_waiting(done)
        return {
            "scannedAt": scanned_at,
            "dueMissionCount": done.opened,
            "runsWoken": done.woken,
            "runsAnnouncedAgain": done.announced,
            "errors": done.errors,
        }

    async def _open_due_runs(self, done: Pass) -> None:
        self._opening = True
        metrics.TICKS.inc()
        try:
            with metrics.TICK_SECONDS.time():
                await freeze.point("timers.due")
                freeze.block("timers.block")
                await self._open_all(done)
        finally:
            self._opening = False
        if done.opened:
            log.info("due", opened=done.opened)

    async def _open_all(self, done: Pass) -> None:
        try:
            async with self._pool.connection() as conn:
                while True:
                    now_opened = await open_due_runs(conn)
                    done.opened += now_opened
                    metrics.RUNS_OPENED.inc(now_opened)
                    moved(DUE)
                    if now_opened < BATCH or self._stop.is_set():
                        break
        except DATABASE_AWAY as error:
            _away(error, done)
            return
        except psycopg.errors.UniqueViolation:
            # Another scheduler opened a new run where this one took up an old one; the next pass sees it.
            log.info("lost a race for a mission")
        moved(DUE)
        self._passed_at = time.monotonic()

    async def _look_after_waiting(self, done: Pass) -> None:
        await freeze.point("timers.overdue")
        try:
            async with self._pool.connection() as conn:
                stopped = (await read_effects(conn, self._day_cap)).verdict is not None
                moved(WAITING)
                if stopped:
                    return
                done.woken = await wake_changed(conn) + await wake_stopped(conn)
                done.announced = await reannounce(conn, late_s=self._late_s)
        except DATABASE_AWAY as error:
            _away(error, done)
            return
        metrics.RUNS_REANNOUNCED.inc(done.announced)
        if done.woken or done.announced:
            log.info("looked after waiting runs", woken=done.woken, announced=done.announced)


async def _notified(conn: Connection, timeout_s: float) -> None:
    async for _ in conn.notifies(timeout=timeout_s, stop_after=1):
        pass


def _away(error: Exception, done: Pass | None = None) -> None:
    metrics.PLANNER_DATABASE_ERRORS.inc()
    log.warning("database away", error=str(error))
    # Who asked for the pass is told no more than the kind: the text may name hosts and users.
    if done is not None:
        done.errors.append(f"database away: {type(error).__name__}")
