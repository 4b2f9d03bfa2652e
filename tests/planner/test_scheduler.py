"""When a scheduler looks: as soon as something is due, however rarely it looks by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from projector import crash
from projector.health.parts import at_work, part
from projector.planner.iteration import iso_ms
from projector.planner.scheduler import DUE, Scheduler
from projector.sql import connection
from tests.planner.test_worker import NoServers
from tests.planner.world import HOUR, World


@asynccontextmanager
async def scheduling(world: World) -> AsyncIterator[Scheduler]:
    """One that looks by itself every ten minutes."""
    stop = asyncio.Event()
    scheduler = Scheduler(world.settings.model_copy(update={"due_interval_s": 600.0}), world.pool)
    running = asyncio.create_task(scheduler.run(stop))
    try:
        yield scheduler
    finally:
        stop.set()
        await asyncio.wait_for(running, 10)


async def opened(world: World) -> datetime:
    """When the one run was."""
    async with asyncio.timeout(20):
        while not world.runs():
            await asyncio.sleep(0.02)
    created = world.run()["created_at"]
    assert isinstance(created, datetime)
    return created


async def test_a_mission_that_is_edited_to_now_runs_now(world: World):
    await world.mission(nextRunAt=iso_ms(datetime.now(UTC) + 5 * HOUR))
    async with scheduling(world) as scheduler:
        await scheduler.open_due_runs()
        await asyncio.sleep(0.5)  # nothing is to come of the time that it had
        assert world.runs() == []
        await world.edit(nextRunAt=iso_ms(datetime.now(UTC)))
        await opened(world)


async def test_a_mission_runs_when_its_time_comes_and_not_before(world: World):
    due = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=3)
    async with scheduling(world):
        await world.mission(nextRunAt=iso_ms(due))
        assert world.runs() == []
        assert timedelta(0) <= await opened(world) - due < timedelta(seconds=5)


async def test_a_process_that_stood_still_in_a_transaction_lost_its_connection_and_looks_again(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    """The server ends a session that is idle in a transaction for too long."""
    monkeypatch.setitem(connection.IDLE_IN_TRANSACTION_S, "projector_planner", 1)
    await world.mission()
    stands_still = iter([1.5])
    monkeypatch.setattr(crash, "point", lambda name: time.sleep(next(stands_still, 0)))
    async with connection.pool(world.settings, "projector_planner", size=1) as connections:
        scheduler = Scheduler(world.settings, connections)
        assert (await scheduler.tick())["errors"] == ["database away: IdleInTransactionSessionTimeout"]
        assert world.runs() == []
        assert await scheduler.open_due_runs() == 1


async def test_a_pass_that_fails_does_not_move_the_scheduler(world: World):
    await world.mission()
    world.admin.execute(
        "create function refuse() returns trigger language plpgsql as"
        " $$begin raise 'no space left' using errcode = 'disk_full'; end$$;"
        "create trigger refuse before insert on mana_ai.mission_runs for each row execute function refuse()"
    )
    scheduler = Scheduler(world.settings, world.pool)
    with at_work(DUE):
        before = await part(DUE).seen(NoServers())
        assert await scheduler.open_due_runs() == 0
        assert await part(DUE).seen(NoServers()) == before
        world.admin.execute("drop trigger refuse on mana_ai.mission_runs")
        assert await scheduler.open_due_runs() == 1
        assert await part(DUE).seen(NoServers()) != before
