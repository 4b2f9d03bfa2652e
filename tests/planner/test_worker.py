from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from projector import metrics
from projector.health.parts import part
from projector.llm.client import OpenAIChat
from projector.planner.catalogue import CATALOGUE_DIGEST
from projector.planner.due import wake_changed
from projector.planner.pace import Pace
from projector.planner.research.services import ResearchServices
from projector.planner.steps import Step
from projector.planner.worker import WORKER, Worker
from tests.llm.double import Double, Reply, calls, error, text
from tests.planner.world import World

TASK = ("create_task", {"title": "Gießen"})
FAILED = {
    "version": 1,
    "summary": "",
    "steps": [],
    "error": {"name": "E", "message": "m"},
    "reason": "the endpoint answered 401",
}
FAST = Pace(first_retry_s=0.0, longest_retry_s=0.0, poll_s=0.02, max_attempts=3)


@asynccontextmanager
async def working(world: World, double: Double, pace: Pace = FAST, **settings) -> AsyncIterator[Worker]:
    changed = world.settings.model_copy(update=settings)
    stop = asyncio.Event()
    async with (
        OpenAIChat(double.url, timeout_s=changed.llm_timeout_s) as chat,
        ResearchServices.from_settings(changed) as services,
    ):
        worker = Worker(changed, world.pool, chat, pace, services=services)
        running = asyncio.create_task(worker.run(stop))
        try:
            yield worker
        finally:
            stop.set()
            await running


async def settled(world: World, *states: str, count: int = 1) -> None:
    """Waits until `count` runs are in one of `states`."""
    async with asyncio.timeout(25):  # a run that missed the end of another would look for its place after 30
        while sum(run["state"] in states for run in world.runs()) < count:
            await asyncio.sleep(0.02)


async def worked(world: World, double: Double, *states: str, pace: Pace = FAST, **settings) -> dict:
    """Opens what is due, lets a worker at it until its run is in one of `states`, and returns the run."""
    await world.open()
    async with working(world, double, pace, **settings):
        await settled(world, *states)
    return world.run()


async def test_a_run_becomes_a_plan(world: World):
    await world.agent(systemPrompt="be brief")
    await world.mission()
    world.watch_messages()
    async with Double(calls(TASK), text("fertig", prompt=50, completion=5)) as double:
        run = await worked(world, double, "planned")
    assert run["plan"] == {
        "version": 1,
        "summary": "fertig",
        "steps": [{"summary": "create_task", "toolName": "create_task", "params": TASK[1], "rationale": ""}],
        "stopReason": "assistant-stop",
        "rounds": 2,
        "rejectedCalls": 0,
        "agent": {"id": "a1", "name": "Mana"},
        "catalogue": CATALOGUE_DIGEST,
    }
    assert (run["prompt_tokens"], run["completion_tokens"], run["attempts"]) == (150, 25, 1)
    assert double.run_ids == [str(run["run_id"])] * 2
    assert "be brief" in double.requests[0]["messages"][0]["content"]
    assert [prefix for prefix, _ in world.messages()] == ["mission.due", "mission.iterations"]


async def test_only_what_the_agents_policy_allows_is_offered_and_planned(world: World):
    await world.agent(policy={"tools": {"create_task": "deny"}, "defaultForAi": "propose"})
    await world.mission()
    async with Double(calls(TASK, ("rm_rf", {}), ("create_note", {"content": "N"})), text("fertig")) as double:
        run = await worked(world, double, "planned")
    assert "create_task" not in [tool["function"]["name"] for tool in double.requests[0]["tools"]]
    assert [step["toolName"] for step in run["plan"]["steps"]] == ["create_note"]
    assert run["plan"]["rejectedCalls"] == 2


async def test_a_run_held_for_the_agent_that_its_mission_was_given_to_is_woken_by_that_one(world: World):
    await world.agent()
    await world.agent(agent="a2", state="paused")
    await world.mission()
    await world.open()
    await world.edit(agentId="a2")
    async with Double(text("nie")) as double:
        run = await worked(world, double, "held")
    assert (run["decision"], run["agent_id"]) == ("skipped-paused", "a2")
    async with world.pool.connection() as conn:
        assert await wake_changed(conn) == 0
        await world.edit_agent(agent="a2", state="active")
        assert await wake_changed(conn) == 1


