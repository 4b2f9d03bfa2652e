"""SIGTERM in the middle of work: what is in hand is ended or handed back, nothing more is begun, nothing done twice."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from pydantic import SecretStr

from projector.cdc.topics import ensure_topics
from projector.planner.due import BATCH
from projector.planner.writer import WRITTEN_AT_ONCE
from tests.health.observe import Observed, start, until
from tests.llm.double import Double, Reply, calls, text
from tests.planner.test_writeback import PLAN
from tests.planner.world import World

TASK = ("create_task", {"title": "Gießen"})


async def test_a_planner_that_is_told_to_stop_hands_its_run_back_and_is_not_ready(world: World, tmp_path: Path):
    await world.agent()
    await world.mission()
    await world.open()
    await ensure_topics(world.settings)
    async with Double(calls(TASK), Reply(body=text("zu spät").body, pause_s=60)) as double:
        settings = world.settings.model_copy(update={"llm_base_url": double.url, "lease_s": 600.0})
        first = start(settings, tmp_path, "planner")
        following = asyncio.create_task(first.follow())
        try:
            await until(lambda: len(double.requests) == 2 and first.ready(), "the model is asked for the second time")
            with world.admin.transaction():
                # What it does last has to wait, and who asks meanwhile is told so.
                world.admin.execute("lock table mana_ai.mission_runs in exclusive mode")
                first.stream.send(signal.SIGTERM)
                await until(lambda: first.answers["/health/ready"][1].get("reason") == "stopping", "it is not ready")
            await until(lambda: world.run()["state"] == "due", "the run is handed back", within_s=10)
            assert await asyncio.to_thread(first.stream.joined, 20) == 0
        finally:
            first.stream.kill()
            await following
        run = world.run()
        assert (run["attempts"], run["lease_owner"]) == (0, None)
        assert not first.ready()
        assert first.not_live is None
        double.replies[-1] = text("fertig")
        second = start(settings, tmp_path, "planner")
        try:
            await until(lambda: world.run()["state"] == "planned", "another planner goes on")
            await asyncio.to_thread(second.stream.stop)
        finally:
            second.stream.kill()
    assert len(double.requests) == 3  # the first answer was stored; the second request, without one, came again
    assert double.requests[1] == double.requests[2]
    paid = "select count(*), sum(prompt_tokens) from mana_ai.run_steps where kind = 'llm'"
    assert world.admin.execute(paid).fetchone() == (2, 200)


async def test_timers_that_are_told_to_stop_commit_the_batch_in_hand_and_leave_the_rest(world: World, tmp_path: Path):
    missions = BATCH + 100
    world.admin.execute(
        "insert into mana_ai.mission_snapshots_1 (user_id, mission_id, status, next_run_at, deleted, complete, source,"
        " source_lsn, last_applied_at, record, state)"
        " select 'u1', 'm' || n, 'active', now() - interval '1 hour', false, true, 1, '0/1', now(), '{}', '{}'"
        " from generate_series(1, %s) as n",
        [missions],
    )
    world.watch_messages()
    settings = world.settings.model_copy(update={"due_interval_s": 0.2, "service_key": SecretStr("a key")})
    batch = "lock table mana_ai.mission_runs in exclusive mode"
    await stopped_while_it_waits(world, start(settings, tmp_path, "timers"), batch, "relation")
    assert len(world.runs()) == BATCH
    second = start(settings, tmp_path, "timers")
    try:
        await until(lambda: len(world.runs()) == missions, "another one opens the rest")
        await asyncio.to_thread(second.stream.stop)
    finally:
        second.stream.kill()
    announced = [message["run_id"] for _, message in world.messages()]
    assert sorted(announced) == sorted(str(run["run_id"]) for run in world.runs(state="due"))


async def test_a_sink_that_is_told_to_stop_writes_what_it_has_in_hand_and_takes_no_more(world: World, tmp_path: Path):
    missions = WRITTEN_AT_ONCE + 3
    await ensure_topics(world.settings)
    await plan(world, missions)
    # Those that have waited longest are written together.
    oldest = "select pg_advisory_xact_lock(hashtextextended('u1' || chr(31) || 'm0', 2))"
    await stopped_while_it_waits(world, start(world.settings, tmp_path, "sink"), oldest, "advisory")
    assert {run["mission_id"] for run in world.runs(state="written")} == {f"m{n}" for n in range(WRITTEN_AT_ONCE)}
    assert len(world.ours()) == WRITTEN_AT_ONCE
    second = start(world.settings, tmp_path, "sink")
    try:
        await until(lambda: len(world.runs(state="written")) == missions, "another one writes what is left")
        await asyncio.to_thread(second.stream.stop)
    finally:
        second.stream.kill()
    assert sorted(row["record_id"] for row in world.ours()) == sorted(f"m{n}" for n in range(missions))


async def stopped_while_it_waits(world: World, observed: Observed, lock: str, kind: str) -> None:
    """Tells the stream to stop while `lock` holds it up in the middle of its work; then that may go on."""
    following: asyncio.Task[None] | None = None
    try:
        with world.admin.transaction():
            world.admin.execute(lock)  # type: ignore[arg-type]
            following = asyncio.create_task(observed.follow())
            await until(lambda: observed.ready() and waits(world, kind), "it waits for the lock")
            observed.stream.send(signal.SIGTERM)
            await until(lambda: observed.answers["/health/ready"][1].get("reason") == "stopping", "it is not ready")
            assert observed.stream.exit_code is None
        assert await asyncio.to_thread(observed.stream.joined, 20) == 0
    finally:
        observed.stream.kill()
        if following is not None:
            await following
    assert observed.not_live is None


async def plan(world: World, missions: int) -> None:
    """So many runs whose plans wait to be written, one after the other."""
    for number in range(missions):
        await world.mission(mission=f"m{number}", seen=False)
    await world.catch_up()
    await world.open()
    runs = {run.mission_id: run for run in await world.ledger().claim(missions, per_user=missions)}
    for number in range(missions):
        await world.ledger().store_plan(runs[f"m{number}"], PLAN, sweep_after_s=0)


def waits(world: World, kind: str) -> bool:
    """Whether somebody waits for a lock of this kind in the world's database."""
    asked = (
        "select from pg_locks l join pg_database d on d.oid = l.database"
        " where d.datname = current_database() and l.locktype = %s and not l.granted"
    )
    return world.admin.execute(asked, [kind]).rowcount > 0
