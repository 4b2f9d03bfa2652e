"""The timers: missions that are due become runs, those that nobody came for are announced again, old ones deleted."""

from __future__ import annotations

import asyncio

from projector.api import tick
from projector.config import Settings
from projector.health.parts import at_work, expect
from projector.planner.retention import RETENTION, Retention
from projector.planner.scheduler import DUE, WAITING, Scheduler
from projector.sql.connection import pool
from streams.app import make_app, prerequisites, serve


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Keeps time until `stop`. Any number of these may run at once."""
    expect(DUE, WAITING, RETENTION)
    if not await prerequisites(settings, stop):
        return
    async with pool(settings, "projector_planner", size=3) as connections:
        scheduler = Scheduler(settings, connections)
        retention = Retention(settings, connections)
        app = make_app(settings, "timers", kafka=False)

        @app.timer(settings.reannounce_interval_s)  # type: ignore[untyped-decorator]
        async def overdue() -> None:
            await scheduler.look_after_waiting()

        @app.timer(settings.retention_interval_s)  # type: ignore[untyped-decorator]
        async def over() -> None:
            await retention.apply()

        with (
            at_work(DUE, patience_s=settings.due_interval_s, lag_s=scheduler.lag_s),
            at_work(WAITING, patience_s=settings.reannounce_interval_s),
            at_work(RETENTION, patience_s=settings.retention_interval_s),
            tick.offered(scheduler.tick),
        ):
            await serve(app, stop, scheduler.run(stop))
