"""What an agent may spend: reserved before, counted as it is spent, freed with the lease."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import REGISTRY

from projector.errors import LeaseLostError
from projector.planner.agent import Agent, agent_of
from projector.planner.budget import Budget
from projector.planner.gates import Verdict
from projector.planner.ledger import ClaimedRun
from projector.planner.steps import Step
from tests.llm.double import Double, Reply, calls, error, text
from tests.planner.test_worker import TASK, worked, working
from tests.planner.world import World

LARGEST = 300


def an_agent(cap: int | None = 1000, *, agent: str = "a1", concurrent: int = 20) -> Agent:
    return agent_of(agent, {"maxTokensPerDay": cap, "maxConcurrentMissions": concurrent})


def step(tokens: int, seq: int = 1) -> Step:
    return Step(seq, "llm", b"\1" * 32, {"content": ""}, tokens, 0)


async def admit(world: World, run: ClaimedRun, agent: Agent, *, owner: str = "w1", largest: int = LARGEST) -> Verdict:
    return await Budget(world.pool, owner, run=largest, day=0, hold_s=900).admit(run, agent, {})


async def claimed(world: World, count: int, *, owner: str = "w1", lease_s: float = 60) -> list[ClaimedRun]:
    """Runs of as many missions of u1."""
    for number in range(count):
        await world.mission(mission=f"m{number}", seen=number == count - 1)
    await world.open()
    return await world.ledger(owner, lease_s=lease_s).claim(count, per_user=count)


def reserved(world: World) -> list[int]:
    return sorted(run["reserved_tokens"] for run in world.runs() if run["admitted_at"] is not None)


def spent(world: World) -> int:
    row = world.admin.execute("select coalesce(sum(tokens_used), 0)::int from mana_ai.token_usage").fetchone()
    assert row is not None
    return int(row[0])


def decided(decision: str) -> float:
    return REGISTRY.get_sample_value("mana_ai_agent_decisions_total", {"decision": decision}) or 0.0


async def test_runs_that_begin_at_once_share_the_last_tokens_and_the_others_wait_for_them(world: World):
    runs = await claimed(world, 12)
    verdicts = await asyncio.gather(*(admit(world, run, an_agent()) for run in runs))
    assert reserved(world) == [100, 300, 300, 300]
    assert sorted({verdict.decision for verdict in verdicts}) == ["admitted", "skipped-reserved"]
    assert all("reserved" in verdict.reason for verdict in verdicts if verdict.action == "hold")


async def test_runs_that_one_worker_admits_together_count_for_each_other(world: World):
    *runs, gone = await claimed(world, 13)
    world.admin.execute("update mana_ai.mission_runs set lease_owner = 'w2' where run_id = %s", [gone.run_id])
    budget = Budget(world.pool, "w1", run=LARGEST, day=0, hold_s=900)
    asked = [*(budget.admit(run, an_agent(concurrent=3), {"of": run.mission_id}) for run in runs[:6]),
             budget.admit(gone, an_agent(agent="a2"), {}),
             *(budget.admit(run, an_agent(500, agent="a3"), {"of": run.mission_id}) for run in runs[6:])]  # fmt: skip
    verdicts = await asyncio.gather(*asked, return_exceptions=True)
    told = [v.decision if isinstance(v, Verdict) else type(v) for v in verdicts]
    assert told[:6] == ["admitted"] * 3 + ["skipped-concurrency"] * 3
    assert told[6] is LeaseLostError
    assert told[7:] == ["admitted"] * 2 + ["skipped-reserved"] * 4
    assert reserved(world) == [200, 300, 300, 300, 300]
    admitted = [run for run in world.runs() if run["admitted_at"] is not None]
    found = sorted((run["brief"]["gates"]["cap"], run["brief"]["gates"]["running"]) for run in admitted)
    assert found == [(500, 0), (500, 1), (1000, 0), (1000, 1), (1000, 2)]
    briefs = [{name: kept for name, kept in run["brief"].items() if name != "gates"} for run in admitted]
    assert briefs == [{"of": run["mission_id"], "spentBefore": 0} for run in admitted]
    assert await asyncio.gather(*(budget.may_ask(run, an_agent(agent="a3"), 250) for run in runs[6:8])) == [
        None,
        Verdict("hold", "stopped-budget", "the run may spend 200 more tokens, and needs 250"),
    ]


async def test_a_run_that_gathered_first_counts_once_when_it_is_admitted_again_beside_others(world: World):
    first, second, third = await claimed(world, 3)
    budget = Budget(world.pool, "w1", run=LARGEST, day=0, hold_s=900)
    agent = an_agent(2 * LARGEST + 50, concurrent=2)
    assert (await budget.admit(first, agent, None)).action == "admit"
    verdicts = await asyncio.gather(*(budget.admit(run, agent, {}) for run in (first, second, third)))
    assert [verdict.decision for verdict in verdicts] == ["admitted", "admitted", "skipped-concurrency"]
    assert reserved(world) == [LARGEST, LARGEST]


async def test_an_answer_passes_from_what_is_reserved_to_what_is_spent(world: World):
    first, second = await claimed(world, 2)
    await admit(world, first, an_agent(400))
    steps = world.ledger().steps(first)
    await steps.store(step(120))
    assert (reserved(world), spent(world)) == ([180], 120)
    await steps.store(step(500, 2))
    assert (reserved(world), spent(world)) == ([0], 620)
    assert (await admit(world, second, an_agent(400))).decision == "skipped-budget"


async def test_what_a_run_did_not_spend_is_free_once_it_settles_and_wakes_who_waits(world: World):
    first, second = await claimed(world, 2)
    ledger = world.ledger()
    await admit(world, first, an_agent(200))
    assert (await admit(world, second, an_agent(200))).decision == "skipped-reserved"
    assert await ledger.claim(1, per_user=9) == []
    await ledger.steps(first).store(step(50))
    await ledger.store_plan(first, {}, sweep_after_s=5)
    (second,) = await ledger.claim(1, per_user=9)
    assert (await admit(world, second, an_agent(200))).action == "admit"
    assert reserved(world) == [150]


async def test_a_vanished_worker_leaves_no_reservation_behind(world: World):
    first, second = await claimed(world, 2)
    await admit(world, first, an_agent(200))
    assert (await admit(world, second, an_agent(200))).decision == "skipped-reserved"
    world.shift_clock_past(second.run_id)
    (second,) = await world.ledger().claim(1, per_user=9)
    world.shift_clock_past(first.run_id)
    assert (await admit(world, second, an_agent(200))).action == "admit"
    # Taken over, the first run is one that asks like any other, whatever it had before.
    (again,) = await world.ledger("w2").claim(1, per_user=9)
    assert again.run_id == first.run_id
    assert (await admit(world, again, an_agent(200), owner="w2")).decision == "skipped-reserved"


async def test_default_agents_of_different_users_reserve_apart(world: World):
    for user in ("u1", "u2"):
        await world.mission(user, agentId=None)
    await world.open()
    runs = await world.ledger().claim(2, per_user=1)
    agent = an_agent(200, agent="legacy:ai-default", concurrent=1)
    assert [(await admit(world, run, agent)).action for run in runs] == ["admit", "admit"]
    assert reserved(world) == [200, 200]


async def test_a_worker_that_lost_its_lease_may_not_ask(world: World):
    (run,) = await claimed(world, 1)
    await admit(world, run, an_agent())
    budget = Budget(world.pool, "w1", run=LARGEST, day=0, hold_s=900)
    assert await budget.may_ask(run, an_agent(), 1) is None
    world.shift_clock_past(run.run_id)
    (taken,) = await world.ledger("w2").claim(1, per_user=1)
    await admit(world, taken, an_agent(), owner="w2")
    with pytest.raises(LeaseLostError):
        await budget.may_ask(run, an_agent(), 1)


@pytest.mark.parametrize("largest", [200, 100_000])
async def test_runs_at_once_pass_the_budget_by_no_more_than_a_round(world: World, largest):
    await world.agent(maxTokensPerDay=500, maxConcurrentMissions=4)
    for number in range(4):
        await world.mission(mission=f"m{number}")
    await world.open()
    reply = Reply(body=calls(TASK).body, pause_s=0.05)  # 120 tokens a round, without an end
    limits = {"max_tokens_per_run": largest, "planner_max_rounds": 50}
    async with Double(reply) as double, working(world, double, **limits), working(world, double, **limits):
        runs = world.runs()
        async with asyncio.timeout(15):
            while any(run["state"] in ("due", "running") for run in runs):
                await asyncio.sleep(0.02)
                runs = world.runs()
    assert spent(world) == 120 * len(double.requests)
    assert 360 <= spent(world) < 500 + 120
    # As they were when none was at work: what one gives back at its end wakes those that it stood in the way of, and
    # they are let in, to be stopped before their first round.
    for run in runs:
        if run["state"] == "planned":
            assert run["plan"]["stopReason"] == "budget"
            assert run["plan"]["steps"]
        else:
            assert run["decision"] in ("skipped-budget", "skipped-reserved", "stopped-budget")
            steps = world.admin.execute("select from mana_ai.run_steps where run_id = %s", [run["run_id"]])
            assert steps.rowcount == 0


async def test_a_run_that_is_stopped_keeps_what_it_planned_and_says_why(world: World):
    await world.agent(maxTokensPerDay=300)
    await world.mission()
    before = decided("stopped-budget")
    async with Double(calls(TASK), calls(TASK), text("nie")) as double:
        run = await worked(world, double, "planned")
    assert len(double.requests) == run["plan"]["rounds"] == len(run["plan"]["steps"]) == 2
    assert run["plan"]["stopReason"] == "budget"
    assert run["plan"]["summary"] == (
        "Cut short: the agent spent 240 of 300 tokens in 24 hours, and the next round needs 120"
    )
    assert decided("stopped-budget") == before + 1


async def test_a_run_that_is_stopped_with_nothing_is_held_and_goes_on_when_there_are_tokens_again(world: World):
    await world.agent(maxTokensPerDay=200)
    await world.mission()
    async with Double(calls(("rm_rf", {})), text("fertig")) as double:
        held = await worked(world, double, "held")
        assert (held["decision"], held["attempts"], len(double.requests)) == ("stopped-budget", 0, 1)
        assert "120 of 200 tokens" in held["reason"]
        world.admin.execute("update mana_ai.token_usage set ts = ts - interval '24 hours'")
        world.shift_clock_past(held["run_id"])
        run = await worked(world, double, "planned")
    assert (len(double.requests), run["plan"]["summary"]) == (2, "fertig")


async def test_a_run_spends_no_more_at_a_time_than_the_largest_may(world: World):
    await world.agent()
    await world.mission()
    async with Double(calls(TASK)) as double:
        run = await worked(world, double, "planned", max_tokens_per_run=250)
    assert len(double.requests) == 2
    assert "the run may spend 10 more tokens, and needs 120" in run["plan"]["summary"]


async def test_answers_of_no_use_count_if_the_endpoint_says_what_they_cost(world: World):
    await world.agent(maxTokensPerDay=240)
    await world.mission()
    useless = Reply(body=b'{"choices":[],"usage":{"prompt_tokens":100,"completion_tokens":20}}')
    async with Double(useless) as double:
        run = await worked(world, double, "held")
    assert len(double.requests) == 2
    assert (run["decision"], run["prompt_tokens"], run["completion_tokens"]) == ("skipped-budget", 200, 40)
    assert spent(world) == 240


async def test_rounds_of_a_run_that_failed_count(world: World):
    await world.agent(maxTokensPerDay=240)
    await world.mission(mission="m1")
    async with Double(calls(TASK), error(401)) as double:
        await worked(world, double, "failed", "written", "planned")
        assert len(double.requests) == 2
        await world.mission(mission="m2")
        await world.open()
        double.replies = [calls(TASK)]
        async with working(world, double):
            async with asyncio.timeout(15):
                while world.run(mission_id="m2")["state"] in ("due", "running"):
                    await asyncio.sleep(0.02)
    assert world.run(mission_id="m2")["plan"]["rounds"] == 1
    assert spent(world) == 240


@pytest.mark.parametrize(("first", "state"), [(TASK, "planned"), (("rm_rf", {}), "held")])
async def test_a_run_that_takes_too_long_ends_as_one_without_tokens_does(world: World, first, state):
    await world.agent()
    await world.mission()
    slow = Reply(body=calls(first).body, pause_s=1.1)
    async with Double(slow, text("fertig")) as double:
        run = await worked(world, double, state, planner_max_s=1.0)
        assert len(double.requests) == 1
        if state == "planned":
            assert (run["plan"]["stopReason"], len(run["plan"]["steps"])) == ("time", 1)
            assert run["plan"]["summary"].startswith("Cut short: the run took 1 s, and may take 1")
        else:
            assert (run["decision"], run["attempts"]) == ("stopped-time", 0)
            world.shift_clock_past(run["run_id"])
            later = await worked(world, double, "planned", planner_max_s=1.0)
            assert (len(double.requests), later["plan"]["summary"]) == (2, "fertig")
