from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from projector.log.clock import from_datetime
from projector.log.ids import iteration_id, run_id
from projector.planner.due import open_due_runs, reannounce, wake_changed
from projector.planner.iteration import iso_ms
from projector.sql import query
from projector.sql.connection import connect
from tests.planner.world import HOUR, World, prefixes


async def test_a_due_mission_gets_one_run_with_its_name_and_one_announcement(world: World):
    world.watch_messages()
    due = await world.mission()
    assert await world.open() == 1
    run = world.run()
    assert run["run_id"] == run_id("u1", "m1", from_datetime(due))
    assert run["iteration_id"] == iteration_id(run["run_id"])
    assert (run["state"], run["agent_id"], run["due_at"], run["attempts"]) == ("due", "a1", due, 0)
    assert world.messages() == [("mission.due", {"run_id": str(run["run_id"]), "user_id": "u1"})]
    assert await world.open() == 0
    assert world.messages() == []


@pytest.mark.parametrize(
    "fields",
    [
        {"state": "paused"},
        {"state": "done"},
        {"deletedAt": "2026-01-01T00:00:00.000Z"},
        {"nextRunAt": None},
        {"nextRunAt": "soon"},
        {"nextRunAt": iso_ms(datetime.now(UTC) + HOUR)},
    ],
)
async def test_a_mission_that_is_not_due_gets_no_run(world: World, fields):
    await world.mission(**fields)
    assert await world.open() == 0


async def test_a_mission_that_was_deleted_outright_is_not_due(world: World):
    await world.mission()
    world.change("u1", "aiMissions", "m1", "delete", {})
    await world.catch_up()
    assert await world.open() == 0


async def test_a_mission_known_by_updates_alone_is_never_due(world: World):
    await world.edit(state="active", nextRunAt=iso_ms(datetime.now(UTC) - HOUR))
    assert await world.open() == 0


async def test_a_mission_without_an_agent_belongs_to_the_default_agent(world: World):
    await world.mission(agentId=None)
    await world.open()
    assert world.run()["agent_id"] == "legacy:ai-default"


async def test_schedulers_at_once_open_one_run_for_each_mission(world: World):
    for number in range(30):
        world.change(
            f"u{number % 7}",
            "aiMissions",
            f"m{number}",
            "insert",
            {"state": "active", "nextRunAt": iso_ms(datetime.now(UTC) - HOUR), "cadence": {"kind": "manual"}},
        )
    await world.catch_up()
    world.watch_messages()
    connections = [await connect(world.settings, "projector_planner") for _ in range(6)]
    opened = await asyncio.gather(*(open_due_runs(conn) for conn in connections))
    for conn in connections:
        await conn.close()
    assert sum(opened) == 30
    assert len(world.runs(state="due")) == 30
    assert len(world.messages()) == 30


async def test_looking_for_what_is_due_goes_through_an_index_that_holds_nothing_else(world: World):
    world.admin.execute("set enable_seqscan = off")
    parameters = {"limit": 1, "default_agent": "a", "longest_agent": 9}
    plan = world.admin.execute("explain " + query("planner/find_due"), parameters).fetchall()
    assert "Index Scan using mission_snapshots_due on mission_snapshots_1" in str(plan)


async def test_a_batch_is_bounded_and_the_oldest_come_first(world: World):
    now = datetime.now(UTC)
    for number in range(5):
        await world.mission(mission=f"m{number}", nextRunAt=iso_ms(now - (number + 1) * HOUR))
    async with world.pool.connection() as conn:
        assert await open_due_runs(conn, limit=2) == 2
    assert {run["mission_id"] for run in world.runs()} == {"m3", "m4"}


async def test_a_mission_with_an_unfinished_run_is_not_due_again_at_another_time(world: World):
    await world.mission()
    await world.open()
    await world.edit(nextRunAt=iso_ms(datetime.now(UTC) - timedelta(minutes=1)))
    assert await world.open() == 0
    assert len(world.runs()) == 1


async def test_the_database_itself_refuses_a_second_unfinished_run(world: World):
    await world.mission()
    await world.open()
    with pytest.raises(psycopg.errors.UniqueViolation):
        world.admin.execute(
            "insert into mana_ai.mission_runs (run_id, iteration_id, user_id, mission_id, agent_id, due_at)"
            " values (gen_random_uuid(), gen_random_uuid(), 'u1', 'm1', 'a1', now())"
        )


async def test_a_cancelled_run_rests_and_is_then_opened_again_under_the_same_name(world: World):
    await world.agent()
    await world.mission()
    run = await world.claimed()
    await world.ledger().settle(run, "cancelled", decision="mission-gone", reason="no", wait_s=3600, counts=True)
    assert await world.open() == 0
    world.shift_clock_past(run.run_id)
    world.watch_messages()
    assert await world.open() == 1
    again = world.run()
    assert (again["run_id"], again["state"], again["attempts"], again["reason"]) == (run.run_id, "due", 0, None)
    assert prefixes(world.messages()) == ["mission.due"]


async def test_a_run_that_is_never_to_be_looked_at_again_is_not(world: World):
    await world.mission()
    run = await world.claimed()
    await world.ledger().settle(run, "cancelled", decision="cancelled", reason="by hand", wait_s=None, counts=True)
    assert await world.open() == 0


async def test_what_nobody_came_for_is_announced_again(world: World):
    await world.mission()
    run = await world.claimed()
    world.watch_messages()
    async with world.pool.connection() as conn:
        assert await reannounce(conn, late_s=0) == 0  # leased
        world.shift_clock_past(run.run_id)
        assert await reannounce(conn, late_s=0) == 1  # its worker vanished
        assert await reannounce(conn, late_s=3600) == 1
    assert world.messages() == [("mission.due", {"run_id": str(run.run_id), "user_id": "u1"})] * 2


async def test_a_held_run_is_looked_at_again_when_its_agent_changes(world: World):
    await world.agent(state="paused")
    await world.mission()
    run = await world.claimed()
    await world.ledger().settle(run, "held", decision="skipped-paused", reason="paused", wait_s=900, counts=False)
    async with world.pool.connection() as conn:
        assert await wake_changed(conn) == 0
        await world.edit_agent(state="active")
        assert await wake_changed(conn) == 1
    assert await world.ledger().claim(1, per_user=1)
