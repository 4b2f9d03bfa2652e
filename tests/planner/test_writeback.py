from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4
from zoneinfo import ZoneInfo

import psycopg
import pytest
from psycopg import sql
from psycopg_pool import AsyncConnectionPool

from projector.config import Settings
from projector.errors import RowSecurityError
from projector.fold import parse_instant
from projector.health.parts import part
from projector.log.ids import iteration_change_id
from projector.planner import writeback
from projector.planner.iteration import iso_ms
from projector.planner.pace import Pace
from projector.planner.writeback import unwritten
from projector.planner.writer import WRITER, Writer
from projector.sql import query
from projector.sql.connection import connect, pool
from projector.views.reload import LOG_VALUE
from tests.fixtures.settings import Database
from tests.planner.world import HOUR, World
from tests.planner.writing import write_back

BERLIN = ZoneInfo("Europe/Berlin")
PLAN = {
    "version": 1,
    "summary": "fertig",
    "steps": [{"summary": "create_task", "toolName": "create_task", "params": {"title": "X"}, "rationale": ""}],
    "stopReason": "assistant-stop",
    "rounds": 2,
    "rejectedCalls": 0,
    "agent": {"id": "a1", "name": "Mana"},
}


async def planned(world: World, user: str = "u1", mission: str = "m1") -> dict:
    """A run with a stored plan."""
    run = await world.claimed()
    await world.ledger().store_plan(run, PLAN, sweep_after_s=0)
    return world.run(user_id=user, mission_id=mission)


async def write(world: World, run: dict, *, user: str | None = None) -> str:
    conn = await connect(world.settings, "projector_sink")
    async with conn:
        return await write_back(conn, run["run_id"], user or run["user_id"], zone=BERLIN, pace=Pace())


async def test_a_plan_becomes_one_change_of_its_mission(world: World):
    due = await world.mission(iterations=[{"id": "old", "plan": []}])
    run = await planned(world)
    assert await write(world, run) == "written"
    (row,) = world.ours()
    stamp = row["field_meta"]["iterations"]
    iteration_id = str(run["iteration_id"])
    assert row["id"] == iteration_change_id(run["iteration_id"])
    assert {name: row[name] for name in ("app_id", "table_name", "record_id", "user_id", "op", "origin")} == {
        "app_id": "ai",
        "table_name": "aiMissions",
        "record_id": "m1",
        "user_id": "u1",
        "op": "update",
        "origin": "agent",
    }
    assert (row["client_id"], row["schema_version"], row["space_id"]) == ("mana-ai-runner", 1, None)
    assert row["field_meta"] == {"iterations": stamp, "nextRunAt": stamp}
    assert row["actor"] == {
        "kind": "ai",
        "principalId": "a1",
        "displayName": "Mana",
        "missionId": "m1",
        "iterationId": iteration_id,
        "rationale": "",
    }
    assert row["data"]["iterations"] == [
        {"id": "old", "plan": []},
        {
            "id": iteration_id,
            "startedAt": iso_ms(run["started_at"]),
            "finishedAt": iso_ms(run["planned_at"]),
            "plan": [
                {
                    "id": f"{iteration_id}-0",
                    "summary": "create_task",
                    "intent": {"kind": "toolCall", "toolName": "create_task", "params": {"title": "X"}},
                    "status": "planned",
                }
            ],
            "summary": "fertig",
            "overallStatus": "awaiting-review",
            "source": "server",
        },
    ]
    following = datetime.fromisoformat(row["data"]["nextRunAt"])
    assert following > datetime.now(UTC)
    assert (following - due) % HOUR == timedelta(0)
    written = world.run()
    assert (written["state"], written["change_id"], written["decision"]) == ("written", row["id"], "ran")


async def test_the_mission_is_no_longer_due_once_the_views_show_it(world: World):
    await world.mission()
    await write(world, await planned(world))
    assert await world.open() == 0
    await world.catch_up()
    assert await world.open() == 0
    assert len(world.runs()) == 1


async def test_writing_twice_at_once_and_again_gives_one_row(world: World):
    await world.mission()
    run = await planned(world)
    results = await asyncio.gather(*(write(world, run) for _ in range(5)))
    assert sorted(results) == ["nothing-to-do"] * 4 + ["written"]
    assert await write(world, run) == "nothing-to-do"
    assert len(world.ours()) == 1


