"""What `runs show` tells of a run without a word of its user: what it read, which gates it passed, where it went."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from projector.planner.retention import prune
from projector.sql.connection import connect
from tests.cli.in_process import read
from tests.llm.double import Double, text
from tests.planner.test_inputs import GOAL, GOAL_REF, NOTE_REF, planned_with
from tests.planner.test_replay import END, command
from tests.planner.world import World

GOAL_BYTES = len(b"Fortschritt: 2 / 3 (week)")


async def test_a_run_shows_its_inputs_by_size_its_gaps_and_its_gates_also_when_they_are_pruned(
    world: World, capsys: pytest.CaptureFixture[str]
):
    world.admin.execute(
        "insert into mana_ai.token_usage (user_id, agent_id, mission_id, run_id, tokens_used)"
        " values ('u1', 'a1', 'm0', gen_random_uuid(), 700)"
    )
    await world.record("companion", "companionGoals", "g1", **GOAL)
    async with Double(text("fertig")) as double:
        run = await planned_with(world, double, GOAL_REF, NOTE_REF)
    [shown] = await command(world, capsys, "show", run["run_id"])
    assert shown["brief"]["inputs"] == {
        "told": [{"module": "goals", "bytes": GOAL_BYTES}],
        "gaps": ["notes: missing"],
    }
    assert shown["gates"] == {"running": 0, "places": 1, "spent": 700, "reserved": 0, "cap": None}
    told = await asyncio.to_thread(read, world.settings, capsys, "runs", "show", str(run["run_id"]))
    assert "agent active, 0 of 1 runs at once, 700 tokens spent in 24 hours, 0 reserved by others" in told
    assert "Laufen" not in told
    world.admin.execute(END)
    async with await connect(world.settings, "projector_planner") as conn:
        assert [taken async for taken in prune(conn, {"steps": datetime.now(UTC)})] == [("steps", 1)]
    assert "Fortschritt" not in str(world.run()["brief"])
    [pruned] = await command(world, capsys, "show", run["run_id"])
    assert (pruned["brief"]["inputs"], pruned["gates"]) == (shown["brief"]["inputs"], shown["gates"])
