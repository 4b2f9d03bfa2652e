"""Runs in the hands of an operator, beside workers and the write-back that are after the same ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest

from projector.errors import LeaseLostError
from projector.planner.iteration import iso_ms
from projector.planner.ledger import CLAIM, ClaimedRun
from projector.planner.mission import DEFAULT_AGENT, MAX_AGENT_ID
from projector.planner.pace import Pace
from projector.planner.runs import STUCK, UNFINISHED, Result, Selection, cancel, pages, retry
from projector.planner.steps import Step
from projector.sql.connection import connect
from tests.llm.double import Double, Reply, calls, text
from tests.planner.test_worker import FAST, TASK, settled, working
from tests.planner.world import HOUR, World
from tests.planner.writing import write_back

PLAN = {"version": 1, "summary": "", "steps": [], "agent": {"id": "a1", "name": "Mana"}}
STEP = Step(1, "llm", b"\1" * 32, {"content": "x"}, 100, 20)


async def act(world: World, action: Callable[..., AsyncIterator[Result]], *ids: UUID, **filters: Any) -> list[Result]:
    async with await connect(world.settings, "projector_planner") as conn:
        return [result async for result in action(conn, Selection(ids, **filters), by="olga")]


async def outcome(world: World, action: Callable[..., AsyncIterator[Result]], run_id: UUID) -> str:
    [result] = await act(world, action, run_id)
    return result.outcome


async def write(world: World, run: dict[str, Any]) -> str:
    async with await connect(world.settings, "projector_sink") as conn:
        return await write_back(conn, run["run_id"], run["user_id"], zone=ZoneInfo("Europe/Berlin"), pace=Pace())


async def brought_to(world: World, state: str) -> UUID:
    """A run in `state` that nobody may claim before an hour has passed, with a step that was paid for."""
    await world.mission()
    run = await world.claimed()
    ledger = world.ledger()
    await ledger.steps(run).store(STEP)
    if state == "planned":
        await ledger.store_plan(run, PLAN, sweep_after_s=3600)
    elif state == "written":
        await ledger.store_plan(run, PLAN, sweep_after_s=0)
        await write(world, world.run())
    elif state != "running":
        await ledger.settle(run, state, decision="d", reason="r", wait_s=3600, counts=True)
    return run.run_id


async def meets(world: World, action: Callable[..., AsyncIterator[Result]], run_id: UUID) -> asyncio.Task[list[Result]]:
    """Begins `action`, and returns once it waits for somebody's lock."""
    task = asyncio.create_task(act(world, action, run_id))
    async with asyncio.timeout(10):
        while not world.admin.execute("select 1 from pg_locks where not granted").fetchone():
            assert not task.done()
            await asyncio.sleep(0.01)
    return task


@pytest.mark.parametrize("state", ["due", *STUCK])
async def test_a_run_that_waits_or_ended_without_a_plan_is_claimable_at_once_with_its_steps(world: World, state):
    run_id = await brought_to(world, state)
    world.watch_messages()
    assert await outcome(world, retry, run_id) == "retried"
    assert world.messages() == [("mission.due", {"run_id": str(run_id), "user_id": "u1"})]
    row = world.run()
    assert (row["state"], row["decision"], row["reason"]) == ("due", "retried-by-hand", "by olga")
    (again,) = await world.ledger("w2").claim(1, per_user=1)
    assert (again.run_id, again.attempts) == (run_id, 1)
    assert (await world.ledger("w2").look(again)).steps == [STEP]


async def test_a_plan_that_waits_is_announced_to_the_write_back_once_more(world: World):
    run_id = await brought_to(world, "planned")
    world.watch_messages()
    assert await outcome(world, retry, run_id) == "retried"
    assert world.messages() == [("mission.iterations", {"run_id": str(run_id), "user_id": "u1"})]
    assert await write(world, world.run()) == "written"


@pytest.mark.parametrize(
    ("state", "why"), [("running", "a worker is at it"), ("written", "its iteration is in the log")]
)
async def test_a_run_at_work_or_written_is_not_retried(world: World, state, why):
    run_id = await brought_to(world, state)
    before = world.run()
    assert await act(world, retry, run_id) == [(run_id, state, "refused", why)]
    assert world.run() == before


async def test_what_was_paid_for_is_not_paid_for_again_by_a_retry(world: World):
    await world.agent()
    await world.mission()
    await world.open()
    async with Double(calls(TASK), text("fertig")) as double:
        async with working(world, double):
            await settled(world, "planned")
        await world.edit(state="paused")
        assert await write(world, world.run()) == "refused"
        # Another question would follow from this one, were the first not kept.
        await world.edit(state="active", objective="Gieße auch den Kaktus")
        assert await outcome(world, retry, world.run()["run_id"]) == "retried"
        assert world.run()["plan"] is None
        async with working(world, double):
            await settled(world, "planned")
        assert len(double.requests) == 2
    assert world.run()["plan"]["summary"] == "fertig"
    assert world.admin.execute("select sum(tokens_used)::int from mana_ai.token_usage").fetchone() == (240,)


async def test_a_run_is_not_retried_beside_another_one_of_its_mission(world: World):
    old = await brought_to(world, "cancelled")
    await world.edit(nextRunAt=iso_ms(world.run()["due_at"] + timedelta(minutes=1)))
    await world.open()
    (new,) = [run["run_id"] for run in world.runs(state="due")]
    [result] = await act(world, retry, old)
    assert (result.outcome, result.detail) == ("refused", f"run {new} of its mission is not finished")
    # Neither when both are taken up at the same moment.
    await act(world, cancel, new)
    async with world.pool.connection() as conn, conn.transaction():
        assert [result.outcome async for result in retry(conn, Selection((new,)), by="olaf")] == ["retried"]
        second = await meets(world, retry, old)
    assert [result.outcome for result in await second] == ["refused"]
    assert [run["run_id"] for run in world.runs(state="due")] == [new]