async def test_no_ciphertext_leaves_with_a_request(world: World):
    secret = "enc:1:aXY=.Y3Q="
    await world.agent(systemPrompt=secret, memory=f"siehe {secret}")
    await world.mission(
        conceptMarkdown=f"Notiz: {secret}",
        iterations=[{"id": "i", "summary": secret, "userFeedback": f"x {secret}", "plan": [{"summary": secret}]}],
    )
    async with Double(calls(("create_note", {"content": secret})), text(secret)) as double:
        await worked(world, double, "planned")
    assert len(double.requests) == 2
    assert b"enc:1:" not in double.raw
    assert secret.removeprefix("enc:1:").encode() not in double.raw


@pytest.mark.parametrize(
    ("agent", "mission", "decision"),
    [
        ({"state": "archived"}, {}, "skipped-archived"),
        ({"state": "paused"}, {}, "skipped-paused"),
        ({"deletedAt": "2026-01-01T00:00:00.000Z"}, {}, "skipped-no-agent"),
        ({"maxTokensPerDay": 0}, {}, "skipped-budget"),
        ({}, {"agentId": "stranger"}, "skipped-no-agent"),
        ({}, {"agentId": None}, "skipped-no-agent"),
        ({}, {"objective": "enc:1:aa.bb"}, "skipped-encrypted"),
    ],
)
async def test_a_gate_holds_a_run_with_its_reason_and_nothing_is_asked(world: World, agent, mission, decision):
    await world.agent(**agent)
    await world.mission(**mission)
    async with Double(text("nie")) as double:
        run = await worked(world, double, "held")
        await asyncio.sleep(0.2)
    assert (run["decision"], run["attempts"], run["started_at"]) == (decision, 0, None)
    assert run["reason"]
    assert double.requests == []


async def test_a_mission_without_an_agent_runs_under_the_default_agent(world: World):
    await world.agent(agent="legacy:ai-default")
    await world.mission(agentId=None)
    async with Double(text("fertig")) as double:
        run = await worked(world, double, "planned")
    assert run["plan"]["agent"]["id"] == "legacy:ai-default"


@pytest.mark.parametrize(
    ("change", "decision"),
    [
        ({"state": "paused"}, "mission-inactive"),
        ({"deletedAt": "2026-01-01T00:00:00.000Z"}, "mission-gone"),
        ({"nextRunAt": "2099-01-01T00:00:00.000Z"}, "mission-rescheduled"),
    ],
)
async def test_a_mission_that_changed_since_it_was_due_is_not_run(world: World, change, decision):
    await world.agent()
    await world.mission()
    await world.open()
    await world.edit(**change)
    async with Double(text("nie")) as double, working(world, double):
        await settled(world, "cancelled")
    assert world.run()["decision"] == decision
    assert double.requests == []


async def test_an_agent_runs_as_many_missions_at_once_as_it_may_and_the_others_follow(world: World):
    await world.agent()
    for number in range(3):
        await world.mission(mission=f"m{number}")
    await world.open()
    busiest = 0
    async with Double(Reply(body=text("fertig").body, pause_s=0.2)) as double, working(world, double):
        async with asyncio.timeout(15):
            while len(world.runs(state="planned")) < 3:
                busiest = max(busiest, sum(run["admitted_at"] is not None for run in world.runs()))
                await asyncio.sleep(0.02)
    assert busiest == 1


async def test_agents_of_different_users_do_not_wait_for_each_other(world: World):
    for user in ("u1", "u2", "u3"):
        await world.agent(user, "legacy:ai-default")
        await world.mission(user, agentId="legacy:ai-default")
    await world.open()
    async with Double(Reply(body=text("fertig").body, pause_s=0.5)) as double, working(world, double):
        await settled(world, "running", count=3)
        async with asyncio.timeout(5):
            while len(double.requests) < 3:
                await asyncio.sleep(0.02)
        assert len(world.runs(state="planned")) == 0
        await settled(world, "planned", count=3)


