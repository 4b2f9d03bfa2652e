"""What a held run waits for: another mission or agent than its gates saw, however late the views show it."""

from __future__ import annotations

import pytest

from projector.planner.due import wake_changed
from projector.planner.ledger import ClaimedRun
from tests.planner.world import World


async def hold(world: World, run: ClaimedRun, decision: str = "skipped-paused") -> None:
    await world.ledger().settle(run, "held", decision=decision, reason="r", wait_s=900, counts=False)


async def woken(world: World) -> int:
    async with world.pool.connection() as conn:
        return await wake_changed(conn)


async def claimed_again(world: World) -> ClaimedRun:
    (run,) = await world.ledger().claim(1, per_user=1)
    return run


async def test_a_change_that_is_older_than_the_look_and_shown_after_it_wakes(world: World):
    await world.agent(state="paused")
    await world.mission()
    run = await world.claimed()
    world.change("u1", "agents", "a1", "update", {"state": "active"})
    await hold(world, run)
    assert await woken(world) == 0
    await world.catch_up()
    assert await woken(world) == 1


async def test_an_edit_of_the_mission_that_is_older_than_the_look_wakes(world: World):
    await world.agent()
    await world.mission(title=7.5, objective=["no text"])
    run = await world.claimed()
    await world.edit(objective="Gieße sie", seen=False)
    await hold(world, run, "skipped-malformed")
    assert await woken(world) == 0
    await world.catch_up()
    assert await woken(world) == 1


async def test_an_agent_that_is_pushed_with_its_mission_and_shown_after_it_wakes(world: World):
    await world.mission()
    await world.agent(seen=False)
    await hold(world, await world.claimed(), "skipped-no-agent")
    assert await woken(world) == 0
    await world.catch_up()
    assert await woken(world) == 1


async def test_a_change_between_claim_and_hold_wakes_although_the_gates_may_have_seen_it(world: World):
    await world.agent(state="paused")
    await world.mission()
    run = await world.claimed()
    await world.edit_agent(state="active")
    await hold(world, run)
    assert await woken(world) == 1


@pytest.mark.parametrize("has_agent", [True, False])
async def test_a_run_that_is_held_again_for_what_it_was_woken_by_stays_held(world: World, has_agent):
    await world.mission()
    run = await world.claimed()
    if has_agent:
        await world.agent(state="paused")
    else:
        await world.edit(title="Kakteen")
    await hold(world, run)
    assert [await woken(world), await woken(world)] == [1, 0]
    for _ in range(2):
        await hold(world, await claimed_again(world))
        assert await woken(world) == 0
        world.shift_clock_past(run.run_id)


async def test_a_run_held_by_a_version_that_noted_nothing_is_looked_at_once(world: World):
    await world.mission()
    await hold(world, await world.claimed(), "skipped-no-agent")
    world.admin.execute("update mana_ai.mission_runs set seen_mission = null, seen_changed_at = null")
    assert await woken(world) == 1
    await hold(world, await claimed_again(world), "skipped-no-agent")
    assert await woken(world) == 0
