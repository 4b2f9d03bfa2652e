"""The planner: `mission.due` wakes a pool of workers that carry runs out of the ledger."""

from __future__ import annotations

import asyncio
from uuid import UUID

from projector.config import Settings
from projector.health.parts import expect
from projector.llm.choice import chat_model
from projector.log.topics import Topics
from projector.planner.research.services import ResearchServices
from projector.planner.tracing import exporter_of, exporting
from projector.planner.worker import WORKER, Worker
from projector.sql.connection import pool
from streams.app import ANNOUNCEMENTS, make_app, on_announcement, prerequisites, serve

CONNECTIONS = 4


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Plans until `stop`; unfinished runs go back to the ledger."""
    topic = Topics(settings.topic_prefix).due
    expect(WORKER, ANNOUNCEMENTS)
    model = chat_model(settings)
    services = ResearchServices.from_settings(settings)
    exporter = exporter_of(settings)
    if not await prerequisites(settings, stop, topic):
        return
    async with (
        model,
        services,
        pool(settings, "projector_planner", size=CONNECTIONS) as connections,
        exporting(exporter, connections) as finished,
    ):
        worker = Worker(settings, connections, model, services=services, finished=finished)
        app = make_app(settings, "planner")

        async def wake(run_id: UUID, user_id: str) -> None:
            worker.wake()

        on_announcement(app, topic, wake)
        await serve(app, stop, worker.run(stop))
