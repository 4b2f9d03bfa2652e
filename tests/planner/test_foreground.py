"""A browser whose page is open runs what is due itself: the server notices, and does not run it once more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from projector.planner.due import wake_changed
from projector.planner.foreground import LONGEST_RUN, ran_in_foreground, runs_in_foreground
from projector.planner.iteration import iso_ms
from projector.planner.mission import mission_of
from tests.llm.double import Double, text
from tests.planner.test_worker import settled, working
from tests.planner.test_writeback import planned, write
from tests.planner.world import HOUR, World

NOW = datetime(2026, 4, 14, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def running(started: datetime, **more: Any) -> dict[str, Any]:
    return {"id": "browser", "startedAt": iso_ms(started), "plan": [], "overallStatus": "running"} | more


def finished(at: datetime, **more: Any) -> dict[str, Any]:
    return running(at, **{"overallStatus": "approved", "finishedAt": iso_ms(at)} | more)


@pytest.mark.parametrize(
    ("iteration", "runs"),
    [
        (running(NOW), True),
        (running(NOW, source="browser"), True),
        (running(NOW - LONGEST_RUN + SECOND), True),
        (running(NOW + LONGEST_RUN - SECOND), True),
        (running(NOW - LONGEST_RUN), False),
        (running(NOW, source="server"), False),
        (running(NOW, startedAt=7), False),
        (running(NOW, overallStatus=["running"]), False),
        (finished(NOW), False),
    ],
)
def test_a_device_runs_a_mission_until_it_ends_that_or_must_have_been_closed(iteration, runs):
    assert runs_in_foreground(mission_of({"iterations": ["odd", iteration]}), NOW) is runs


@pytest.mark.parametrize(
    ("iteration", "following", "ran"),
    [
        (finished(NOW), NOW + HOUR, True),
        (finished(NOW, overallStatus="failed"), None, True),
        (finished(NOW), NOW, False),
        (finished(NOW - SECOND), NOW + HOUR, False),
        (finished(NOW, source="server"), NOW + HOUR, False),
        (running(NOW), NOW + HOUR, False),
    ],
)
def test_a_device_ran_what_was_due_when_it_ended_a_run_since_and_moved_the_mission_on(iteration, following, ran):
    assert ran_in_foreground(mission_of({"iterations": [iteration]}), NOW, following) is ran


async def test_a_mission_that_a_browser_runs_waits_for_it_and_is_not_run_once_more(world: World):
    await world.agent()
    await world.mission()
    await world.edit(iterations=[running(datetime.now(UTC))])
    await world.open()
    async with Double(text("nie")) as double, working(world, double):
        await settled(world, "held")
        run = world.run()
        assert (run["decision"], run["attempts"]) == ("skipped-foreground", 0)
        assert run["next_attempt_at"] - run["updated_at"] <= timedelta(seconds=30)
        now = datetime.now(UTC)
        await world.edit(iterations=[finished(now)], nextRunAt=iso_ms(now + HOUR))
        async with world.pool.connection() as conn:
            assert await wake_changed(conn) == 1
        await settled(world, "cancelled")
    assert world.run()["decision"] == "mission-rescheduled"
    assert (double.requests, await world.open()) == ([], 0)


async def test_a_mission_whose_browser_was_closed_in_the_middle_runs_here(world: World):
    await world.agent()
    await world.mission()
    await world.edit(iterations=[running(datetime.now(UTC) - LONGEST_RUN)])
    await world.open()
    async with Double(text("fertig")) as double, working(world, double):
        await settled(world, "planned")


async def test_a_plan_for_what_a_browser_ran_meanwhile_stays_in_the_ledger(world: World):
    await world.mission()
    run = await planned(world)
    now = datetime.now(UTC)
    await world.edit(iterations=[finished(now)], nextRunAt=iso_ms(now + HOUR), seen=False)
    assert await write(world, run) == "refused"
    row = world.run()
    assert (row["state"], row["decision"], row["plan"]) == ("cancelled", "mission-rescheduled", run["plan"])
    assert "ran the mission itself" in row["reason"]
    assert world.ours() == []
    world.shift_clock_past(run["run_id"])
    await world.catch_up()
    assert await world.open() == 0


async def test_a_plan_waits_for_a_browser_that_runs_the_mission_when_it_is_written(world: World):
    await world.mission()
    run = await planned(world)
    now = datetime.now(UTC)
    await world.edit(iterations=[running(now)], seen=False)
    assert await write(world, run) == "postponed"
    row = world.run()
    assert (row["state"], row["refused_writes"], world.ours()) == ("planned", 0, [])
    assert timedelta(0) < row["next_attempt_at"] - datetime.now(UTC) <= timedelta(seconds=30)
    await world.edit(iterations=[finished(datetime.now(UTC))], nextRunAt=iso_ms(now + HOUR), seen=False)
    assert await write(world, run) == "refused"
    assert world.run()["decision"] == "mission-rescheduled"


async def test_a_plan_does_not_wait_for_a_browser_that_must_have_been_closed(world: World):
    await world.mission()
    run = await planned(world)
    await world.edit(iterations=[running(datetime.now(UTC) - LONGEST_RUN)], seen=False)
    assert await write(world, run) == "written"
