"""The passes that timers make over the ledger."""

from __future__ import annotations

import asyncio

import psycopg

from projector import metrics
from projector.config import Settings
from projector.errors import DatabaseUnavailableError
from projector.logging import get
from projector.planner.due import BATCH, open_due_runs, reannounce, until_next_due, wake_changed
from projector.planner.effects import read_effects, wake_stopped
from projector.planner.ledger import Connection, Pool
from projector.sql import query
from projector.sql.connection import connect
from projector.waiting import pause

SHORTEST_REST_S = 0.02
"""Between two passes, however often a pass is asked for."""

log = get("timers")


class Scheduler:
    """A pass that cannot reach the database is logged and counted; the next one finds the same work."""

    def __init__(self, settings: Settings, pool: Pool) -> None:
        self._settings = settings
        self._pool = pool
        self._interval_s = settings.due_interval_s
        self._late_s = settings.reannounce_interval_s
        self._day_cap = settings.max_tokens_per_day

    async def run(self, stop: asyncio.Event) -> None:
        """Opens due runs until `stop`: when a mission's row says that it is due now, when the next one's time has
        come, and every `due_interval_s` in any case.
        """
        while not stop.is_set():
            try:
                async with await connect(self._settings, "projector_planner") as listening:
                    await listening.execute(query("planner/listen"))
                    while not stop.is_set():
                        await self.open_due_runs()
                        await self._rest(listening)
            except (psycopg.OperationalError, DatabaseUnavailableError) as error:
                _away(error)
                await pause(self._interval_s, stop)

    async def _rest(self, listening: Connection) -> None:
        await asyncio.sleep(SHORTEST_REST_S)
        rest_s = self._interval_s
        following_s = await until_next_due(listening)
        if following_s is not None:
            rest_s = min(max(following_s, 0.0), rest_s)
        async for _ in listening.notifies(timeout=rest_s, stop_after=1):
            pass

    async def open_due_runs(self) -> int:
        """Opens a run for every mission that is due; returns how many it opened."""
        opened = 0
        try:
            async with self._pool.connection() as conn:
                while True:
                    now_opened = await open_due_runs(conn)
                    opened += now_opened
                    metrics.RUNS_OPENED.inc(now_opened)
                    if now_opened < BATCH:
                        break
        except psycopg.OperationalError as error:
            _away(error)
        except psycopg.errors.UniqueViolation:
            # Another scheduler opened a new run where this one took up an old one; the next pass sees it.
            log.info("lost a race for a mission")
        if opened:
            log.info("due", opened=opened)
        return opened

    async def look_after_waiting(self) -> None:
        """Wakes held runs whose mission or agent changed, and announces again what nobody came for.

        While effects are stopped all of them wait; once they happen again, those held for their sake are woken too.
        """
        try:
            async with self._pool.connection() as conn:
                if (await read_effects(conn, self._day_cap)).verdict is not None:
                    return
                woken = await wake_changed(conn) + await wake_stopped(conn)
                announced = await reannounce(conn, late_s=self._late_s)
        except psycopg.OperationalError as error:
            _away(error)
            return
        metrics.RUNS_REANNOUNCED.inc(announced)
        if woken or announced:
            log.info("looked after waiting runs", woken=woken, announced=announced)


def _away(error: Exception) -> None:
    metrics.PLANNER_DATABASE_ERRORS.inc()
    log.warning("database away", error=str(error))
