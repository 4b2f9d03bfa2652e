"""What follows from failures, as rules and then through the real ledger and the real log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projector.config import Settings
from projector.log.actor import MISSION_RUNNER, AgentActor, normalize_actor, origin_from_actor
from projector.planner.backoff import Failures, held, poll_s, rest_s, retry_s, rewrite_s
from projector.planner.due import wake_changed
from projector.planner.iteration import iso_ms
from projector.planner.pace import Pace
from projector.planner.runs import Selection, retry
from projector.planner.writer import Writer
from projector.sql.connection import connect, pool
from tests.llm.double import Double, error, text
from tests.planner.test_worker import FAILED, settled, working
from tests.planner.world import HOUR, World
from tests.planner.writing import write_back

NOW = datetime(2026, 4, 14, 12, tzinfo=UTC)
PACE = Pace()
MINUTELY = {"kind": "interval", "everyMinutes": 1}


def test_a_research_job_is_asked_for_ever_more_rarely_up_to_a_cap():
    assert [poll_s(polls, Pace()) for polls in (0, 1, 2, 4, 5, 10**6)] == [15, 30, 60, 240, 300, 300]


def test_attempts_of_a_run_wait_four_times_as_long_each_time_and_end():
    assert [retry_s(n, PACE) for n in (1, 2, 3, 4, 5, 6)] == [5, 20, 80, 300, None, None]
    assert retry_s(1, PACE, asked_s=60) == 60
    assert retry_s(4, PACE, asked_s=60) == 300


def test_runs_of_a_mission_are_put_off_twice_as_far_each_time_up_to_the_cap():
    minutes = [rest_s(n, PACE) / 60 for n in range(1, 8)]
    assert minutes == [15, 30, 60, 120, 240, 360, 360]
    assert [rewrite_s(n, PACE) / 60 for n in (1, 2, 9, 10)] == [1, 2, 256, 360]


@given(st.integers(1, 10**9), st.integers(1, 10**9))
def test_no_number_of_failures_breaks_the_rules_or_shortens_a_wait(failures, more):
    for wait_s in (rest_s, rewrite_s):
        assert 0 < wait_s(failures, PACE) <= wait_s(failures + more, PACE) <= PACE.longest_rest_s
    endless = Pace(max_attempts=10**12)
    assert 0 < retry_s(failures, endless) <= retry_s(failures + more, endless) <= PACE.longest_retry_s


def test_a_mission_that_keeps_failing_is_held_until_the_cap_has_passed():
    assert held(Failures(), NOW, PACE) is None
    assert held(Failures(4, NOW, "no"), NOW, PACE) is None
    found = held(Failures(5, NOW - HOUR, "no"), NOW, PACE)
    assert found.wait_s == 5 * 3600
    assert "last 5 runs failed" in found.reason
    assert found.reason.endswith("the latest: no")
    assert held(Failures(99, NOW - 6 * HOUR, "no"), NOW, PACE) is None
    assert held(Failures(5, NOW, "no"), NOW, PACE, changed_at=NOW) is not None
    assert held(Failures(5, NOW, "no"), NOW, PACE, changed_at=NOW + timedelta(microseconds=1)) is None


# Through the ledger


async def wrote(world: World, pace: Pace = PACE) -> dict:
    """Writes the one plan that waits, and returns its row of the log."""
    (run,) = world.runs(state="planned")
    async with await connect(world.settings, "projector_sink") as conn:
        assert await write_back(conn, run["run_id"], run["user_id"], zone=ZoneInfo("UTC"), pace=pace) == "written"
    (row,) = [row for row in world.ours() if row["id"] == world.run(run_id=run["run_id"])["change_id"]]
    await world.catch_up()
    return row


async def failed(world: World, pace: Pace = PACE) -> dict:
    """Lets the due run of the mission fail, and returns the row that says so."""
    assert await world.open() == 1
    async with Double(error(401)) as double, working(world, double):
        await settled(world, "planned")
    return await wrote(world, pace)


def next_run_at(row: dict) -> datetime:
    return datetime.fromisoformat(row["data"]["nextRunAt"])


async def due_now(world: World) -> None:
    """Lets the time pass until the mission is due again: the row is older than the failures, so nobody's change."""
    now = datetime.now(UTC)
    due = {"nextRunAt": iso_ms(now - timedelta(seconds=1))}
    world.change("u1", "aiMissions", "m1", "update", due, stamp=now, created=now - HOUR)
    await world.catch_up()


