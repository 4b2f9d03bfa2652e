"""A finished run led again from what is stored of it, and two plans compared."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import UUID

import orjson
import pytest

from projector.errors import NotReplayableError
from projector.planner.plan import plan_digest
from projector.planner.replay import replay
from projector.planner.retention import prune
from projector.planner.runs import read_whole
from projector.sql.connection import connect
from tests.cli.in_process import read
from tests.llm.double import Double, Reply, calls, text
from tests.planner.test_json_round import BAD, GOOD, plan
from tests.planner.test_worker import TASK, settled, working
from tests.planner.world import World

NOTE = ("create_note", {"content": "Notiz: gieße 1.0 Liter", "title": None})
END = "update mana_ai.mission_runs set state = 'cancelled', next_attempt_at = null, reason = 'r'"
REPLIES = (calls(TASK, ("rm_rf", {}), NOTE), calls(("create_task", "{half")), calls(TASK), text("fertig"))


async def replayed(world: World, run_id: UUID) -> str:
    """The digest of the plan that comes out."""
    async with await connect(world.settings, "projector_planner") as conn:
        return plan_digest(await replay(*await read_whole(conn, run_id)))


async def command(world: World, capsys: pytest.CaptureFixture[str], *words: object, status: int = 0) -> list[dict]:
    shown = await asyncio.to_thread(read, world.settings, capsys, "runs", *map(str, words), "--json", status=status)
    return [orjson.loads(line) for line in shown.splitlines() if line.startswith("{")]


async def planned(world: World, *replies: Reply, mission: str = "m1", **settings: object) -> dict:
    await world.agent(maxConcurrentMissions=5)
    await world.mission(mission=mission)
    await world.open()
    async with Double(*(replies or REPLIES)) as double, working(world, double, **settings):
        await settled(world, "planned")
    return world.run(mission_id=mission)


async def test_a_run_leads_to_the_same_plan_again_and_nobody_is_asked(world: World, capsys):
    run = await planned(world)
    assert [step["toolName"] for step in run["plan"]["steps"]] == ["create_task", "create_note", "create_task"]
    assert run["plan"]["rejectedCalls"] == 2
    before = world.admin.execute("select sum(xmin::text::bigint) from mana_ai.run_steps").fetchone()
    assert await replayed(world, run["run_id"]) == plan_digest(run["plan"])
    assert await command(world, capsys, "replay", run["run_id"]) == [
        {
            "run_id": str(run["run_id"]),
            "same": True,
            "plan_sha256": plan_digest(run["plan"]),
            "steps": 3,
            "answers": 9,
        }
    ]
    assert world.admin.execute("select sum(xmin::text::bigint) from mana_ai.run_steps").fetchone() == before


@pytest.mark.parametrize(
    ("reply", "limit", "reason"),
    [
        (calls(TASK), {"max_tokens_per_run": 200}, "budget"),
        (Reply(body=calls(TASK).body, pause_s=0.3), {"planner_max_s": 0.2}, "time"),
    ],
    ids=["budget", "time"],
)
async def test_a_run_that_was_cut_short_is_cut_short_there_again(world: World, reply, limit, reason):
    run = await planned(world, reply, **limit)
    assert (run["plan"]["stopReason"], len(run["plan"]["steps"])) == (reason, 1)
    assert await replayed(world, run["run_id"]) == plan_digest(run["plan"])


async def test_a_plan_that_was_written_as_json_and_mended_comes_out_again(world: World):
    run = await planned(world, text(plan(GOOD, BAD)), text(plan(GOOD, BAD, GOOD)), planner_format="json")
    assert (len(run["plan"]["steps"]), run["plan"]["rejectedCalls"]) == (2, 1)
    assert await replayed(world, run["run_id"]) == plan_digest(run["plan"])


async def test_what_no_longer_leads_to_the_plan_is_told_with_its_place(world: World, capsys):
    run = await planned(world)
    world.admin.execute(
        "update mana_ai.run_steps set response = jsonb_set(response, '{content}', '\"anders\"')"
        " where response ->> 'content' = 'fertig'"
    )
    assert await replayed(world, run["run_id"]) != plan_digest(run["plan"])
    shown = await asyncio.to_thread(read, world.settings, capsys, "runs", "replay", str(run["run_id"]), status=1)
    assert "leads to another plan: 1 places differ" in shown


async def test_an_answer_that_would_have_to_be_asked_for_is_no_replay(world: World):
    run = await planned(world)
    world.admin.execute("update mana_ai.mission_runs set brief = jsonb_set(brief, '{user}', '\"another prompt\"')")
    with pytest.raises(NotReplayableError, match="ask the model for another one"):
        await replayed(world, run["run_id"])
    world.admin.execute("update mana_ai.mission_runs set brief = jsonb_set(brief, '{tools,0}', '\"gone\"')")
    with pytest.raises(NotReplayableError, match="does not know: gone"):
        await replayed(world, run["run_id"])


async def test_how_tools_were_described_then_does_not_matter(world: World):
    run = await planned(world)
    world.admin.execute("update mana_ai.mission_runs set plan = jsonb_set(plan, '{catalogue}', '\"old\"')")
    assert await replayed(world, run["run_id"]) == plan_digest(world.run()["plan"])


async def test_what_is_pruned_says_so_and_keeps_digests_and_tokens(world: World, capsys):
    run = await planned(world)
    kept = "select seq, kind, request_digest, prompt_tokens, completion_tokens from mana_ai.run_steps order by seq"
    before = world.admin.execute(kept).fetchall()
    shown = await command(world, capsys, "show", run["run_id"])
    world.admin.execute(END)
    async with await connect(world.settings, "projector_planner") as conn:
        assert [taken async for taken in prune(conn, {"steps": datetime.now(UTC)})] == [("steps", 1)]
    assert world.admin.execute(kept).fetchall() == before
    assert world.admin.execute("select count(response) from mana_ai.run_steps").fetchone() == (0,)
    with pytest.raises(NotReplayableError, match="pruned"):
        await replayed(world, run["run_id"])
    after = await command(world, capsys, "show", run["run_id"])
    digests = [{name: one[0]["brief"][name] for name in ("systemSha256", "userSha256")} for one in (shown, after)]
    assert digests[0] == digests[1]
    assert (after[0]["plan"], after[0]["steps"][0]["answer"]) == (shown[0]["plan"], {"pruned": True})
    assert [step["evidence"] for step in after[0]["steps"]] == [step["evidence"] for step in shown[0]["steps"]]
    assert after[0]["steps"][0]["evidence"]["model"] == "double/1"
    assert "Pflanzen" not in str(world.admin.execute("select brief from mana_ai.mission_runs").fetchone())


async def test_the_places_at_which_two_plans_part_are_shown_without_what_they_say(world: World, capsys):
    one = await planned(world, calls(TASK), text("fertig"))
    world.admin.execute(END)
    other = await planned(world, calls(("create_task", {"title": "Düngen"})), text("fertig"), mission="m2")
    assert await command(world, capsys, "diff", one["run_id"], one["run_id"]) == []
    shown = await asyncio.to_thread(
        read, world.settings, capsys, "runs", "diff", str(one["run_id"]), str(other["run_id"]), status=1
    )
    assert "the plans differ in 1 places" in shown