@pytest.mark.parametrize("state", [*UNFINISHED, "failed", "cancelled"])
async def test_a_cancelled_run_does_not_come_back_by_itself(world: World, state):
    run_id = await brought_to(world, state)
    before = world.run()
    assert await outcome(world, cancel, run_id) == "cancelled"
    row = world.run()
    assert (row["state"], row["decision"], row["next_attempt_at"]) == ("cancelled", "cancelled-by-hand", None)
    world.shift_clock_past(run_id)
    assert await world.open() == 0
    assert await world.ledger("w2").claim(1, per_user=1) == []
    assert await write(world, before) == "nothing-to-do"
    assert world.ours() == []
    assert await outcome(world, cancel, run_id) == "unchanged"
    assert await outcome(world, retry, run_id) == "retried"


async def test_a_written_run_is_not_cancelled_and_an_unknown_one_is_told(world: World):
    run_id = await brought_to(world, "written")
    assert await outcome(world, cancel, run_id) == "refused"
    assert world.run()["state"] == "written"
    for action in (cancel, retry):
        assert await outcome(world, action, uuid4()) == "unknown"


async def test_a_worker_stops_within_a_third_of_the_lease_and_the_place_goes_to_who_waits(world: World):
    await world.agent()
    await world.mission(mission="first")
    await world.open()
    async with Double(Reply(body=text("nie").body, pause_s=60), text("fertig")) as double:
        async with working(world, double, replace(FAST, hold_for_place_s=3600), lease_s=1.5) as worker:
            async with asyncio.timeout(15):
                while not double.requests:
                    await asyncio.sleep(0.02)
            await world.mission(mission="second")
            await world.open()
            worker.wake()
            await settled(world, "held")
            first = world.run(mission_id="first")["run_id"]
            assert await outcome(world, cancel, first) == "cancelled"
            async with asyncio.timeout(1.5):  # a third of the lease, and an ample rest for a busy machine
                while any(task.get_name() == f"run {first}" for task in asyncio.all_tasks()):
                    await asyncio.sleep(0.02)
            await settled(world, "planned")
        assert double.run_ids == [str(first), str(world.run(mission_id="second")["run_id"])]
    assert world.run(mission_id="first")["state"] == "cancelled"


async def test_a_worker_that_claims_at_the_same_moment_wins_over_a_retry_and_loses_to_a_cancel(world: World):
    run_id = await brought_to(world, "held")
    world.shift_clock_past(run_id)
    claim = {"limit": 1, "per_user": 1, "at_hand": [], "owner": "w1", "lease_s": 60}
    claim |= {"default_agent": DEFAULT_AGENT, "longest_agent": MAX_AGENT_ID}
    for action, expected in ((retry, "refused"), (cancel, "cancelled")):
        async with world.pool.connection() as conn, conn.transaction():
            claimed = await conn.execute(CLAIM, claim)
            run = ClaimedRun(*(await claimed.fetchall())[0])
            second = await meets(world, action, run_id)
        assert [(result.before, result.outcome) for result in await second] == [("running", expected)]
        world.shift_clock_past(run_id)
    with pytest.raises(LeaseLostError):
        await world.ledger("w1").steps(run).store(STEP)
    assert await world.ledger("w1").renew([run_id]) == set()


async def test_a_cancel_that_meets_a_plan_being_written_leaves_it(world: World):
    run_id = await brought_to(world, "planned")
    async with await connect(world.settings, "projector_sink") as conn, conn.transaction():
        await write_back(conn, run_id, "u1", zone=ZoneInfo("UTC"), pace=Pace())
        second = await meets(world, cancel, run_id)
    assert [result.outcome for result in await second] == ["refused"]
    assert (world.run()["state"], len(world.ours())) == ("written", 1)


async def test_filters_take_the_runs_they_say_newest_first_page_by_page(world: World):
    due = await world.mission(mission="m0")
    for number in range(1, 4):
        await world.mission("u2", f"m{number}")
    run = await world.claimed()
    await world.edit(user=run.user_id, mission=run.mission_id, nextRunAt=iso_ms(due + HOUR / 2))
    assert await outcome(world, cancel, run.run_id) == "cancelled"
    await world.open()
    newest = [row["run_id"] for row in sorted(world.runs(), key=lambda r: (r["created_at"], r["run_id"]), reverse=True)]

    async def taken(size: int = 2, **filters: Any) -> list[UUID]:
        async with await connect(world.settings, "projector_planner") as conn:
            return [run.run_id async for page in pages(conn, Selection(**filters), size=size) for run in page]

    assert len(newest) == 5
    assert await taken() == newest
    assert set(await taken(user="u2")) == {run["run_id"] for run in world.runs(user_id="u2")}
    assert await taken(states=("cancelled",)) == await taken(decision="cancelled-by-hand") == [run.run_id]
    assert await taken(ids=(run.run_id,), states=("due",)) == []
    both = await taken(mission=run.mission_id)
    assert len(both) == 2
    assert await taken(mission=run.mission_id, newest=True) == both[:1]
    assert await taken(since=world.run(run_id=both[0])["created_at"]) == [both[0]]
