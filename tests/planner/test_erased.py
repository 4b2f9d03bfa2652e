"""What becomes of runs whose user is erased: none of them has an effect afterwards."""

from __future__ import annotations

import asyncio
from zoneinfo import ZoneInfo

import pytest
from psycopg import sql

from projector.errors import LeaseLostError, UserInLogError
from projector.planner import user_tables
from projector.planner.pace import Pace
from projector.planner.research.jobs import Jobs
from projector.planner.steps import Step
from projector.planner.zones import set_zone
from projector.sql.connection import connect
from projector.views import erase as views
from projector.views.erase import erase_user
from tests.planner.world import World
from tests.planner.writing import write_back

PLAN = {
    "version": 1,
    "summary": "s",
    "steps": [],
    "stopReason": "assistant-stop",
    "agent": {"id": "a1", "name": "Mana"},
}
STEP = Step(1, "llm", b"0" * 32, {"text": "secret"}, 10, 5)


def erase_log(world: World, user: str = "u1") -> None:
    """As the sync server does."""
    world.admin.execute("delete from sync_changes where user_id = %s", [user])


async def erase(world: World, user: str = "u1") -> None:
    async with await connect(world.settings, "projector_engine") as conn:
        await erase_user(conn, world.settings, user, (*user_tables.TABLES, *views.TABLES), "cluster", {})


async def write(world: World, run: dict) -> str:
    async with await connect(world.settings, "projector_sink") as conn:
        return await write_back(conn, run["run_id"], run["user_id"], zone=ZoneInfo("UTC"), pace=Pace())


def ledger_rows(world: World) -> list[int]:
    tables = (sql.Identifier("mana_ai", table.table) for table in user_tables.TABLES)
    return [world.admin.execute(sql.SQL("select count(*) from {}").format(t)).fetchone()[0] for t in tables]


async def test_a_run_at_work_while_its_user_is_erased_stores_and_announces_nothing(world: World):
    await world.mission()
    await world.mission("other", "m9")
    await world.open()
    async with await connect(world.settings, "projector_planner") as conn:
        for user in ("u1", "other"):
            await set_zone(conn, user, ZoneInfo("America/New_York"))
    runs = {run.user_id: run for run in await world.ledger().claim(2, per_user=1)}
    await world.ledger().steps(runs["u1"]).store(STEP)
    jobs = Jobs(world.pool, "w1")
    for run in runs.values():
        await jobs.intend(run, "openai-deep-research", "a question of the user's")
    world.watch_messages()
    erase_log(world)
    await erase(world)
    assert ledger_rows(world) == [1, 0, 0, 0, 1, 1, 0]
    with pytest.raises(LeaseLostError):
        await world.ledger().steps(runs["u1"]).store(STEP)
    with pytest.raises(LeaseLostError):
        await world.ledger().store_plan(runs["u1"], PLAN, sweep_after_s=0)
    with pytest.raises(LeaseLostError):
        await jobs.intend(runs["u1"], "openai-deep-research", "a question of the user's")
    assert await world.ledger().renew([run.run_id for run in runs.values()]) == {runs["other"].run_id}
    assert await world.open() == 0
    assert (ledger_rows(world), world.messages(), world.ours()) == ([1, 0, 0, 0, 1, 1, 0], [], [])


async def test_a_plan_is_not_written_for_a_mission_that_was_erased_from_the_log_alone(world: World):
    await world.mission()
    run = await world.claimed()
    await world.ledger().store_plan(run, PLAN, sweep_after_s=0)
    erase_log(world)
    assert await write(world, world.run()) == "refused"
    assert (world.ours(), world.run()["decision"]) == ([], "mission-gone")
    await erase(world)
    assert await write(world, {"run_id": run.run_id, "user_id": "u1"}) == "nothing-to-do"


async def test_an_erasure_that_meets_a_plan_being_written_sees_its_row_and_leaves_all_as_it_is(world: World):
    await world.mission()
    run = await world.claimed()
    await world.ledger().store_plan(run, PLAN, sweep_after_s=0)
    async with await connect(world.settings, "projector_sink") as conn, conn.transaction():
        await write_back(conn, run.run_id, "u1", zone=ZoneInfo("UTC"), pace=Pace())
        world.admin.execute("delete from sync_changes where user_id = 'u1'")
        erasing = asyncio.create_task(erase(world))
        while not world.admin.execute("select 1 from pg_locks where not granted").fetchone():
            assert not erasing.done()
            await asyncio.sleep(0.01)
    with pytest.raises(UserInLogError, match="1 rows"):
        await erasing
    assert ledger_rows(world)[0] == 1
    assert world.admin.execute("select count(*) from mana_ai.mission_snapshots").fetchone() == (1,)


async def test_an_erasure_that_loses_a_deadlock_begins_again(world: World):
    await world.mission()
    await world.mission("u1", "m2")
    await world.open()
    first, second = (run["run_id"] for run in world.runs())
    erase_log(world)
    lock = "select from mana_ai.mission_runs where run_id = %s for update"
    async with await connect(world.settings, "projector_planner") as rival:
        await rival.execute("begin")
        await rival.execute(lock, [second])
        erasing = asyncio.create_task(erase(world))
        while not world.admin.execute("select 1 from pg_locks where not granted").fetchone():
            await asyncio.sleep(0.01)
        await rival.execute(lock, [first])
        await rival.execute("commit")
    await erasing
    assert ledger_rows(world)[0] == 0