async def test_a_row_that_is_there_already_is_kept_when_the_ledger_is_older_than_the_log(world: World):
    await world.mission()
    run = await planned(world)
    await write(world, run)
    with world.admin.transaction():
        world.admin.execute("set local session_replication_role = replica")  # as a restore brings it back
        world.admin.execute(
            "update mana_ai.mission_runs set state = 'planned', decision = 'planned', change_id = null,"
            " written_at = null, written_lsn = null, next_attempt_at = now()"
        )
    assert await write(world, run) == "written"
    (row,) = world.ours()
    assert [i["id"] for i in row["data"]["iterations"]] == [str(run["iteration_id"])]


async def test_an_edit_that_the_view_has_not_seen_is_not_lost(world: World):
    await world.mission(iterations=[{"id": "old"}])
    run = await planned(world)
    await world.edit(iterations=[{"id": "old", "userFeedback": "gut"}], seen=False)
    assert await write(world, run) == "written"
    (row,) = world.ours()
    assert row["data"]["iterations"][0] == {"id": "old", "userFeedback": "gut"}


async def test_the_stamp_beats_what_a_clock_ahead_wrote(world: World):
    await world.mission()
    run = await planned(world)
    ahead = datetime.now(UTC).replace(microsecond=5000) + timedelta(hours=3)
    world.change("u1", "aiMissions", "m1", "update", {"iterations": [{"id": "x"}]}, stamp=ahead)
    await write(world, run)
    (row,) = world.ours()
    assert row["field_meta"]["iterations"] == iso_ms(ahead + timedelta(milliseconds=1))
    await world.catch_up()
    shown = world.admin.execute("select record from mana_ai.mission_snapshots").fetchone()[0]
    assert [i["id"] for i in shown["iterations"]] == ["x", str(run["iteration_id"])]


async def test_a_stamp_that_no_later_one_can_beat_is_beaten_by_the_later_row(world: World):
    await world.mission()
    run = await planned(world)
    world.change(
        "u1", "aiMissions", "m1", "update", {"iterations": [{"id": "x"}]}, stamp=datetime.max.replace(tzinfo=UTC)
    )
    assert await write(world, run) == "written"
    (row,) = world.ours()
    assert row["field_meta"]["iterations"] == "9999-12-31T23:59:59.999Z"
    await world.catch_up()
    shown = world.admin.execute("select record from mana_ai.mission_snapshots").fetchone()[0]
    assert [i["id"] for i in shown["iterations"]] == ["x", str(run["iteration_id"])]


async def test_the_stamp_is_the_servers_clock_otherwise(world: World):
    await world.mission()
    await write(world, await planned(world))
    (row,) = world.ours()
    stamp = parse_instant(row["field_meta"]["iterations"])
    assert stamp is not None
    assert abs(stamp / 1e6 - row["created_at"].timestamp()) < 2


async def test_a_device_that_writes_while_the_sink_does_neither_loses_nor_is_lost(world: World):
    await world.mission()
    run = await planned(world)

    async def rename() -> None:
        await asyncio.to_thread(
            world.change, "u1", "aiMissions", "m1", "update", {"title": "Neu", "cadence.everyMinutes": 30}
        )

    await asyncio.gather(write(world, run), rename())
    await world.catch_up()
    record = world.admin.execute("select record from mana_ai.mission_snapshots").fetchone()[0]
    assert record["title"] == "Neu"
    assert record["cadence"]["everyMinutes"] == 30
    assert [i["id"] for i in record["iterations"]] == [str(run["iteration_id"])]


async def test_it_waits_for_other_writers_of_the_mission_and_never_for_the_view(world: World):
    await world.mission()
    run = await planned(world)
    with world.admin.transaction():
        # As an engine that is at work on the row, and waits for what the sink holds.
        world.admin.execute("select from mana_ai.mission_snapshots_1 for update")
        with psycopg.connect(world.database.admin_url) as other:
            other.execute(query("planner/lock_mission"), {"user_id": "u1", "mission_id": "m1"})
            writing = asyncio.create_task(write(world, run))
            waits = (
                "select from pg_locks l join pg_database d on d.oid = l.database"
                " where d.datname = current_database() and l.locktype = 'advisory' and not l.granted"
            )
            async with asyncio.timeout(10):
                while not world.admin.execute(waits).rowcount:
                    assert not writing.done()
                    await asyncio.sleep(0.02)
        assert await asyncio.wait_for(writing, 10) == "written"


@pytest.mark.parametrize(
    ("change", "decision"),
    [
        ({"state": "paused"}, "mission-inactive"),
        ({"deletedAt": "2026-01-01T00:00:00.000Z"}, "mission-gone"),
        ({"agentId": "a2"}, "mission-reassigned"),
    ],
)
async def test_a_plan_is_not_forced_into_a_mission_that_changed(world: World, change, decision):
    await world.mission()
    run = await planned(world)
    await world.edit(**change, seen=False)
    assert await write(world, run) == "refused"
    row = world.run()
    assert (row["state"], row["decision"], row["plan"]) == ("cancelled", decision, PLAN)
    assert row["reason"]
    assert world.ours() == []


