"""The sink: writes stored plans back into the log, as `mission.iterations` announces them or as they are overdue."""

from __future__ import annotations

import asyncio

from projector.config import Settings
from projector.health.parts import expect
from projector.log.topics import Topics
from projector.planner.tracing import exporter_of, exporting
from projector.planner.writer import WRITER, Writer
from projector.sql.connection import pool
from streams.app import ANNOUNCEMENTS, make_app, on_announcement, prerequisites, serve

CONNECTIONS = 4


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Writes until `stop`."""
    topic = Topics(settings.topic_prefix).iterations
    expect(WRITER, ANNOUNCEMENTS)
    exporter = exporter_of(settings)
    if not await prerequisites(settings, stop, topic):
        return
    async with (
        pool(settings, "projector_sink", size=CONNECTIONS) as connections,
        pool(settings, "projector_planner", size=2) as ledger,
        exporting(exporter, ledger) as finished,
    ):
        writer = Writer(settings, connections, ledger, finished=finished)
        app = make_app(settings, "sink")
        on_announcement(app, topic, writer.announced)
        await serve(app, stop, writer.sweep_for_ever(stop))
