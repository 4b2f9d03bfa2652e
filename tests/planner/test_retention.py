"""What the ledger forgets, and what must not happen because of it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from prometheus_client import REGISTRY
from psycopg import sql
from psycopg.types.json import Jsonb

from projector.planner import retention
from projector.planner.iteration import iso_ms
from projector.planner.pace import Pace
from projector.planner.retention import BATCH, KINDS, Retention, count_prunable, cutoffs, prune
from projector.planner.runs import UNFINISHED, Selection, retry
from projector.planner.steps import Step
from projector.sql.connection import connect
from streams import timers
from tests.planner.test_streams import running, until
from tests.planner.world import HOUR, World
from tests.planner.writing import write_back

PLAN = {"version": 1, "summary": "", "steps": [], "agent": {"id": "a1", "name": "Mana"}}
STEP = Step(1, "llm", b"\1" * 32, {"content": "x"}, 100, 20)
BRIEF = {"version": 1, "system": "s", "user": "what was written", "tools": []}
TABLES = {"runs": "mission_runs", "steps": "run_steps", "usage": "token_usage"}


def counts(world: World) -> dict[str, int]:
    selects = {kind: sql.SQL("select count(*) from mana_ai.{}").format(sql.Identifier(t)) for kind, t in TABLES.items()}
    return {kind: world.admin.execute(select).fetchone()[0] for kind, select in selects.items()}


def age(world: World, days: float = 100) -> None:
    """Makes all that the ledger holds older, and lets what it waits for come that much earlier."""
    for assignment in (
        "mission_runs set updated_at = updated_at - %s, next_attempt_at = next_attempt_at - %s,"
        " lease_until = lease_until - %s",
        "run_steps set created_at = created_at - %s",
        "token_usage set ts = ts - %s",
    ):
        by = [timedelta(days=days)] * assignment.count("%s")
        world.admin.execute(f"update mana_ai.{assignment}", by)


async def forget(world: World, **days: float) -> dict[str, int]:
    """Deletes what is older, and returns how many rows of each kind."""
    before = {kind: datetime.now(UTC) - timedelta(days=number) for kind, number in days.items()}
    deleted = dict.fromkeys(before, 0)
    async with await connect(world.settings, "projector_planner") as conn:
        expected = await count_prunable(conn, before)
        async for kind, rows in prune(conn, before):
            deleted[kind] += rows
    assert {kind: expected[kind] for kind in before} == deleted
    return deleted


async def ended(world: World, state: str, *, wait_s: float | None = None, mission: str = "m1") -> UUID:
    """A run with a step, ended in `state`."""
    run = await world.claimed()
    assert run.mission_id == mission
    ledger = world.ledger()
    await ledger.steps(run).store(STEP)
    world.admin.execute("update mana_ai.mission_runs set brief = %s where run_id = %s", [Jsonb(BRIEF), run.run_id])
    if state in ("planned", "written"):
        await ledger.store_plan(run, PLAN, sweep_after_s=0)
    elif state != "running":
        await ledger.settle(run, state, decision="d", reason="r", wait_s=wait_s, counts=True)
    if state == "written":
        async with await connect(world.settings, "projector_sink") as conn:
            await write_back(conn, run.run_id, "u1", zone=ZoneInfo("Europe/Berlin"), pace=Pace())
    return run.run_id


async def test_who_read_is_forgotten_by_age_whether_or_not_the_run_is_there(world: World):
    for days in (1, 500):
        world.admin.execute(
            "insert into mana_ai.content_reads (user_id, run_id, reader, read_at)"
            " values ('u1', gen_random_uuid(), %s, now() - make_interval(days => %s))",
            [f"{days}", days],
        )
    assert await forget(world, runs=0, reads=400) == {"runs": 0, "reads": 1}
    assert world.admin.execute("select reader from mana_ai.content_reads").fetchall() == [("1",)]


async def test_a_due_time_whose_run_is_deleted_fires_no_more_whatever_the_mission_shows(world: World):
    due = await world.mission()
    await ended(world, "written")
    age(world)
    assert await forget(world, runs=90) == {"runs": 1}
    assert counts(world)["steps"] == 0
    assert await world.open() == 0  # the view does not know the change of the write-back yet
    await world.catch_up()
    assert await world.open() == 0
    later = due + HOUR / 2
    await world.edit(nextRunAt=iso_ms(later))
    assert await world.open() == 1
    await ended(world, "written")
    age(world)
    await forget(world, runs=90)
    for earlier in (due, later, later - HOUR / 4):  # a device brings an old time back
        await world.edit(nextRunAt=iso_ms(earlier))
        assert await world.open() == 0
    await world.edit(nextRunAt=iso_ms(later + HOUR / 4))
    assert await world.open() == 1


async def test_a_due_time_that_was_cancelled_for_good_stays_so_when_its_run_is_deleted(world: World):
    await world.mission()
    await ended(world, "cancelled")
    age(world)
    assert await forget(world, runs=90) == {"runs": 1}
    assert await world.open() == 0


async def test_a_run_that_only_rests_is_opened_anew_when_its_mission_is_due_again_however_old(world: World):
    await world.mission()
    run_id = await ended(world, "cancelled", wait_s=30)
    await world.edit(state="paused")
    age(world)
    assert await forget(world, runs=90) == {"runs": 1}
    assert await world.open() == 0
    await world.edit(state="active")
    assert await world.open() == 1
    assert world.run()["run_id"] == run_id


async def test_a_rest_is_not_cut_short(world: World):
    await world.mission()
    await ended(world, "failed", wait_s=200 * 86400)
    age(world)
    assert await forget(world, runs=90) == {"runs": 0}
    assert await world.open() == 0
    age(world)
    assert await forget(world, runs=90) == {"runs": 1}


@pytest.mark.parametrize("state", UNFINISHED)
async def test_what_is_not_finished_is_kept_with_its_steps_however_old(world: World, state):
    await world.mission()
    await ended(world, state, wait_s=0)
    age(world, 4000)
    assert await forget(world, runs=1, steps=1) == {"runs": 0, "steps": 0}
    assert world.admin.execute("select count(response) from mana_ai.run_steps").fetchone() == (1,)


async def test_what_was_written_goes_before_its_run_and_neither_takes_what_was_spent(world: World):
    await world.mission()
    run_id = await ended(world, "written")
    age(world, 40)
    assert await forget(world, runs=90, steps=30, usage=400) == {"runs": 0, "steps": 1, "usage": 0}
    assert await forget(world, steps=30) == {"steps": 0}
    (step,) = world.admin.execute("select run_id, response, prompt_tokens from mana_ai.run_steps").fetchall()
    assert step == (run_id, None, 100)
    assert world.run()["brief"].keys() == {"version", "tools", "systemSha256", "userSha256"}
    age(world, 100)
    assert await forget(world, runs=90, steps=30, usage=400) == {"runs": 1, "steps": 0, "usage": 0}
    assert counts(world) == {"runs": 0, "steps": 0, "usage": 1}


async def test_what_budgets_ask_for_is_kept_whatever_is_asked(world: World):
    await world.mission()
    run = await world.claimed()
    for _ in range(2):
        await world.ledger().steps(run).store(STEP)
    world.admin.execute("update mana_ai.token_usage set ts = ts - interval '25 hours' where id = 1")
    world.admin.execute("update mana_ai.token_usage set ts = ts - interval '23 hours' where id = 2")
    assert await forget(world, usage=0) == {"usage": 1}
    assert world.admin.execute("select id from mana_ai.token_usage").fetchall() == [(2,)]


async def test_a_run_that_is_taken_up_again_at_that_moment_keeps_its_steps(world: World):
    await world.mission()
    run_id = await ended(world, "cancelled")
    age(world)
    async with world.pool.connection() as conn, conn.transaction():
        assert [result.outcome async for result in retry(conn, Selection((run_id,)), by="olga")] == ["retried"]
        before = dict.fromkeys(KINDS, datetime.now(UTC))
        async with asyncio.timeout(5), world.pool.connection() as other:
            assert [taken async for taken in prune(other, {kind: before[kind] for kind in ("steps", "runs")})] == [
                ("steps", 0),
                ("runs", 0),
            ]
    assert (counts(world)["steps"], world.run()["state"]) == (1, "due")


async def test_much_is_deleted_in_small_parts_by_several_at_once(world: World, monkeypatch):
    world.admin.execute(
        "insert into mana_ai.mission_runs (run_id, iteration_id, agent_id, state, decision, reason, next_attempt_at,"
        " updated_at, user_id, mission_id, due_at)"
        " select gen_random_uuid(), gen_random_uuid(), 'a', 'cancelled', 'd', 'r', null,"
        " now() - interval '100 days', 'u' || n % 7, 'm' || n % 3, now() - n * interval '1 h'"
        " from generate_series(1, 1000) n"
    )
    monkeypatch.setattr(retention, "BATCH", BATCH | {"runs": 30})
    monkeypatch.setattr(retention, "BATCHES", 5)
    monkeypatch.setattr(retention, "PAUSE_S", 0)
    name, labels = "mana_ai_retention_deleted_total", {"kind": "runs"}
    before = REGISTRY.get_sample_value(name, labels) or 0
    passes = Retention(world.settings, world.pool)
    await passes.apply()
    assert counts(world)["runs"] == 1000 - 5 * 30
    assert REGISTRY.get_sample_value(name, labels) == before + 150

    async def part() -> list[int]:
        async with await connect(world.settings, "projector_planner") as conn:
            return [rows async for _, rows in prune(conn, {"runs": datetime.now(UTC)})]

    parts = [rows for took in await asyncio.gather(*(part() for _ in range(4))) for rows in took]
    assert (sum(parts), max(parts)) == (850, 30)
    marks = world.admin.execute(
        "select count(*), min(newest_due_at) > now() - interval '22 h' from mana_ai.pruned_runs"
    )
    assert marks.fetchone() == (21, True)


async def test_the_timers_apply_the_settings(world: World):
    await world.mission()
    await ended(world, "written")
    age(world)
    for_ever = world.settings.model_copy(update={f"keep_{kind}_days": 0 for kind in KINDS})
    assert cutoffs(for_ever) == {}
    await Retention(for_ever, world.pool).apply()
    assert counts(world) == {"runs": 1, "steps": 1, "usage": 1}
    settings = world.settings.model_copy(update={"retention_interval_s": 0.1})
    async with running(settings, timers.run):
        await until(lambda: counts(world) == {"runs": 0, "steps": 0, "usage": 1})
