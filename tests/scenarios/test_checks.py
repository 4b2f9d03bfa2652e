"""The scenario checks of the planner, E1 to E20, on the whole system as it runs.

A device writes, the change travels through the log, Kafka and the views, a run is planned by a model over HTTP, and
the iteration comes back to the device. Where the outcome is meant to be another one than the reference's,
docs/compatibility.md says so under the number.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from projector.api.tick import HEADER
from projector.devices import AGENTS, NOTES, Replica, Review
from projector.embedded.servers import Servers
from projector.log import actor
from projector.log.place import parse_lsn
from projector.planner.catalogue import CATALOGUE
from projector.planner.runs import Whole, read_whole
from projector.sql.connection import connect
from tests.fixtures.settings import Template
from tests.llm.double import calls, error, text
from tests.scenarios.stage import DEFAULT_AGENT, GOALS, LIMIT_S, SERVICE_KEY, Stage, staged

pytestmark = pytest.mark.asyncio(loop_scope="module")

TASK = ("create_task", {"title": "Dünger kaufen"})
NOTE = ("create_note", {"title": "Balkon", "content": "Gießen am Abend"})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(stack: Servers, template: Template, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with staged(stack, template, tmp_path_factory.mktemp("scenarios")) as running:
        yield running


def offered(request: dict[str, Any]) -> set[str]:
    return {tool["function"]["name"] for tool in request["tools"]}


def results(request: dict[str, Any]) -> list[str]:
    return [message["content"] for message in request["messages"] if message["role"] == "tool"]


def prompt(request: dict[str, Any]) -> str:
    return "\n".join(str(message["content"]) for message in request["messages"])


def spent(tokens: int) -> Any:
    return text("fertig", prompt=tokens - 20, completion=20)


async def test_e1_a_mission_without_an_agent_is_the_default_agents(stage: Stage) -> None:
    phone, nobody = stage.user("e1"), Replica("e1-nobody")
    mission_id = stage.mission(phone, "E1", text("nichts zu tun"), agentId=None)
    alone = stage.mission(nobody, "E1 alone", text("nie gefragt"), agentId=None)
    iteration = await stage.iteration(phone, mission_id)
    assert (iteration["summary"], iteration["plan"], iteration["overallStatus"]) == ("nichts zu tun", [], "approved")
    [row] = stage.ask(
        "select actor from sync_changes where record_id = %s and client_id = 'mana-ai-runner'", mission_id
    )
    written_by = actor.normalize_actor(row["actor"])
    assert (written_by.principal_id, written_by.display_name) == (DEFAULT_AGENT, "Mana")
    await stage.held(nobody, alone, "skipped-no-agent")
    assert "E1 alone" not in stage.model.asked


async def test_e2_two_calls_of_one_round_are_two_steps_to_review(stage: Stage) -> None:
    phone = stage.user("e2")

    def of_two_rounds() -> float:
        up_to = [stage.counted("mana_ai_planner_rounds_bucket", le=rounds) for rounds in ("1.0", "2.0")]
        return up_to[1] - up_to[0]

    before = of_two_rounds()
    mission_id = stage.mission(phone, "E2", calls(TASK, NOTE), text("zwei Schritte"))
    iteration = await stage.iteration(phone, mission_id)
    steps = [(step["id"], step["status"], step["intent"]["toolName"]) for step in iteration["plan"]]
    assert steps == [
        (f"{iteration['id']}-0", "planned", "create_task"),
        (f"{iteration['id']}-1", "planned", "create_note"),
    ]
    assert iteration["overallStatus"] == "awaiting-review"
    assert len(stage.model.asked["E2"]) == 2
    await stage.until(lambda: of_two_rounds() == before + 1)


async def test_the_run_tells_where_its_iteration_is_in_the_log(stage: Stage) -> None:
    phone = stage.user("position")
    mission_id = stage.mission(phone, "position", text("fertig"))
    run = await stage.ended(phone, mission_id)
    await stage.iteration(phone, mission_id)

    async def shown() -> Whole:
        async with await connect(stage.pipeline.settings, "projector_planner") as conn:
            whole, _ = await read_whole(conn, run["run_id"])
            return whole

    async with asyncio.timeout(LIMIT_S):
        while (whole := await shown()).seen_lsn is None:
            await asyncio.sleep(0.05)
    assert whole.written_lsn is not None
    # Nothing came to the mission since: the view has come to the very commit.
    assert 0 < parse_lsn(whole.seen_lsn) - parse_lsn(whole.written_lsn) < 100_000
    assert whole.seen_source == 1


async def test_e3_a_model_that_never_stops_calling_is_stopped_after_five_rounds(stage: Stage) -> None:
    phone = stage.user("e3")
    rounds = [calls(("create_task", {"title": f"Topf {number}"})) for number in range(9)]
    iteration = await stage.iteration(phone, stage.mission(phone, "E3", *rounds))
    titles = [step["intent"]["params"]["title"] for step in iteration["plan"]]
    assert (titles, iteration["summary"]) == ([f"Topf {number}" for number in range(5)], "")
    assert len(stage.model.asked["E3"]) == 5


@pytest.mark.parametrize(("state", "decision"), [("paused", "skipped-paused"), ("archived", "skipped-archived")])
async def test_e4_a_resting_agent_is_not_asked_until_it_is_back(stage: Stage, state: str, decision: str) -> None:
    phone, title = stage.user(f"e4-{state}", state=state), f"E4 {state}"
    mission_id = stage.mission(phone, title, text("fertig"))
    await stage.held(phone, mission_id, decision)
    assert title not in stage.model.asked
    phone.edit(AGENTS, DEFAULT_AGENT, {"state": "active"})
    stage.server.push(phone)
    assert (await stage.iteration(phone, mission_id))["summary"] == "fertig"


async def test_e5_the_second_mission_of_an_agent_with_one_place_waits_for_the_first(stage: Stage) -> None:
    phone = stage.user("e5")
    slow = text("langsam")
    first = stage.mission(phone, "E5 first", type(slow)(slow.status, slow.body, pause_s=1.0))
    await stage.until(lambda: stage.model.asked["E5 first"])
    second = stage.mission(phone, "E5 second", text("danach"))
    await stage.held(phone, second, "skipped-concurrency")
    one, other = await stage.ended(phone, first), await stage.ended(phone, second)
    assert one["finished_at"] < other["finished_at"]


async def test_e6_a_budget_that_is_spent_holds_the_next_run(stage: Stage) -> None:
    phone = stage.user("e6", maxTokensPerDay=50_000)
    await stage.ended(phone, stage.mission(phone, "E6 first", spent(50_000)))
    await stage.held(phone, stage.mission(phone, "E6", text("nie gefragt")), "skipped-budget")
    assert "E6" not in stage.model.asked


async def test_e6_with_one_token_left_the_first_round_is_the_last(stage: Stage) -> None:
    phone = stage.user("e6-one-left", maxTokensPerDay=50_000)
    await stage.ended(phone, stage.mission(phone, "E6 all but one", spent(49_999)))
    iteration = await stage.iteration(phone, stage.mission(phone, "E6 one left", calls(TASK), text("nie gefragt")))
    assert [step["intent"]["toolName"] for step in iteration["plan"]] == ["create_task"]
    [request] = stage.model.asked["E6 one left"]
    assert "100% (49999 / 50000 Tokens)" in prompt(request)
    assert "ausgeschoepft" not in prompt(request)


async def test_e7_a_budget_of_nothing_holds_every_run(stage: Stage) -> None:
    phone = stage.user("e7", maxTokensPerDay=0)
    await stage.held(phone, stage.mission(phone, "E7", text("nie gefragt")), "skipped-budget")
    assert "E7" not in stage.model.asked


async def test_e8_a_model_that_asks_to_wait_is_asked_again_and_at_last_the_iteration_says_that_it_failed(
    stage: Stage,
) -> None:
    # Neither waits for the other's place, which would take one of the times that pass below.
    phone = stage.user("e8", maxConcurrentMissions=2)
    before = stage.counted("llm_attempts_total", kind="rate_limit")
    refusal = error(429, {"detail": {"kind": "rate_limit", "message": "zu viele"}}, retry_after="0")
    mended = stage.mission(phone, "E8 mended", refusal, text("doch noch"))
    never = stage.mission(phone, "E8 never", refusal)
    await stage.time_passes(phone, mended)
    assert (await stage.iteration(phone, mended))["summary"] == "doch noch"
    for _ in range(4):
        await stage.time_passes(phone, never)
    assert len(stage.model.asked["E8 mended"]) == 2
    iteration = await stage.iteration(phone, never)
    assert len(stage.model.asked["E8 never"]) == 5
    assert (iteration["overallStatus"], iteration["plan"]) == ("failed", [])
    [usage] = stage.ask("select count(*) from mana_ai.token_usage where mission_id = %s", never)
    assert usage == {"count": 0}
    assert stage.counted("llm_attempts_total", kind="rate_limit") == before + 6


async def test_e9_malformed_arguments_are_refused_and_the_model_is_told(stage: Stage) -> None:
    phone = stage.user("e9")
    mission_id = stage.mission(phone, "E9", calls(("create_task", '{"title": ')), text("lieber nicht"))
    assert (await stage.iteration(phone, mission_id))["plan"] == []
    [refusal] = results(stage.model.asked["E9"][1])
    told = json.loads(refusal)
    assert (told["success"], told["message"][:33]) == (False, "Arguments must be one JSON object")


async def test_e10_a_denied_tool_is_not_offered_and_a_call_of_it_refused(stage: Stage) -> None:
    phone = stage.user("e10", policy={"tools": {"create_task": "deny"}, "defaultForAi": "propose"})
    mission_id = stage.mission(phone, "E10", calls(TASK), text("dann nicht"))
    assert (await stage.iteration(phone, mission_id))["plan"] == []
    first, second = stage.model.asked["E10"]
    assert len(offered(first)) == 64
    assert "create_task" not in offered(first)
    [refusal] = results(second)
    told = json.loads(refusal)
    assert (told["success"], told["message"][:25]) == (False, "Unknown tool: create_task")


async def test_e11_a_denied_module_takes_its_tools_along(stage: Stage) -> None:
    policy = {"tools": {}, "defaultsByModule": {"todo": "deny"}, "defaultForAi": "auto"}
    phone = stage.user("e11", policy=policy)
    everything = stage.user("e11-all", policy={"tools": {}, "defaultForAi": "auto"})
    await stage.iteration(phone, stage.mission(phone, "E11", text("fertig")))
    await stage.iteration(everything, stage.mission(everything, "E11 all", text("fertig")))
    [request], [full] = stage.model.asked["E11"], stage.model.asked["E11 all"]
    todo = {tool.name for tool in CATALOGUE if tool.module == "todo"}
    assert offered(full) - offered(request) == offered(full) & todo
    assert (len(offered(full)), len(offered(request))) == (65, 62)


async def test_e12_all_denied_but_one_module_leaves_that_module(stage: Stage) -> None:
    policy = {"tools": {}, "defaultForAi": "deny", "defaultsByModule": {"notes": "propose"}}
    phone = stage.user("e12", policy=policy)
    await stage.iteration(phone, stage.mission(phone, "E12", text("fertig")))
    [request] = stage.model.asked["E12"]
    assert len(offered(request)) == 4
    assert {tool.module for tool in CATALOGUE if tool.name in offered(request)} == {"notes"}


async def test_e13_goals_are_told_and_a_note_that_cannot_be_read_is_named_as_a_gap(stage: Stage) -> None:
    phone = stage.user("e13")
    goal = phone.create(GOALS, {"title": "Ernte", "currentValue": 4, "target": {"value": 10, "period": "week"}})
    note = phone.create(NOTES, {"title": "enc:1:geheim", "content": "enc:1:geheim"})
    stage.server.push(phone)
    shown = "select count(*) from mana_ai.record_snapshots where user_id = 'e13'"
    await stage.until(lambda: stage.ask(shown)[0]["count"] == 2)
    inputs = [
        {"module": "goals", "table": GOALS.table, "id": goal},
        {"module": "notes", "table": NOTES.table, "id": note},
    ]
    await stage.iteration(phone, stage.mission(phone, "E13", text("fertig"), inputs=inputs))
    [request] = stage.model.asked["E13"]
    assert "Fortschritt: 4 / 10 (week)" in prompt(request)
    assert "Nicht lesbar und deshalb nicht dabei: " in prompt(request)
    assert b"enc:1:" not in stage.model.raw


async def test_e14_a_plan_goes_on_without_the_news_and_says_what_is_missing(stage: Stage) -> None:
    phone = stage.user("e14")
    stage.research.failing["discover"] = [503] * 3
    mission_id = stage.mission(phone, "E14", text("ohne"), objective="Die news der Woche")
    assert (await stage.iteration(phone, mission_id))["summary"] == "ohne"
    assert "Nicht lesbar und deshalb nicht dabei: " in prompt(stage.model.asked["E14"][0])


async def test_e15_deep_research_is_awaited_told_and_then_cleared_away(stage: Stage) -> None:
    phone = stage.user("e15")
    stage.research.statuses = ["running", "completed"]
    jobs = "select state from mana_ai.mission_research_jobs where user_id = 'e15'"
    mission_id = stage.mission(phone, "E15", text("mit Wissen"), objective="Ein deep dive über Tomaten")
    await stage.held(phone, mission_id, "research-pending")
    assert "E15" not in stage.model.asked
    for polls in (1, 2):
        await stage.time_passes(phone, mission_id)
        await stage.until(lambda polls=polls: sum(task.polls for task in stage.research.tasks.values()) == polls)
    assert (await stage.iteration(phone, mission_id))["summary"] == "mit Wissen"
    assert "Tomaten brauchen Sonne." in prompt(stage.model.asked["E15"][0])
    assert len(stage.research.tasks) == 1
    await stage.until(lambda: stage.ask(jobs) == [])


async def test_e16_ticks_at_the_same_time_open_each_due_time_once(stage: Stage) -> None:
    phone = stage.user("e16", maxConcurrentMissions=20)
    missions = [stage.mission(phone, f"E16 {number}", text("fertig")) for number in range(10)]

    async def tick(session: aiohttp.ClientSession) -> dict[str, Any]:
        async with session.post(stage.tick_url, headers={HEADER: SERVICE_KEY}) as answer:
            assert answer.status == 200
            return dict(await answer.json())

    async with aiohttp.ClientSession() as session:
        answers = await asyncio.gather(*(tick(session) for _ in range(8)))
    for answer in answers:
        assert answer["errors"] in ([], ["overlap-skipped"])
        assert not (answer["errors"] and answer["dueMissionCount"])
    for mission_id in missions:
        await stage.ended(phone, mission_id)
        assert len(stage.runs(phone, mission_id)) == 1
    assert all(len(stage.model.asked[f"E16 {number}"]) == 1 for number in range(10))


async def test_e17_an_iteration_that_comes_again_is_carried_out_once(stage: Stage) -> None:
    phone = stage.user("e17")
    mission_id = stage.mission(phone, "E17", calls(TASK), text("ein Schritt"))
    await stage.iteration(phone, mission_id)
    review = Review(phone, decide=lambda tool: "auto")
    review.refresh()
    [step] = review.executions()
    review.executed(step)
    stage.server.push(phone)
    # Delivered again to the same device after its page was loaded anew, and for the first time to another one.
    phone.cursors.clear()
    for device in (phone, Replica("e17")):
        assert stage.server.pull(device, "ai") > 0
        again = Review(device, decide=lambda tool: "auto")
        again.refresh()
        assert [proposal.executed for proposal in again.proposals()] == [True]
        assert again.executions() == []


NEWER, OLDER = "2031-01-01T00:00:02.000Z", "2031-01-01T00:00:01.000Z"


@pytest.mark.parametrize(
    "stamps",
    [
        pytest.param([NEWER, OLDER, NEWER], id="e18"),
        pytest.param([{"at": NEWER}, OLDER, {"at": NEWER}], id="e19"),
    ],
)
async def test_e18_and_e19_an_older_stamp_loses_and_of_equal_ones_the_later_row_wins_in_either_shape(
    stage: Stage, stamps: list[Any], request: pytest.FixtureRequest
) -> None:
    phone = stage.user(request.node.callspec.id)
    mission_id = stage.mission(phone, "E18", text("nie gefragt"), nextRunAt=None)
    rows = [{"title": "newer", "objective": "newer"}, {"title": "older", "objective": "older"}, {"title": "later row"}]
    for fields, stamp in zip(rows, stamps, strict=True):
        stage.stamped(phone, mission_id, fields, stamp)
    shown = "select record from mana_ai.mission_snapshots where mission_id = %s and record ->> 'title' = 'later row'"
    [row] = await stage.until(lambda: stage.ask(shown, mission_id))
    assert row["record"]["objective"] == "newer"


async def test_e20_missions_that_are_over_or_started_by_hand_are_never_due(stage: Stage) -> None:
    phone = stage.user("e20")
    over = [
        stage.mission(phone, "E20 complete", text("nie"), state="complete"),
        stage.mission(phone, "E20 archived", text("nie"), state="archived"),
        stage.mission(phone, "E20 manual", text("nie"), cadence={"kind": "manual"}, nextRunAt=None),
        stage.mission(phone, "E20 deleted", text("nie"), deletedAt="2026-01-01T00:00:00.000Z"),
    ]
    # One that is due comes after them through the same partition: when it has run, they were seen.
    await stage.iteration(phone, stage.mission(phone, "E20 due", text("fertig")))
    assert [stage.runs(phone, mission_id) for mission_id in over] == [[]] * 4
    assert not [title for title in stage.model.asked if title.startswith("E20") and title != "E20 due"]
