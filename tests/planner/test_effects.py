"""One switch for everything that leaves, and a cap that turns it: no call of the model, no plan in the log."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import orjson
import psycopg
import pytest
from prometheus_client import REGISTRY

from projector.planner.effects import read_effects, start_effects, stop_effects
from projector.planner.scheduler import Scheduler
from projector.planner.writer import Writer
from projector.sql.connection import connect, pool
from tests.cli.test_servers import run as command
from tests.llm.double import Double, Reply, calls, text
from tests.planner.test_worker import TASK, settled, working
from tests.planner.world import World

PLAN = {
    "version": 1,
    "summary": "s",
    "steps": [],
    "stopReason": "assistant-stop",
    "agent": {"id": "a1", "name": "Mana"},
}


async def stop(world: World, reason: str | None = None) -> None:
    async with world.pool.connection() as conn:
        await stop_effects(conn, reason)


async def start(world: World) -> None:
    async with world.pool.connection() as conn:
        await start_effects(conn)


async def pass_of_the_timers(world: World, **settings: Any) -> None:
    await Scheduler(world.settings.model_copy(update=settings), world.pool).look_after_waiting()


async def write(world: World, run: dict[str, Any], *, sweep: bool = False, **settings: Any) -> None:
    """What the sink does when a plan is announced, or overdue."""
    changed = world.settings.model_copy(update=settings)
    async with pool(changed, "projector_sink", size=1) as connections:
        writer = Writer(changed, connections, world.pool)
        if sweep:
            await writer.sweep()
        else:
            await writer.write(run["run_id"], run["user_id"])


def spend(world: World, tokens: int, *, user: str = "stranger", seconds_before_today: int | None = None) -> None:
    world.admin.execute(
        "insert into mana_ai.token_usage (user_id, agent_id, mission_id, run_id, tokens_used, ts)"
        " values (%s, 'a', 'm', gen_random_uuid(), %s, case when %s::int is null then now()"
        "         else date_trunc('day', now(), 'UTC') - make_interval(secs => %s) end)",
        [user, tokens, seconds_before_today, seconds_before_today],
    )


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_what_falls_due_while_effects_are_stopped_is_held_with_the_reason_and_follows(world: World):
    await world.agent()
    await world.mission()
    await stop(world, "the model  repeats itself\0")
    before = metric("mana_ai_agent_decisions_total", decision="skipped-stopped")
    assert await world.open() == 1
    async with Double(text("fertig")) as double, working(world, double):
        await settled(world, "held")
        run = world.run()
        assert (run["decision"], run["attempts"], double.requests) == ("skipped-stopped", 0, [])
        assert f"effects are stopped since {datetime.now(UTC):%Y-%m-%d}" in run["reason"]
        assert "UTC: the model repeats itself\ufffd" in run["reason"]
        assert metric("mana_ai_agent_decisions_total", decision="skipped-stopped") == before + 1
        assert metric("mana_ai_effects_stopped", cause="operator") == 1
        await pass_of_the_timers(world)
        assert world.run()["next_attempt_at"] > datetime.now(UTC)
        await start(world)
        await pass_of_the_timers(world)
        await settled(world, "planned")
    assert len(double.requests) == 1
    assert metric("mana_ai_effects_stopped", cause="operator") == 0


async def test_a_call_under_way_is_the_last_and_is_not_paid_for_again(world: World):
    await world.agent()
    await world.mission()
    await world.open()
    first = Reply(body=calls(TASK).body, pause_s=0.3)
    async with Double(first, text("fertig")) as double, working(world, double):
        async with asyncio.timeout(15):
            while not double.requests:
                await asyncio.sleep(0.02)
        await stop(world)
        # What it planned so far is no plan yet.
        await settled(world, "held")
        assert (world.run()["decision"], len(double.requests)) == ("skipped-stopped", 1)
        await start(world)
        await pass_of_the_timers(world)
        await settled(world, "planned")
    plan = world.run()["plan"]
    assert (len(double.requests), plan["summary"], len(plan["steps"])) == (2, "fertig", 1)


async def test_a_stored_plan_waits_in_the_ledger_until_effects_happen_again(world: World):
    await world.agent()
    await world.mission()
    run = await world.claimed()
    await world.ledger().store_plan(run, PLAN, sweep_after_s=0)
    await stop(world)
    await write(world, world.run())
    await write(world, world.run(), sweep=True)
    assert (world.run()["state"], world.ours()) == ("planned", [])
    world.watch_messages()
    world.shift_clock_past(run.run_id)
    await pass_of_the_timers(world)
    assert world.messages() == []
    await start(world)
    await write(world, world.run(), sweep=True)
    assert (world.run()["state"], len(world.ours())) == ("written", 1)


async def test_the_days_cap_stops_calls_and_writes_by_itself_until_the_day_ends(world: World):
    await world.agent()
    await world.mission(mission="m1")
    run = await world.claimed()
    await world.ledger().store_plan(run, PLAN, sweep_after_s=0)
    await world.mission(mission="m2")
    await world.open()
    spend(world, 99)
    spend(world, 10**6, seconds_before_today=1)
    async with Double(calls(TASK), text("fertig")) as double, working(world, double, max_tokens_per_day=100):
        await settled(world, "held")
        held = world.run(mission_id="m2")
        assert (held["decision"], len(double.requests)) == ("skipped-spend-cap", 1)
        assert "219 of 100 tokens" in held["reason"]
        assert metric("mana_ai_effects_stopped", cause="spend-cap") == 1
        await pass_of_the_timers(world, max_tokens_per_day=100)
        await write(world, world.run(mission_id="m1"), max_tokens_per_day=100)
        assert world.ours() == []
        # The day ends: what was spent belongs to the one before.
        world.admin.execute("update mana_ai.token_days set day = day - 2")
        await pass_of_the_timers(world, max_tokens_per_day=100)
        await settled(world, "planned", count=2)
        await write(world, world.run(mission_id="m1"), max_tokens_per_day=1000)
    assert len(double.requests) == 2
    assert [row["record_id"] for row in world.ours()] == ["m1"]


@pytest.mark.parametrize("role", ["projector_sink", "projector_reader", "projector_engine"])
async def test_only_the_planners_role_turns_the_switch(world: World, role: Any):
    async with await connect(world.settings, role) as conn:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await start_effects(conn)


async def test_stopping_twice_keeps_when_and_why_it_was_done_first(world: World):
    await stop(world, "first")
    async with world.pool.connection() as conn:
        first = await read_effects(conn, 0)
        await stop_effects(conn, None)
        assert await read_effects(conn, 0) == first
    assert first.reason == "first"


async def test_an_operator_stops_them_sees_it_everywhere_and_starts_them(world: World):
    settings = world.settings.model_copy(update={"max_tokens_per_day": 1000})
    spend(world, 250)
    stopped = command(settings, "effects", "stop", "--reason", "bad [plans]")
    assert stopped.stdout.startswith(f"effects stopped since {datetime.now(UTC):%Y-%m-%d}")
    assert stopped.stdout.endswith("UTC: bad [plans]; 250 tokens spent today (UTC), of 1,000\n")
    status = [orjson.loads(line) for line in command(settings, "status", "--json").stdout.splitlines()]
    shown = next(line for line in status if line["stage"] == "effects")
    assert (shown["stopped_by"], shown["reason"], shown["tokens_today"]) == ("operator", "bad [plans]", 250)
    spend(world, 750)
    started = orjson.loads(command(settings, "effects", "start", "--json").stdout)
    assert started == {
        "stopped_by": "spend-cap",
        "stopped_at": None,
        "reason": None,
        "tokens_today": 1000,
        "max_tokens_per_day": 1000,
    }
    line = next(one for one in command(settings, "status").stdout.splitlines() if one.startswith("effects"))
    assert line.split(maxsplit=1)[1] == (
        "stopped until the day ends (UTC): 1000 of 1000 tokens are spent; 1,000 tokens spent today (UTC), of 1,000"
    )
