"""A run that waits for a place of its agent misses no end of those that have one, whoever acts at the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from psycopg import AsyncConnection

from projector.planner.budget import Budget
from projector.planner.ledger import ClaimedRun
from projector.planner.runs import Selection, cancel
from tests.planner.test_budget import LARGEST, admit, an_agent, claimed
from tests.planner.test_worker import FAILED
from tests.planner.world import World

PLAN = {"version": 1, "summary": "", "steps": [], "agent": {"id": "a1", "name": "Mana"}}
LOCK = "select from mana_ai.mission_runs where run_id = %s for update"
WAITING = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
ONE = an_agent(concurrent=1)


async def by_hand(world: World, run: ClaimedRun) -> None:
    async with world.pool.connection() as conn:
        assert [r.outcome async for r in cancel(conn, Selection((run.run_id,)), by="test")] == ["cancelled"]


ENDS: dict[str, Callable[[World, ClaimedRun], Coroutine[Any, Any, None]]] = {
    "planned": lambda world, run: world.ledger().store_plan(run, PLAN, sweep_after_s=5),
    "failed": lambda world, run: world.ledger().store_plan(run, FAILED, sweep_after_s=5),
    "retried": lambda world, run: settle(world, run, "due", "retry"),
    "held": lambda world, run: settle(world, run, "held", "stopped-budget"),
    "cancelled": lambda world, run: settle(world, run, "cancelled", "mission-gone"),
    "cancelled by hand": by_hand,
}
"""How a run gives up its place."""


async def settle(world: World, run: ClaimedRun, state: Any, decision: str) -> None:
    await world.ledger().settle(run, state, decision=decision, reason="r", wait_s=900, counts=True)


@asynccontextmanager
async def held_up(world: World, run_id: UUID) -> AsyncIterator[AsyncConnection[Any]]:
    """Who comes to the run waits there, in the middle of its transaction, until the end of the block."""
    async with await AsyncConnection.connect(world.database.admin_url) as conn:
        await conn.execute(LOCK, [run_id])
        yield conn


async def stuck(world: World, count: int, *tasks: asyncio.Task[Any]) -> None:
    """Waits until so many transactions wait for a lock; or until one of the tasks is done, which nothing held up."""
    async with asyncio.timeout(10):
        while not any(task.done() for task in tasks) and world.admin.execute(WAITING).fetchone() != (count,):
            await asyncio.sleep(0.01)


async def at_once(world: World) -> set[UUID]:
    """The runs that a worker may take up now."""
    return {run.run_id for run in await world.ledger("w9").claim(9, per_user=9)}


@pytest.mark.parametrize("end", ENDS)
async def test_a_run_that_looks_while_another_ends_finds_its_place(world: World, end):
    first, second = await claimed(world, 2)
    assert (await admit(world, first, ONE)).action == "admit"
    async with held_up(world, first.run_id):
        ending = asyncio.create_task(ENDS[end](world, first))
        await stuck(world, 1, ending)
        looking = asyncio.create_task(admit(world, second, ONE))
        await stuck(world, 2, looking)
    await ending
    assert (await looking).action == "admit"


@pytest.mark.parametrize("end", ENDS)
async def test_a_run_that_ends_while_another_is_told_to_wait_wakes_it(world: World, end):
    first, second = await claimed(world, 2)
    assert (await admit(world, first, ONE)).action == "admit"
    async with held_up(world, second.run_id):
        looking = asyncio.create_task(admit(world, second, ONE))
        await stuck(world, 1, looking)
        ending = asyncio.create_task(ENDS[end](world, first))
        await stuck(world, 2, ending)
    await ending
    assert (await looking).decision == "skipped-concurrency"
    assert await at_once(world) == {second.run_id}


async def test_runs_that_end_at_the_same_moment_wake_as_many(world: World):
    agent = an_agent(concurrent=2)
    first, second, *waiting = await claimed(world, 5)
    for run in (first, second, *waiting):
        await admit(world, run, agent)
    async with held_up(world, first.run_id):
        ending = asyncio.create_task(ENDS["planned"](world, first))
        await stuck(world, 1, ending)
        also = asyncio.create_task(ENDS["planned"](world, second))
        await stuck(world, 2, also)
    await asyncio.gather(ending, also)
    woken = await at_once(world)
    assert len(woken) == 2
    assert woken < {run.run_id for run in waiting}


@pytest.mark.parametrize("gone", ["handed back", "vanished"])
async def test_a_run_without_its_worker_comes_back_for_its_place_and_wakes_the_next_when_it_ends(world: World, gone):
    first, second = await claimed(world, 2)
    for run in (first, second):
        await admit(world, run, ONE)
    if gone == "handed back":
        await world.ledger().hand_back()
    else:
        world.shift_clock_past(first.run_id)
    other = world.ledger("w2")
    (again,) = await other.claim(9, per_user=9)
    assert again.run_id == first.run_id
    assert (await admit(world, again, ONE, owner="w2")).action == "admit"
    await other.store_plan(again, PLAN, sweep_after_s=5)
    assert await at_once(world) == {second.run_id}


async def test_places_given_and_refused_together_are_locked_in_order(world: World):
    low, high = sorted(await claimed(world, 2), key=lambda run: run.run_id)
    budget = Budget(world.pool, "w1", run=LARGEST, day=0, hold_s=900)
    async with held_up(world, low.run_id) as renewing:
        looking = asyncio.gather(budget.admit(high, ONE, {}), budget.admit(low, ONE, {}))
        await stuck(world, 1)
        await renewing.execute(LOCK + " nowait", [high.run_id])  # as whoever prolongs both leases does
    assert [verdict.decision for verdict in await looking] == ["admitted", "skipped-concurrency"]


async def test_a_run_waits_for_the_agent_that_its_mission_has_by_now(world: World):
    first, second = await claimed(world, 2)
    other = an_agent(agent="a2", concurrent=1)
    for run in (first, second):
        await admit(world, run, other)
    await world.ledger().store_plan(first, PLAN, sweep_after_s=5)
    assert await at_once(world) == {second.run_id}
