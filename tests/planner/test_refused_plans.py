"""A plan that its mission no longer takes: kept with the reason, and back without being paid for again."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

import pytest

from projector.sql.connection import connect
from tests.llm.double import Double, calls, text
from tests.planner.test_replay import command
from tests.planner.test_tracing import told
from tests.planner.test_worker import FAST, TASK, settled, worked, working
from tests.planner.world import World
from tests.planner.writing import write_back

OTHER = ("create_task", {"title": "Umtopfen"})


async def write(world: World) -> str:
    run = world.run()
    async with await connect(world.settings, "projector_sink") as conn:
        return await write_back(conn, run["run_id"], run["user_id"], zone=ZoneInfo("UTC"), pace=FAST)


async def refused(world: World, double: Double) -> dict[str, Any]:
    """A run whose mission was paused while it was planned."""
    await world.agent()
    await world.agent(agent="a2", systemPrompt="Sei knapp")
    await world.mission()
    planned = await worked(world, double, "planned")
    await world.edit(state="paused")
    assert await write(world) == "refused"
    run = world.run()
    assert (run["state"], run["decision"], run["plan"]) == ("cancelled", "mission-inactive", planned["plan"])
    assert run["reason"] == "the mission became paused while it was planned"
    return run


async def due_again(world: World, run: dict[str, Any], **fields: Any) -> None:
    await world.edit(state="active", **fields)
    world.shift_clock_past(run["run_id"])
    assert await world.open() == 1


async def test_a_mission_that_is_active_again_gets_the_plan_that_was_paid_for(world: World):
    async with Double(calls(TASK), text("fertig")) as double:
        run = await refused(world, double)
        await due_again(world, run)
        async with working(world, double):
            await settled(world, "planned")
        assert len(double.requests) == 2
    again = world.run()
    assert (again["plan"], again["iteration_id"]) == (run["plan"], run["iteration_id"])
    assert again["prompt_tokens"] == run["prompt_tokens"] == 200
    assert await write(world) == "written"


@pytest.mark.parametrize(
    "change",
    [{"objective": "Topfe sie um"}, {"conceptMarkdown": "Topf"}, {"agentId": "a2"}],
    ids=lambda c: next(iter(c)),
)
async def test_one_that_wants_something_else_by_now_is_asked_anew_and_keeps_what_the_first_answers_cost(
    world: World, capsys: pytest.CaptureFixture[str], change
):
    async with Double(calls(TASK), text("fertig"), calls(OTHER), text("anders")) as double:
        run = await refused(world, double)
        await due_again(world, run, **change)
        async with working(world, double):
            await settled(world, "planned")
        assert len(double.requests) == 4
    again = world.run()
    assert [step["params"] for step in again["plan"]["steps"]] == [OTHER[1]]
    assert again["plan"]["summary"] == "anders"
    [shown] = await command(world, capsys, "show", again["run_id"])
    unused = shown["failed_calls"]
    assert [(one["error"], one["model"], one["ms"] >= 0) for one in unused] == [("Unused", "double/1", True)] * 2
    assert sum(one["prompt_tokens"] for one in (*unused, *shown["steps"])) == again["prompt_tokens"] == 400
    chats = [span for span in await told(world, again) if span.name.startswith("chat")]
    assert sorted(span.error for span in chats) == ["", "", "Unused", "Unused"]