async def test_a_mission_given_to_another_agent_is_planned_again_for_that_one(world: World):
    await world.mission()
    run = await planned(world)
    await world.edit(agentId="a2")
    await write(world, run)
    assert await world.open() == 0
    world.shift_clock_past(run["run_id"])
    assert await world.open() == 1
    again = world.run()
    assert (again["state"], again["agent_id"], again["plan"], again["run_id"]) == ("due", "a2", None, run["run_id"])


@pytest.mark.parametrize("cadence", [{"kind": "manual"}, {"kind": "cron", "expression": "never"}, 7, None])
async def test_a_mission_without_a_computable_next_run_gets_none_and_the_ledger_says_why(world: World, cadence):
    await world.mission(cadence=cadence)
    await write(world, await planned(world))
    assert world.ours()[0]["data"]["nextRunAt"] is None
    reason = world.run()["reason"]
    assert reason is None if cadence == {"kind": "manual"} else reason.startswith("it has no next run: ")


async def test_a_time_that_a_device_chose_meanwhile_stays(world: World):
    await world.mission()
    run = await planned(world)
    chosen = "2099-01-01T08:00:00.000Z"
    await world.edit(nextRunAt=chosen, seen=False)
    await write(world, run)
    assert world.ours()[0]["data"]["nextRunAt"] == chosen


async def test_a_mission_that_was_set_to_run_at_once_while_it_was_planned_runs_once_more(world: World):
    due = await world.mission()
    run = await planned(world)
    at_once = due + HOUR / 2
    await world.edit(objective="Gieße nur die Kakteen", nextRunAt=iso_ms(at_once))
    await write(world, run)
    assert world.ours()[-1]["data"]["nextRunAt"] == iso_ms(at_once)
    await world.catch_up()
    again = await world.claimed()
    assert again.due_at == at_once
    await world.ledger().store_plan(again, PLAN, sweep_after_s=0)
    await world.edit(nextRunAt=iso_ms(at_once))  # repeated by a device: the time that this run was for
    await write(world, world.run(run_id=again.run_id))
    assert datetime.fromisoformat(world.ours()[-1]["data"]["nextRunAt"]) > datetime.now(UTC)
    await world.catch_up()
    assert await world.open() == 0
    assert len(world.runs()) == 2


async def test_a_message_that_names_another_user_writes_nothing(world: World):
    await world.mission()
    run = await planned(world)
    assert await write(world, run, user="u2") == "nothing-to-do"
    assert world.run()["state"] == "planned"
    assert world.ours() == []


async def test_the_role_of_the_sink_is_held_to_one_user(world: World):
    await world.mission("u2", "m2")
    run = await planned(world, "u2", "m2")
    conn = await connect(world.settings, "projector_sink")
    async with conn:
        async with conn.transaction():
            await conn.execute("select set_config('app.current_user_id', 'u1', true)")
            for table in ("sync_changes", "mana_ai.mission_snapshots", "mana_ai.mission_runs"):
                rows = await (await conn.execute(f"select user_id from {table}")).fetchall()  # noqa: S608
                assert rows == []
            updated = await conn.execute("update mana_ai.mission_runs set reason = 'x'")
            assert updated.rowcount == 0
        await conn.execute("select set_config('app.current_user_id', 'u1', false)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            await conn.execute(
                "insert into sync_changes (app_id, table_name, record_id, user_id, op, client_id)"
                " values ('ai', 'aiMissions', 'm2', 'u2', 'update', 'x')"
            )
    assert world.run(run_id=run["run_id"])["reason"] is None


async def test_a_role_that_escapes_row_level_security_is_refused(world: World, database: Database):
    await world.mission()
    run = await planned(world)
    async with await psycopg.AsyncConnection.connect(database.admin_url, autocommit=True) as superuser:
        with pytest.raises(RowSecurityError, match="projector_sink"):
            await write_back(superuser, run["run_id"], "u1", zone=BERLIN, pace=Pace())
    assert world.ours() == []


async def test_plans_whose_announcement_was_lost_are_found_and_written(world: World, settings: Settings):
    await world.mission()
    await planned(world)
    async with world.pool.connection() as conn:
        assert len(await unwritten(conn)) == 1
    async with pool(settings, "projector_sink", size=1) as connections:
        writer = Writer(settings, connections, world.pool)
        assert await writer.sweep() == 1
        assert await writer.sweep() == 0
    assert world.run()["state"] == "written"
    assert len(world.ours()) == 1