async def test_a_budget_counts_what_failed_runs_spent(world: World):
    await world.agent(maxTokensPerDay=100)
    await world.mission()
    run = await world.claimed()
    await world.ledger().steps(run).store(Step(1, "llm", b"\1" * 32, {"content": ""}, 90, 30))
    await world.ledger().store_plan(run, FAILED, sweep_after_s=60)
    await world.mission(mission="m2")
    await world.open()
    async with Double(text("nie")) as double, working(world, double):
        await settled(world, "held")
    assert world.run(mission_id="m2")["decision"] == "skipped-budget"
    assert double.requests == []


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (error(429, {"detail": {"kind": "rate_limit", "message": "slow"}}), "429"),
        (error(500), "500"),
        (Reply(body=text("t").body, pause_s=20), "within 0.5 s"),
        (Reply(body=b"{"), "no JSON"),
        (text("x" * 3_000_000), "longer than"),
    ],
    ids=["429", "500", "timeout", "malformed", "huge"],
)
async def test_trouble_with_the_model_is_tried_again_and_then_fails_with_the_reason(world: World, reply, words):
    await world.agent()
    await world.mission()
    async with Double(reply) as double:
        run = await worked(world, double, "planned", llm_timeout_s=0.5)
        await asyncio.sleep(0.2)
    assert len(double.requests) == run["attempts"] == FAST.max_attempts
    assert words in run["reason"]
    assert run["decision"] == "failed"
    assert run["plan"]["error"] == {"name": "ModelUnavailable", "message": "the model did not answer"}
    assert await world.open() == 0


async def test_a_refusal_fails_at_once(world: World):
    await world.agent()
    await world.mission()
    async with Double(error(401, {"detail": "who are you"})) as double:
        run = await worked(world, double, "planned")
    assert len(double.requests) == 1
    assert "who are you" not in run["reason"]
    assert run["plan"]["detail"] == "who are you"
    assert run["plan"]["error"] == {"name": "ModelRefused", "message": "the model does not take this mission"}


async def test_a_transient_fault_is_overcome_with_growing_patience(world: World):
    await world.agent()
    await world.mission()
    async with Double(error(503), calls(TASK), error(503), text("fertig")) as double:
        run = await worked(world, double, "planned")
    assert run["attempts"] == 3
    assert len(double.requests) == 4  # the stored answer of the second request was not asked for again


async def test_a_run_whose_worker_died_continues_from_its_stored_answers(world: World):
    await world.agent()
    await world.mission()
    async with Double(calls(TASK), Reply(body=text("fertig").body, pause_s=20)) as double:
        await world.open()
        async with OpenAIChat(double.url) as chat:
            worker = Worker(world.settings, world.pool, chat, FAST)
            running = asyncio.create_task(worker.run(asyncio.Event()))
            async with asyncio.timeout(15):
                while len(double.requests) < 2:
                    await asyncio.sleep(0.02)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        double.replies[-1] = text("fertig")
        async with working(world, double):
            await settled(world, "planned")
    assert len(double.requests) == 3  # two rounds, and the one that got no answer
    assert double.requests[1] == double.requests[2]
    assert len(world.run()["plan"]["steps"]) == 1


async def test_a_worker_that_stops_hands_its_run_back(world: World):
    await world.agent()
    await world.mission()
    await world.open()
    async with Double(Reply(body=text("fertig").body, pause_s=20)) as double, working(world, double):
        async with asyncio.timeout(15):
            while not double.requests:
                await asyncio.sleep(0.02)
    run = world.run()
    assert (run["state"], run["attempts"], run["lease_owner"]) == ("due", 0, None)


async def test_a_worker_that_lost_its_lease_stops_what_it_does_for_it(world: World):
    await world.agent()
    await world.mission()
    await world.open()
    async with Double(Reply(body=text("fertig").body, pause_s=20)) as double:
        # It looks into the ledger once, at its start, and cannot take the run over again itself.
        async with working(world, double, replace(FAST, poll_s=60), lease_s=1):
            async with asyncio.timeout(15):
                while not double.requests:
                    await asyncio.sleep(0.02)
                taken = []
                while not taken:  # a renewal may come in between
                    world.shift_clock_past(world.run()["run_id"])
                    taken = await world.ledger("other").claim(1, per_user=1)
            await asyncio.sleep(1)
        assert world.run()["lease_owner"] == "other"
        assert len(double.requests) == 1


