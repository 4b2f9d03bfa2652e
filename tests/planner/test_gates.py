"""The gates in their order, and what a round of an admitted run is asked."""

from __future__ import annotations

import pytest

from projector.planner.agent import agent_of
from projector.planner.gates import Load, judge_load, judge_round
from projector.planner.mission import MAX_AGENT_ID
from tests.llm.double import Double, text
from tests.planner.test_worker import worked
from tests.planner.world import World


@pytest.mark.parametrize(
    ("agent", "decision"),
    [
        ({"state": "archived", "maxConcurrentMissions": 0, "maxTokensPerDay": 0}, "skipped-archived"),
        ({"state": "paused", "maxConcurrentMissions": 0, "maxTokensPerDay": 0}, "skipped-paused"),
        ({"maxConcurrentMissions": 0, "maxTokensPerDay": 0}, "skipped-concurrency"),
        ({"maxTokensPerDay": 0}, "skipped-budget"),
    ],
)
async def test_the_first_gate_that_says_no_names_the_reason(world: World, agent, decision):
    await world.agent(**agent)
    await world.mission()
    async with Double(text("nie")) as double:
        run = await worked(world, double, "held")
    assert run["decision"] == decision
    assert double.requests == []


async def test_an_agent_whose_id_no_ledger_keeps_is_none(world: World):
    endless = "a" * (MAX_AGENT_ID + 1)
    await world.agent(agent=endless)
    await world.mission(agentId=endless)
    async with Double(text("nie")) as double:
        run = await worked(world, double, "held")
    assert (run["decision"], run["agent_id"], double.requests) == ("skipped-no-agent", endless[:-1], [])


async def test_a_negative_cap_is_none(world: World):
    await world.agent(maxTokensPerDay=-1)
    await world.mission()
    world.admin.execute(
        "insert into mana_ai.token_usage (user_id, agent_id, mission_id, run_id, tokens_used)"
        " values ('u1', 'a1', 'm1', gen_random_uuid(), 1000000000)"
    )
    async with Double(text("fertig")) as double:
        assert (await worked(world, double, "planned"))["plan"]["stopReason"] == "assistant-stop"


@pytest.mark.parametrize(
    ("load", "decision"),
    [
        (Load(1, 0, 999), "admitted"),
        (Load(1, 0, 1000), "skipped-reserved"),
        (Load(1, 600, 400), "skipped-reserved"),
        (Load(1, 600, 399), "admitted"),
        # What was spent stands against the run for a day, what is reserved for as long as the others run.
        (Load(1, 1000, 400), "skipped-budget"),
        (Load(2, 0, 1000), "skipped-concurrency"),
    ],
)
def test_what_other_runs_have_reserved_counts_as_spent(load, decision):
    assert judge_load(agent_of("a", {"maxTokensPerDay": 1000, "maxConcurrentMissions": 2}), load).decision == decision


@pytest.mark.parametrize(
    ("cap", "load", "allowance", "needed", "stopped"),
    [
        (None, Load(0, 10**9), 100, 100, False),
        (None, Load(0, 0), 99, 100, True),
        (None, Load(0, 0), 0, 1, True),
        (1000, Load(0, 900), 500, 100, False),
        (1000, Load(0, 901), 500, 100, True),
        (1000, Load(1, 500, 401), 500, 100, True),
        (1000, Load(1, 1200, 0), 500, 1, True),
    ],
)
def test_a_round_needs_what_the_one_before_cost(cap, load, allowance, needed, stopped):
    verdict = judge_round(agent_of("a", {"maxTokensPerDay": cap}), load, allowance, needed, most=100_000)
    assert (verdict is not None and verdict.decision == "stopped-budget") == stopped


@pytest.mark.parametrize(("cap", "most"), [(50, 100), (None, 50)])
def test_a_round_that_no_run_may_pay_for_fails_instead_of_waiting(cap, most):
    agent = agent_of("a", {"maxTokensPerDay": cap})
    verdict = judge_round(agent, Load(0, 0), 50, 51, most=most)
    assert verdict is not None
    assert (verdict.action, verdict.decision) == ("fail", "stopped-budget")
    assert judge_round(agent, Load(0, 0), 50, 50, most=most) is None