async def test_the_lookup_of_a_records_rows_is_served_by_an_index(world: World):
    await world.mission()
    world.admin.execute("set enable_seqscan = off")
    plan = world.admin.execute(
        sql.SQL("explain " + query("views/reload")).format(value=LOG_VALUE),
        {
            "user_id": "u1",
            "app_id": "ai",
            "table_name": "aiMissions",
            "record_id": "m1",
            "since": datetime(2020, 1, 1, tzinfo=UTC),
        },
    ).fetchall()
    assert "idx_sync_changes" in str(plan)


async def test_plans_of_several_users_are_written_together_each_as_its_own(world: World):
    for user in ("u1", "u2", "u3"):
        await world.mission(user)
    await world.open()
    ledger = world.ledger()
    for run in await ledger.claim(3, per_user=1):
        await ledger.store_plan(run, PLAN, sweep_after_s=0)
    await world.edit("u2", state="paused", seen=False)
    plans = [(run["run_id"], run["user_id"]) for run in world.runs()]
    strange = (plans[0][0], "u2" if plans[0][1] == "u1" else "u1")
    async with await connect(world.settings, "projector_sink") as conn:
        results = await writeback.write_back(conn, [strange, *plans, plans[2]], zone=BERLIN, pace=Pace())
    assert (results[0], results[4]) == ("nothing-to-do", results[3])
    assert dict(zip([user for _, user in plans], results[1:4], strict=True)) == {
        "u1": "written",
        "u2": "refused",
        "u3": "written",
    }
    assert sorted(row["user_id"] for row in world.ours()) == ["u1", "u3"]
    assert {run["user_id"]: run["decision"] for run in world.runs()} == {
        "u1": "ran",
        "u2": "mission-inactive",
        "u3": "ran",
    }


async def test_a_plan_that_the_database_refuses_keeps_no_other_from_being_written(world: World, settings: Settings):
    for user in ("u1", "u2", "u3"):
        await world.mission(user)
    await world.open()
    ledger = world.ledger()
    for run in await ledger.claim(3, per_user=1):
        await ledger.store_plan(run, PLAN, sweep_after_s=0)
    world.admin.execute(
        "alter table sync_changes add constraint shut"
        " check (client_id <> 'mana-ai-runner' or user_id <> 'u2') not valid"
    )
    async with pool(settings, "projector_sink", size=1) as connections:
        writer = Writer(settings, connections, world.pool)
        for run in world.runs():
            await writer.announced(run["run_id"], run["user_id"])
        async with asyncio.timeout(20):
            while {run["decision"] for run in world.runs()} != {"ran", "write-refused"}:
                await asyncio.sleep(0.02)
    assert sorted(row["user_id"] for row in world.ours()) == ["u1", "u3"]


async def test_a_plan_that_can_be_neither_written_nor_postponed_now_is_written_later(world: World, settings: Settings):
    await world.mission()
    run = await planned(world)
    async with pool(settings, "projector_sink", size=1) as connections:
        writer = Writer(settings, connections, world.pool)
        world.admin.execute("revoke update on mana_ai.mission_runs from projector_sink")
        assert await writer.sweep() == 1
        assert world.run()["refused_writes"] == 0
        world.admin.execute("grant update on mana_ai.mission_runs to projector_sink")
        await writer.write(uuid4(), "u\0")
        assert await writer.sweep() == 1
    assert world.run()["change_id"] == iteration_change_id(run["iteration_id"])


async def test_a_writer_moves_while_it_writes_or_has_nothing_to_and_not_while_none_of_it_reaches_the_database(
    world: World, settings: Settings
):
    async def moves(connections: AsyncConnectionPool) -> bool:
        stop = asyncio.Event()
        writer = Writer(settings, connections, world.pool, Pace(poll_s=0.01))
        sweeping = asyncio.create_task(writer.sweep_for_ever(stop))
        async with asyncio.timeout(20):
            await asyncio.sleep(1)
            before = part(WRITER)._passes
            await asyncio.sleep(1)
            moved = part(WRITER)._passes > before
            stop.set()
            await sweeping
        return moved

    nobody = AsyncConnectionPool("host=127.0.0.1 port=1", min_size=0, max_size=1, timeout=0.1, open=False)
    async with nobody, pool(settings, "projector_sink", size=1) as connections:
        assert await moves(nobody)
        await world.mission()
        await planned(world)
        assert not await moves(nobody)
        assert await moves(connections)
    assert world.run()["state"] == "written"
