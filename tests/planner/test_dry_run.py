"""What a mission would plan, worked out without a trace."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from projector.errors import EffectsStoppedError, NothingPlannedError
from projector.llm.client import OpenAIChat
from projector.planner.dry_run import plan_only
from projector.planner.effects import stop_effects
from projector.planner.pace import Pace
from projector.planner.planning import planning_of
from tests.cli.in_process import read
from tests.llm.double import Double, Reply, calls, text
from tests.planner.test_worker import TASK, worked
from tests.planner.world import World

FAR = "2099-01-01T00:00:00.000Z"
DECODED = "select data from pg_logical_slot_get_changes('watch_' || current_database(), null, null)"


async def tried(world: World, double: Double, day_cap: int = 0, **settings: Any) -> dict[str, Any]:
    async with OpenAIChat(double.url) as chat:
        planning = planning_of(world.settings.model_copy(update=settings), world.pool, chat, Pace())
        return await plan_only(planning, world.pool, "u1", "m1", day_cap=day_cap)


async def test_the_plan_is_that_of_a_run_and_nothing_is_written_but_what_it_cost(world: World):
    await world.agent()
    await world.mission(nextRunAt=FAR)
    world.watch_messages()
    async with Double(calls(TASK, ("rm_rf", {})), text("fertig")) as double:
        plan = await tried(world, double)
        asked = double.requests
    # Of no other table a row, and no message.
    written = [data for (data,) in world.admin.execute(DECODED) if not data.startswith(("BEGIN", "COMMIT"))]
    assert [data.split(":")[0] for data in written] == ["table mana_ai.token_usage", "table mana_ai.token_days"] * 2
    usage = "select user_id, agent_id, mission_id, tokens_used from mana_ai.token_usage"
    assert world.admin.execute(usage).fetchall() == [("u1", "a1", "m1", 120)] * 2
    await world.edit(nextRunAt="2026-01-01T00:00:00.000Z")
    async with Double(calls(TASK, ("rm_rf", {})), text("fertig")) as double:
        run = await worked(world, double, "planned")
        assert double.requests == asked
    assert run["plan"] == plan
    assert plan["rejectedCalls"] == 1


async def test_what_stands_against_a_run_stands_against_this(world: World):
    await world.agent(state="paused")
    await world.mission(nextRunAt=FAR)
    async with Double(text("nie")) as double:
        with pytest.raises(NothingPlannedError, match="the agent is paused"):
            await tried(world, double)
        await world.edit_agent(state="active")
        async with world.pool.connection() as conn:
            await stop_effects(conn, "maintenance")
        with pytest.raises(EffectsStoppedError, match="maintenance"):
            await tried(world, double)
    assert double.requests == []


async def test_what_it_spends_stops_it_and_all_others_at_the_cap_of_the_day(world: World):
    await world.agent()
    await world.mission(nextRunAt=FAR)
    async with Double(calls(TASK)) as double:
        assert (await tried(world, double, day_cap=240))["stopReason"] == "budget"
        with pytest.raises(EffectsStoppedError, match="240 of 240 tokens"):
            await tried(world, double, day_cap=240)
    assert len(double.requests) == 2


async def test_a_mission_without_a_time_is_judged_like_any_other(world: World):
    await world.agent(state="archived")
    await world.mission(nextRunAt=None)
    async with Double(text("nie")) as double:
        with pytest.raises(NothingPlannedError, match="the agent is archived"):
            await tried(world, double)
    assert double.requests == []


async def test_a_mission_with_too_much_to_tell_is_not_asked_about(world: World, monkeypatch):
    monkeypatch.setattr("projector.planner.guardrails.MAX_INPUT_UNITS", 100)
    await world.agent()
    await world.mission(nextRunAt=FAR)
    async with Double(text("nie")) as double:
        with pytest.raises(NothingPlannedError, match="the mission tells"):
            await tried(world, double)
    assert double.requests == []


async def test_it_spends_no_more_than_a_run_and_stops_with_effects(world: World):
    await world.agent()
    await world.mission(nextRunAt=FAR)
    async with Double(calls(TASK)) as double:
        plan = await tried(world, double, max_tokens_per_run=250)
    assert (len(double.requests), plan["stopReason"]) == (2, "budget")
    assert "it spent 240 tokens and needs 120 more, and a run may spend 250" in plan["summary"]
    async with Double(Reply(body=calls(TASK).body, pause_s=1.0), text("nie")) as double:
        trying = asyncio.create_task(tried(world, double))
        async with asyncio.timeout(15):
            while not double.requests:
                await asyncio.sleep(0.02)
        async with world.pool.connection() as conn:
            await stop_effects(conn, "maintenance")
        assert "effects are stopped since" in (await trying)["summary"]
    assert len(double.requests) == 1


async def test_the_command_asks_only_when_it_is_told_to(world: World, capsys: pytest.CaptureFixture[str]):
    await world.agent()
    await world.mission(nextRunAt=FAR)
    async with Double(calls(TASK), text("fertig")) as double:
        settings = world.settings.model_copy(update={"llm_base_url": double.url})

        async def command(*words: str, status: int = 0) -> str:
            return await asyncio.to_thread(read, settings, capsys, "runs", "plan", "u1", "m1", *words, status=status)

        assert "say --plan-only" in await command(status=2)
        assert double.requests == []
        shown = await command("--plan-only")
    assert shown.splitlines() == [
        "1 steps in 2 rounds, 0 calls refused, assistant-stop",
        "   1 create_task",
    ]