async def test_a_worker_whose_lease_ran_out_unnoticed_goes_on_with_its_run_and_asks_nothing_again(world: World):
    await world.agent()
    await world.mission()
    await world.open()
    async with Double(Reply(body=text("fertig").body, pause_s=2), text("nie")) as double, working(world, double):
        async with asyncio.timeout(15):
            while not double.requests:
                await asyncio.sleep(0.02)
            world.shift_clock_past(world.run()["run_id"])
        await settled(world, "planned")
    assert len(double.requests) == 1
    assert (world.run()["plan"]["summary"], world.run()["attempts"]) == ("fertig", 1)
    assert [tokens for (tokens,) in world.admin.execute("select tokens_used from mana_ai.token_usage")] == [120]


async def test_a_run_that_kills_its_workers_is_given_up(world: World):
    await world.agent()
    await world.mission()
    await world.open()
    for number in range(FAST.max_attempts):
        (run,) = await world.ledger(f"w{number}").claim(1, per_user=1)
        world.shift_clock_past(run.run_id)
    async with Double(text("nie")) as double, working(world, double):
        await settled(world, "planned")
    assert "vanished" in world.run()["reason"]
    assert world.run()["decision"] == "failed"
    assert double.requests == []


SECRET = "was im Prompt steht"


async def test_no_log_line_quotes_the_endpoint_which_may_quote_the_prompt(world: World):
    await world.agent()
    await world.mission()
    echo = {"error": {"message": f"cannot read: {SECRET}"}}
    with capture_logs() as logs:
        async with Double(error(503, echo), error(401, echo)) as double:
            run = await worked(world, double, "planned")
    assert SECRET in run["plan"]["detail"]
    assert SECRET not in run["reason"]
    assert SECRET not in str(logs)
    told = [(line["event"], line["cause"], line["status"]) for line in logs if "status" in line]
    assert told == [("attempt failed", "ModelUnavailable", 503), ("run failed", "ModelRefused", 401)]


async def test_no_log_line_quotes_the_row_that_the_database_refused(world: World):
    await world.agent()
    await world.mission()
    world.admin.execute(
        "create function refuse() returns trigger language plpgsql as"
        " $$begin raise 'no %', new.response using errcode = 'check_violation', constraint = 'shut'; end$$;"
        "create trigger refuse before insert on mana_ai.run_steps for each row execute function refuse()"
    )
    with capture_logs() as logs:
        async with Double(text(SECRET)) as double:
            await worked(world, double, "planned")
    broke = [line for line in logs if line["event"] == "run broke"]
    assert [(line["error"], line["sqlstate"], line["constraint"]) for line in broke] == [
        ("CheckViolation", "23514", "shut")
    ] * FAST.max_attempts
    assert all("ledger.py:" in " ".join(line["places"]) for line in broke)
    assert SECRET not in str(logs)


class NoServers:
    async def ends(self, places: object) -> dict[Any, int]:
        raise AssertionError("a loop that tells each pass asks nobody")


async def test_a_worker_whose_every_claim_fails_does_not_move(world: World):
    await world.agent()
    await world.mission()
    await world.open()
    world.admin.execute(
        "create function refuse() returns trigger language plpgsql as"
        " $$begin raise 'no space left' using errcode = 'disk_full'; end$$;"
        "create trigger refuse before update on mana_ai.mission_runs for each row execute function refuse()"
    )
    errors = metrics.PLANNER_DATABASE_ERRORS._value
    async with Double(text("fertig")) as double, working(world, double), asyncio.timeout(25):
        found = []
        for _ in range(2):
            after = errors.get() + 3
            while errors.get() < after:
                await asyncio.sleep(0.02)
            found.append(await part(WORKER).seen(NoServers()))
        assert found[0] == found[1]
        world.admin.execute("drop trigger refuse on mana_ai.mission_runs")
        await settled(world, "planned")
        assert await part(WORKER).seen(NoServers()) != found[1]