async def test_a_failed_run_tells_its_owner_and_moves_the_mission_on(world: World):
    await world.agent()
    await world.mission(iterations=[{"id": "old"}], cadence=MINUTELY)
    row = await failed(world)
    (old, iteration) = row["data"]["iterations"]
    run = world.run()
    assert old == {"id": "old"}
    assert (run["state"], run["decision"]) == ("written", "failed")
    assert "401" in run["reason"]
    assert iteration == {
        "id": str(run["iteration_id"]),
        "startedAt": iteration["startedAt"],
        "finishedAt": iteration["finishedAt"],
        "plan": [],
        "summary": "Planner failed: the model does not take this mission",
        "overallStatus": "failed",
        "source": "server",
        "errorDetails": {"name": "ModelRefused", "message": "the model does not take this mission"},
    }
    rest = next_run_at(row) - run["written_at"]
    assert timedelta(minutes=15) <= rest <= timedelta(minutes=16)
    assert await world.open() == 0


async def test_each_failure_in_a_row_puts_the_mission_off_further_and_a_success_ends_the_row(world: World):
    await world.agent()
    await world.mission(cadence=MINUTELY)
    rests = []
    for _ in range(3):
        row = await failed(world)
        rests.append(round((next_run_at(row) - row["created_at"]).total_seconds() / 60))
        await due_now(world)
    assert [rest // 15 for rest in rests] == [1, 2, 4]
    await world.open()
    async with Double(text("fertig")) as double, working(world, double):
        await settled(world, "planned")
    assert next_run_at(await wrote(world)) - datetime.now(UTC) <= timedelta(minutes=1)
    await due_now(world)
    row = await failed(world)
    assert next_run_at(row) - row["created_at"] <= timedelta(minutes=16)


async def keep_failing(world: World) -> None:
    """Opens the run after as many failures as there may be in a row."""
    await world.agent()
    await world.mission(cadence=MINUTELY)
    for _ in range(PACE.max_failures):
        await world.open()
        (run,) = await world.ledger().claim(1, per_user=1)
        await world.ledger().store_plan(run, FAILED, sweep_after_s=0)
        await wrote(world)
        await due_now(world)
    await world.open()


async def test_a_mission_whose_runs_keep_failing_is_held_with_the_reason_and_nothing_is_asked(world: World):
    await keep_failing(world)
    async with Double(text("nie")) as double, working(world, double):
        await settled(world, "held")
    run = world.run(state="held")
    assert run["decision"] == "skipped-failing"
    assert "last 5 runs failed" in run["reason"]
    assert "401" in run["reason"]
    wait = run["next_attempt_at"] - run["updated_at"]
    assert 5 * HOUR < wait <= 6 * HOUR
    assert (double.requests, await world.open()) == ([], 0)


async def test_an_operator_may_have_a_held_mission_tried_at_once(world: World):
    await keep_failing(world)
    async with Double(text("fertig")) as double, working(world, double):
        await settled(world, "held")
        async with world.pool.connection() as conn:
            selection = Selection(decision="skipped-failing")
            assert [done.outcome async for done in retry(conn, selection, by="an operator")] == ["retried"]
        await settled(world, "planned")


async def test_a_run_that_passed_once_is_not_held_for_earlier_failures_when_it_comes_back(world: World):
    await keep_failing(world)
    async with Double(error(503), text("fertig")) as double, working(world, double):
        await settled(world, "held")
        async with world.pool.connection() as conn:
            selection = Selection(decision="skipped-failing")
            assert [done.outcome async for done in retry(conn, selection, by="an operator")] == ["retried"]
        await settled(world, "planned")
    assert len(double.requests) == 2


@pytest.mark.parametrize("who", ["owner-before-it-was-due", "owner", "agent"])
async def test_a_held_mission_is_tried_as_soon_as_it_or_its_agent_is_changed(world: World, who):
    await keep_failing(world)
    if who == "owner-before-it-was-due":
        await world.edit(objective="Anders")
    async with Double(text("fertig")) as double, working(world, double):
        if who != "owner-before-it-was-due":
            await settled(world, "held")
            await (world.edit(objective="Anders") if who == "owner" else world.edit_agent(role="Anders"))
            async with world.pool.connection() as conn:
                assert await wake_changed(conn) == 1
        await settled(world, "planned")
        assert len(double.requests) == 1


async def test_an_iteration_that_we_put_back_is_nobodys_change_to_a_mission_that_keeps_failing(world: World):
    await keep_failing(world)
    changed = "update mana_ai.mission_runs set restores = 1, restored_at = m.last_applied_at, restored_over = %s"
    changed += " from mana_ai.mission_snapshots m where due_at = (select max(due_at) from mana_ai.mission_runs r"
    changed += " where r.state = 'written')"
    await world.edit(objective="Anders")
    world.admin.execute(changed, [datetime.now(UTC) - HOUR])
    async with Double(text("nie")) as double, working(world, double):
        await settled(world, "held")
        assert (world.run(state="held")["decision"], double.requests) == ("skipped-failing", [])


async def test_a_held_mission_gets_one_trial_once_the_cap_has_passed(world: World):
    await keep_failing(world)
    world.admin.execute("update mana_ai.mission_runs set written_at = written_at - interval '6 hours'")
    async with Double(error(401)) as double, working(world, double):
        await settled(world, "planned")
    assert len(double.requests) == 1
    row = await wrote(world)
    assert 6 * HOUR <= next_run_at(row) - row["created_at"] <= 6 * HOUR + timedelta(minutes=1)


async def test_times_missed_for_days_are_made_up_for_once(world: World):
    await world.agent()
    await world.mission(cadence=MINUTELY, nextRunAt="2026-01-01T00:00:00.000Z")
    for reply, last in ((error(401), True), (text("fertig"), False)):
        await world.open()
        async with Double(reply) as double, working(world, double):
            await settled(world, "planned")
        row = await wrote(world)
        assert next_run_at(row) > datetime.now(UTC)
        assert await world.open() == 0
        if last:
            await due_now(world)
    assert len(world.runs()) == len(world.ours()) == 2


async def test_every_row_that_the_pipeline_writes_names_who_wrote_it(world: World):
    await world.agent(name="Gärtnerin")
    await world.mission(cadence=MINUTELY)
    await failed(world)
    await due_now(world)
    await world.open()
    async with Double(text("fertig")) as double, working(world, double):
        await settled(world, "planned")
    await wrote(world)
    found = [(normalize_actor(row["actor"]), row) for row in world.ours()]
    iterations = [row["data"]["iterations"][-1]["id"] for _, row in found]
    assert [actor for actor, _ in found] == [
        MISSION_RUNNER,
        AgentActor("a1", "Gärtnerin", "m1", iterations[1], ""),
    ]
    for actor, row in found:
        # Nothing was guessed: the row says all of it, and its origin agrees.
        assert actor.to_json() == row["actor"]
        assert row["origin"] == origin_from_actor(actor)
    unnamed = "select count(*) from sync_changes where client_id = 'mana-ai-runner' and actor is null"
    assert world.admin.execute(unnamed).fetchone() == (0,)


async def test_a_plan_that_the_database_refuses_waits_longer_each_time_and_says_so(world: World, settings: Settings):
    await world.agent()
    await world.mission()
    await world.open()
    async with Double(text("fertig")) as double, working(world, double):
        await settled(world, "planned")
    world.admin.execute("alter table sync_changes add constraint shut check (client_id <> 'mana-ai-runner') not valid")
    async with pool(settings, "projector_sink", size=1) as connections:
        writer = Writer(settings, connections, world.pool)
        for times in (1, 2, 3):
            run = world.run()
            world.shift_clock_past(run["run_id"])
            assert await writer.sweep() == 1
            run = world.run()
            assert (run["state"], run["decision"], run["refused_writes"]) == ("planned", "write-refused", times)
            assert run["reason"] == f"the database refused the plan: {psycopg.errors.CheckViolation.sqlstate}"
            assert run["next_attempt_at"] - run["updated_at"] == timedelta(minutes=2 ** (times - 1))
            assert await writer.sweep() == 0
        world.admin.execute("alter table sync_changes drop constraint shut")
        world.shift_clock_past(run["run_id"])
        await writer.sweep()
    assert (world.run()["decision"], world.run()["reason"]) == ("ran", None)


async def test_failures_count_for_their_own_mission_only(world: World):
    await world.agent()
    for mission in ("m1", "m2"):
        await world.mission(mission=mission)
    await world.open()
    runs = {run.mission_id: run for run in await world.ledger().claim(2, per_user=10)}
    await world.ledger().store_plan(runs["m1"], FAILED, sweep_after_s=0)
    await wrote(world)
    assert (await world.ledger().look(runs["m1"])).failures.in_row == 1
    assert (await world.ledger().look(runs["m2"])).failures == Failures()
