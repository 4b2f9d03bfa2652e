"""The timers: missions that are due become runs, and runs that nobody came for are announced again."""

from __future__ import annotations

import asyncio

from projector.config import Settings
from projector.planner.scheduler import Scheduler
from projector.sql.connection import pool
from streams.app import make_app, prerequisites, serve


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Keeps time until `stop`. Any number of these may run at once."""
    if not await prerequisites(settings, stop):
        return
    async with pool(settings, "projector_planner", size=2) as connections:
        scheduler = Scheduler(settings, connections)
        app = make_app(settings, "timers", kafka=False)

        @app.timer(settings.reannounce_interval_s)  # type: ignore[untyped-decorator]
        async def overdue() -> None:
            await scheduler.look_after_waiting()

        await serve(app, stop, scheduler.run(stop))
