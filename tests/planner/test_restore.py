"""Iterations that a device dropped from the array come back, those that were archived do not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY
from psycopg import sql

from projector.planner.due import wake_changed
from projector.planner.effects import start_effects, stop_effects
from projector.planner.history import KEPT, UNDECIDED_BYTES
from projector.planner.iteration import iso_ms
from projector.planner.ledger import CHANGED_AT
from projector.planner.pace import Pace
from projector.planner.restore import MOST_RESTORES, merged, missions_with_dropped
from projector.planner.writer import Writer
from projector.sql import query
from projector.sql.connection import pool
from tests.planner.test_first_time import NINE
from tests.planner.test_writeback import PLAN
from tests.planner.world import World

FEEDBACK = "mehr Wasser"


@pytest.fixture
async def writer(world: World) -> AsyncIterator[Writer]:
    async with pool(world.settings, "projector_sink", size=2) as connections:
        yield Writer(world.settings, connections, world.pool, replace(Pace(), restore_rest_s=0.0))


async def written(world: World, writer: Writer) -> str:
    """One more iteration in the log; returns its id."""
    run = await world.claimed()
    await world.ledger().store_plan(run, PLAN, sweep_after_s=0)
    await writer.write(run.run_id, run.user_id)
    await world.catch_up()
    return str(run.iteration_id)


def restored() -> float:
    return REGISTRY.get_sample_value("mana_ai_iterations_restored_total") or 0.0


def shown(world: World) -> list[Any]:
    record = world.admin.execute("select record from mana_ai.mission_snapshots").fetchone()
    assert record is not None
    return record[0]["iterations"]


async def test_an_iteration_that_a_device_dropped_comes_back_with_its_feedback(
    world: World, writer: Writer, capsys: pytest.CaptureFixture[str]
):
    await world.mission(iterations=[{"id": "own", "startedAt": "2000-01-01T00:00:00.000Z"}])
    lost = await written(world, writer)
    (own, ours) = shown(world)
    await world.edit(iterations=[own, ours | {"userFeedback": FEEDBACK, "overallStatus": "approved"}])
    later = {"id": "browser", "startedAt": "2999-01-01T00:00:00.000Z"}
    await world.edit(iterations=[own, later])
    before = restored()
    assert await writer.restore_dropped() == 1
    assert restored() == before + 1
    assert "iterations restored that a device had dropped" in "".join(capsys.readouterr())
    row = world.ours()[-1]
    assert [i["id"] for i in row["data"]["iterations"]] == ["own", lost, "browser"]
    assert row["data"].keys() == row["field_meta"].keys() == {"iterations"}
    assert (row["actor"]["kind"], row["actor"]["principalId"], row["origin"]) == (
        "system",
        "system:mission-runner",
        "system",
    )
    await world.catch_up()
    back = shown(world)[1]
    assert (back["userFeedback"], back["overallStatus"], back["plan"]) == (FEEDBACK, "approved", ours["plan"])
    assert await writer.restore_dropped() == 0
    assert world.run()["restores"] == 1


async def test_what_we_write_stays_in_the_space_of_its_record(world: World, writer: Writer):
    await world.mission(mission="m0", cadence=NINE, nextRunAt=None, seen=False)
    await world.mission(seen=False)
    world.admin.execute("update sync_changes set space_id = 'org_anna'")
    await world.catch_up()
    await written(world, writer)
    await world.edit(iterations=[])
    assert (await writer.restore_dropped(), await writer.give_first_times()) == (1, 1)
    assert [row["space_id"] for row in world.ours()] == ["org_anna"] * 3


async def test_what_another_device_wrote_is_not_ours_to_bring_back(world: World, writer: Writer):
    await world.mission(iterations=[{"id": "own", "source": "server"}])
    await written(world, writer)
    await world.edit(iterations=shown(world)[1:])
    assert await writer.restore_dropped() == 0


async def test_an_archived_iteration_stays_away(world: World, writer: Writer):
    await world.mission()
    await written(world, writer)
    await world.edit(iterations=[shown(world)[0] | {"archivedAt": "2026-01-01T00:00:00.000Z"}])
    await world.edit(iterations=[])
    assert await writer.restore_dropped() == 0


async def test_the_edit_that_the_view_has_not_seen_decides(world: World, writer: Writer):
    await world.mission()
    await written(world, writer)
    ours = shown(world)
    await world.edit(iterations=[])
    await world.edit(iterations=ours, seen=False)
    assert await writer.restore_dropped() == 0
    assert len(world.ours()) == 1


@pytest.mark.parametrize("change", [{"deletedAt": "2026-01-01T00:00:00.000Z"}, {"iterations": "none"}])
async def test_nothing_is_forced_into_a_mission_that_takes_none(world: World, writer: Writer, change):
    await world.mission()
    await written(world, writer)
    await world.edit(iterations=[])
    await world.edit(**change, seen=False)
    assert await writer.restore_dropped() == 0
    assert len(world.ours()) == 1


async def test_a_device_that_drops_it_again_and_again_prevails(world: World, writer: Writer):
    await world.mission()
    await written(world, writer)
    for times in range(MOST_RESTORES):
        await world.edit(iterations=[])
        assert await writer.restore_dropped() == 1
        await world.catch_up()
        assert world.run()["restores"] == times + 1
    await world.edit(iterations=[])
    assert await writer.restore_dropped() == 0


async def held(world: World) -> None:
    """A run of the mission, which a gate keeps for long."""
    await world.edit(nextRunAt=iso_ms(datetime.now(UTC)))
    run = await world.claimed()
    await world.ledger().settle(run, "held", decision="skipped-paused", reason="r", wait_s=900, counts=False)


async def test_what_we_put_back_ourselves_is_no_change_that_wakes_a_held_run(world: World, writer: Writer):
    await world.mission()
    await written(world, writer)
    await world.edit(nextRunAt=iso_ms(datetime.now(UTC)))
    second = await written(world, writer)
    await world.edit(iterations=[])
    await held(world)
    later = "update mana_ai.mission_runs set written_at = written_at + %s where iteration_id = %s"
    world.admin.execute(later, [timedelta(hours=1), second])
    for rest in (timedelta(), -timedelta(hours=1)):
        # The second time, what is newest in the mission is a restore already.
        world.admin.execute(later, [rest, second])
        assert await writer.restore_dropped() == 1
        await world.catch_up()
        async with world.pool.connection() as conn:
            assert await wake_changed(conn) == 0
    await world.edit(title="Kakteen")
    async with world.pool.connection() as conn:
        assert await wake_changed(conn) == 1


async def test_an_edit_that_only_a_restore_came_after_still_wakes_a_held_run(world: World, writer: Writer):
    await world.mission()
    await written(world, writer)
    await held(world)
    await world.edit(iterations=[])
    assert await writer.restore_dropped() == 1
    await world.catch_up()
    async with world.pool.connection() as conn:
        assert await wake_changed(conn) == 1


async def test_whether_a_change_is_ours_is_asked_of_restored_runs_alone(world: World):
    world.admin.execute("set enable_seqscan = off")
    asked = sql.SQL("explain select {} from mana_ai.mission_snapshots m").format(sql.SQL("({})").format(CHANGED_AT))
    assert "mission_runs_restored" in str(world.admin.execute(asked).fetchall())


async def test_several_sinks_bring_it_back_once(world: World, writer: Writer):
    await world.mission()
    await written(world, writer)
    await world.edit(iterations=[])
    patient = Writer(world.settings, writer._pool, world.pool, replace(Pace(), restore_rest_s=0.2))
    await asyncio.sleep(0.3)  # what was written has rested long enough, what is restored has not
    assert sorted(await asyncio.gather(*(patient.restore_dropped() for _ in range(3)))) == [0, 0, 1]
    assert len(world.ours()) == 2


async def test_a_mission_that_cannot_be_written_is_in_no_others_way(world: World, writer: Writer):
    for mission in ("m1", "m2", "m3"):
        await world.mission(mission=mission)
        await written(world, writer)
    for mission in ("m1", "m2", "m3"):
        await world.edit(mission=mission, iterations=[])
    world.admin.execute(
        "alter table sync_changes add check (record_id <> 'm1' or client_id <> 'mana-ai-runner') not valid"
    )
    assert await writer.restore_dropped() == 2
    assert [row["record_id"] for row in world.ours()][3:] == ["m2", "m3"]


async def test_nothing_is_restored_while_effects_are_stopped(world: World, writer: Writer):
    await world.mission()
    await written(world, writer)
    await world.edit(iterations=[])
    async with world.pool.connection() as conn:
        await stop_effects(conn, None)
        assert await writer.restore_dropped() == 0
        await start_effects(conn)
    assert await writer.restore_dropped() == 1


async def test_it_rests_first(world: World, writer: Writer):
    await world.mission()
    await written(world, writer)
    await world.edit(iterations=[])
    async with world.pool.connection() as conn:
        assert await missions_with_dropped(conn, rest_s=60.0) == []
        assert await missions_with_dropped(conn, rest_s=0.0) == [("u1", "m1")]


async def test_only_missions_that_lack_something_are_looked_at(world: World, writer: Writer):
    world.admin.execute("set enable_seqscan = off")
    plan = world.admin.execute(
        "explain " + query("planner/missions_with_dropped"),
        {"after_user": "", "after_mission": "", "limit": 1, "most": 1, "rest_s": 0},
    ).fetchall()
    assert "mission_iterations_1_dropped" in str(plan)


async def test_the_record_of_a_mission_stops_growing_and_the_view_keeps_all(world: World, writer: Writer):
    await world.mission(cadence={"kind": "manual"})
    sizes = []
    ids = []
    for _ in range(KEPT + 8):
        ids.append(await written(world, writer))
        decided = [i | {"overallStatus": "approved"} for i in shown(world)]
        sizes.append(len(world.ours()[-1]["data"]["iterations"]))
        await world.edit(iterations=decided, nextRunAt="2020-01-01T00:00:00.000Z", cadence={"kind": "manual"})
        await world.edit(nextRunAt=f"2020-01-02T00:00:00.{len(ids):03}Z")
    assert max(sizes) == KEPT + 1
    assert await writer.restore_dropped() == 0
    listed = world.admin.execute("select iteration_id, archived_at from mana_ai.mission_iteration_list").fetchall()
    assert {iteration for iteration, _ in listed} == set(ids)
    assert {iteration for iteration, archived in listed if archived} == set(ids[: len(ids) - KEPT])


async def test_large_ones_come_back_a_few_at_a_time_and_leave_again_marked(world: World, writer: Writer):
    await world.mission()
    text = "ö" * (UNDECIDED_BYTES // 4)
    ids = []
    for _ in range(4):
        ids.append(await written(world, writer))
        await world.edit(nextRunAt=iso_ms(datetime.now(UTC)))
    await world.edit(iterations=[i | {"userFeedback": text} for i in shown(world)])
    await world.edit(iterations=[])
    sizes = []
    for _ in range(6):
        if await writer.restore_dropped():
            sizes.append(len(json.dumps(world.ours()[-1]["data"], ensure_ascii=False).encode()))
        await world.catch_up()
    assert len(sizes) == 4
    assert max(sizes) < 1_000_000
    asked = "select iteration_id, archived_at, feedback from mana_ai.mission_iteration_list"
    listed = world.admin.execute(asked).fetchall()
    assert {iteration for iteration, _, feedback in listed if feedback == text} == set(ids)
    assert {iteration for iteration, archived, _ in listed if archived} == set(ids[:2])


def test_what_comes_back_stands_where_its_beginning_puts_it():
    at = [{"id": number, "startedAt": f"2026-01-0{number}"} for number in range(1, 6)]
    odd = [7, {"id": "undated"}]
    assert merged([at[0], at[4], *odd], [at[3], at[1]]) == [at[0], at[1], at[3], at[4], *odd]
    assert merged([], [at[1], at[0]]) == [at[0], at[1]]
