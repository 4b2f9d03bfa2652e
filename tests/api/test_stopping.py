"""SIGTERM in the middle of a run: it is handed back at once, and what was paid for is not paid for again."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from projector.cdc.topics import ensure_topics
from tests.health.observe import start, until
from tests.llm.double import Double, Reply, calls, text
from tests.planner.world import World

TASK = ("create_task", {"title": "Gießen"})


async def test_a_planner_that_is_told_to_stop_hands_its_run_back_and_is_not_ready(world: World, tmp_path: Path):
    await world.agent()
    await world.mission()
    await world.open()
    await ensure_topics(world.settings)
    async with Double(calls(TASK), Reply(body=text("zu spät").body, pause_s=60)) as double:
        settings = world.settings.model_copy(update={"llm_base_url": double.url, "lease_s": 600.0})
        first = start(settings, tmp_path, "planner")
        following = asyncio.create_task(first.follow())
        try:
            await until(lambda: len(double.requests) == 2 and first.ready(), "the model is asked for the second time")
            with world.admin.transaction():
                # What it does last has to wait, and who asks meanwhile is told so.
                world.admin.execute("lock table mana_ai.mission_runs in exclusive mode")
                first.stream.send(signal.SIGTERM)
                await until(lambda: first.answers["/health/ready"][1].get("reason") == "stopping", "it is not ready")
            await until(lambda: world.run()["state"] == "due", "the run is handed back", within_s=10)
            assert await asyncio.to_thread(first.stream.joined, 20) == 0
        finally:
            first.stream.kill()
            await following
        run = world.run()
        assert (run["attempts"], run["lease_owner"]) == (0, None)
        assert not first.ready()
        assert first.not_live is None
        double.replies[-1] = text("fertig")
        second = start(settings, tmp_path, "planner")
        try:
            await until(lambda: world.run()["state"] == "planned", "another planner goes on")
            await asyncio.to_thread(second.stream.stop)
        finally:
            second.stream.kill()
    assert len(double.requests) == 3  # the first answer was stored; the second request, without one, came again
    assert double.requests[1] == double.requests[2]
    paid = "select count(*), sum(prompt_tokens) from mana_ai.run_steps where kind = 'llm'"
    assert world.admin.execute(paid).fetchone() == (2, 200)
