"""One user whose calls of the model never return, among many: everybody else's missions run as if he were not there."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from psycopg.types.json import Jsonb

from projector.llm.client import OpenAIChat
from projector.llm.routed import RoutedChat
from projector.planner.iteration import iso_ms
from projector.planner.pace import Pace
from projector.planner.worker import Worker
from projector.planner.writer import Writer
from projector.sql.connection import pool
from tests.llm.double import Double, Reply, text
from tests.llm.upstream import registry
from tests.planner.world import World

USERS = [f"user-{number}" for number in range(50)]
STUCK = USERS[17]
MISSIONS = 20
"""Of each user."""
PLACES = 8
"""So many that the stuck user could fill them all."""
LIMIT_S = 300
PACE = Pace(poll_s=0.02, sweep_after_s=0.0)
OF_USER = re.compile(r"Mission of (user-\d+)")
INSERT = """
    insert into sync_changes (id, app_id, table_name, record_id, user_id, op, data, field_meta, client_id)
    values (%s, 'ai', %s, %s, %s, 'insert', %s, '{}', 'device')
"""


class Hanging(Double):
    """Never answers what is asked for the stuck user's missions, until `released`."""

    released = False

    def reply_to(self, request: dict[str, Any]) -> Reply:
        stuck = user_of(request) == STUCK and not self.released
        return Reply(pause_s=3600.0) if stuck else text("fertig")

    def asked(self) -> Counter[str]:
        """Requests by user."""
        return Counter(map(user_of, self.requests))


def user_of(request: dict[str, Any]) -> str:
    found = OF_USER.search(request["messages"][1]["content"])
    assert found is not None
    return found[1]


async def everybody_has_missions_due(world: World, users: Sequence[str] = USERS, missions: int = MISSIONS) -> None:
    """The stuck user's are the first in line."""
    now = datetime.now(UTC)
    agent = {"name": "Mana", "role": "", "state": "active", "maxConcurrentMissions": missions}
    rows = [(uuid4(), "agents", "a1", user, Jsonb(agent)) for user in users]
    for user in users:
        due = now - timedelta(hours=2 if user == STUCK else 1)
        mission = {
            "title": f"Mission of {user}",
            "state": "active",
            "agentId": "a1",
            "cadence": {"kind": "interval", "everyMinutes": 600},
            "iterations": [],
            "createdAt": iso_ms(due),
            "nextRunAt": iso_ms(due),
        }
        rows += [(uuid4(), "aiMissions", f"{user}-{n}", user, Jsonb(mission)) for n in range(missions)]
    world.admin.cursor().executemany(INSERT, rows)
    await world.catch_up()
    while await world.open():
        pass


async def finished(world: World, count: int, state: str = "written", limit_s: float = LIMIT_S) -> None:
    """Waits until so many runs of the others are in the state."""
    written = "select count(*) from mana_ai.mission_runs where state = %s and user_id <> %s"
    async with asyncio.timeout(limit_s):
        while world.admin.execute(written, [state, STUCK]).fetchone() != (count,):
            await asyncio.sleep(0.05)


def states(world: World) -> Counter[str]:
    rows = world.admin.execute("select state from mana_ai.mission_runs where user_id = %s", [STUCK]).fetchall()
    return Counter(state for (state,) in rows)


async def test_a_user_whose_calls_hang_keeps_his_share_of_the_places_and_nobody_else_waits(world: World):
    await everybody_has_missions_due(world)
    settings = world.settings.model_copy(update={"planner_workers": PLACES, "llm_timeout_s": 600.0})
    stop = asyncio.Event()
    async with (
        Hanging() as double,
        OpenAIChat(double.url, timeout_s=600.0) as chat,
        pool(settings, "projector_sink", size=2) as sink,
    ):
        working = asyncio.create_task(Worker(settings, world.pool, chat, PACE).run(stop))
        writing = asyncio.create_task(Writer(settings, sink, world.pool, PACE).sweep_for_ever(stop))
        try:
            await finished(world, (len(USERS) - 1) * MISSIONS)
            share = PLACES // 2
            # Each was asked once and never let go: so he had no more than his share at any time.
            assert double.asked() == Counter({user: share if user == STUCK else MISSIONS for user in USERS})
            assert states(world) == Counter({"running": share, "due": MISSIONS - share})
        finally:
            stop.set()
            await asyncio.gather(working, writing)
    assert states(world) == Counter({"due": MISSIONS})
    assert {run["decision"] for run in world.runs(state="written")} == {"ran"}


@pytest.mark.parametrize("places", [{}, {"planner_workers": 2}, {"llm_calls_per_provider": 2}])
async def test_he_keeps_his_share_of_the_places_at_a_provider_too(world: World, tmp_path: Path, places: dict[str, int]):
    users, missions = USERS[15:20], 4
    await everybody_has_missions_due(world, users, missions)
    stop = asyncio.Event()
    async with Hanging() as double:
        budgets = "budgets: {first_byte_s: 600, total_s: 600}"
        provider = f"base_url: '{double.url}/v1'"
        path = registry(tmp_path, "  mana/reasoning: {chain: [p1/m1]}", more=budgets, p1=provider).path
        settings = world.settings.model_copy(update={"llm_config": str(path), "llm_timeout_s": 600.0, **places})
        async with RoutedChat.from_settings(settings) as chat:
            working = asyncio.create_task(Worker(settings, world.pool, chat, PACE).run(stop))
            try:
                await finished(world, (len(users) - 1) * missions, "planned", limit_s=60)
                share = min(settings.planner_workers, settings.llm_calls_per_provider) // 2
                assert double.asked() == Counter({user: share if user == STUCK else missions for user in users})
            finally:
                stop.set()
                await working
