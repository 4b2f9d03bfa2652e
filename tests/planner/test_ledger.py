from __future__ import annotations

from datetime import UTC, datetime

import psycopg
import pytest

from projector.errors import LeaseLostError
from projector.planner.steps import Step
from projector.sql.connection import connect
from tests.planner.world import World

PLAN = {"version": 1, "summary": "", "steps": [], "agent": {"id": "a1", "name": "Mana"}}
STEP = Step(1, "llm", b"\1" * 32, {"content": "x"}, 100, 20)
HELD = "state = 'held', reason = 'r'"
PLANNED = "state = 'planned', started_at = now(), plan = '{}', planned_at = now()"
WRITTEN = (
    "state = 'written', started_at = now(), plan = '{}', planned_at = now(), next_attempt_at = null,"
    " change_id = gen_random_uuid(), written_at = now()"
)
# Each names one column too many or too few for its state.
IMPOSSIBLE = [
    "state = 'thinking'",
    "state = 'running'",
    "state = 'running', lease_owner = 'w', started_at = now(), next_attempt_at = null",
    "state = 'running', lease_until = now(), started_at = now(), next_attempt_at = null",
    "state = 'running', lease_owner = 'w', lease_until = now(), next_attempt_at = null",
    "state = 'running', lease_owner = 'w', lease_until = now(), started_at = now()",
    "lease_owner = 'w', lease_until = now()",
    "state = 'planned', decision = 'planned', started_at = now()",
    "state = 'planned', decision = 'planned', started_at = now(), plan = '{}'",
    "state = 'planned', decision = 'planned', plan = '{}', planned_at = now()",
    f"{PLANNED}, decision = 'planned', next_attempt_at = null",
    "plan = '{}', planned_at = now()",
    "state = 'written', decision = 'ran', started_at = now(), plan = '{}', planned_at = now(), next_attempt_at = null",
    "state = 'written', decision = 'ran', started_at = now(), next_attempt_at = null, change_id = gen_random_uuid(),"
    " written_at = now()",
    "change_id = gen_random_uuid()",
    "state = 'held', decision = 'skipped-paused'",
    f"{HELD}, decision = 'skipped-paused', next_attempt_at = null",
    HELD,
    f"{HELD}, decision = 'admitted'",
    f"{HELD}, decision = 'ran'",
    "state = 'failed'",
    "state = 'cancelled', decision = 'mission-gone'",
    "state = 'cancelled', reason = 'r'",
    PLANNED,
    f"{PLANNED}, decision = 'ran'",
    f"{PLANNED}, decision = 'skipped-paused'",
    WRITTEN,
    f"{WRITTEN}, decision = 'planned'",
    f"{WRITTEN}, decision = 'skipped-paused'",
    f"{PLANNED}, decision = 'planned', written_lsn = '0/1'",
    "restores = 1",
    "restores = 1, restored_at = now()",
    "restores = -1",
    f"{WRITTEN}, decision = 'ran', restores = 1",
    f"{WRITTEN}, decision = 'ran', restored_at = now()",
    f"{WRITTEN}, decision = 'ran', restored_over = now()",
    "admitted_at = now()",
    "attempts = -1",
    "refused_writes = -1",
    "prompt_tokens = -1",
    "completion_tokens = -1",
    "reserved_tokens = -1",
    "research_credits = -1",
    "research_credits = 'infinity'",
    "failed_calls = '{}'",
    "user_id = ''",
    "mission_id = ''",
    "written_at = now()",
    "agent_id = repeat('a', 257)",
    "next_attempt_at = null",
]


@pytest.mark.parametrize("assignment", IMPOSSIBLE)
async def test_the_database_refuses_an_impossible_state(world: World, assignment):
    await world.mission()
    await world.open()
    with pytest.raises(psycopg.errors.CheckViolation):
        world.admin.execute(f"update mana_ai.mission_runs set {assignment}")  # noqa: S608


async def test_every_rule_about_a_state_is_tried(world: World):
    await world.mission()
    await world.open()
    broken = set()
    for assignment in IMPOSSIBLE:
        with pytest.raises(psycopg.errors.CheckViolation) as caught:
            world.admin.execute(f"update mana_ai.mission_runs set {assignment}")  # noqa: S608
        broken.add(caught.value.diag.constraint_name)
    rules = "select conname from pg_constraint where contype = 'c' and conrelid = 'mana_ai.mission_runs'::regclass"
    assert broken == {name for (name,) in world.admin.execute(rules).fetchall()}


async def test_a_claim_leases_a_run_to_one_worker(world: World):
    await world.mission()
    await world.open()
    (run,) = await world.ledger("w1").claim(5, per_user=5)
    assert await world.ledger("w2").claim(5, per_user=5) == []
    row = world.run()
    assert (row["state"], row["lease_owner"], row["attempts"]) == ("running", "w1", 1)
    assert (run.user_id, run.mission_id, run.attempts, run.brief) == ("u1", "m1", 1, None)


async def test_an_expired_lease_goes_to_another_and_the_first_cannot_write_any_more(world: World):
    await world.mission()
    run = await world.claimed("w1")
    world.shift_clock_past(run.run_id)
    (taken,) = await world.ledger("w2").claim(1, per_user=1)
    assert (taken.run_id, taken.attempts) == (run.run_id, 2)
    first = world.ledger("w1")
    with pytest.raises(LeaseLostError):
        await first.steps(run).store(STEP)
    with pytest.raises(LeaseLostError):
        await first.store_plan(run, PLAN, sweep_after_s=1)
    with pytest.raises(LeaseLostError):
        await first.settle(run, "due", decision="retry", reason="r", wait_s=1, counts=True)
    assert await first.renew([run.run_id]) == set()
    assert world.run()["lease_owner"] == "w2"


async def test_a_lease_is_prolonged_by_its_owner(world: World):
    await world.mission()
    run = await world.claimed("w1", lease_s=5)
    before = world.run()["lease_until"]
    assert await world.ledger("w1", lease_s=60).renew([run.run_id]) == {run.run_id}
    assert (world.run()["lease_until"] - before).total_seconds() > 50


async def test_claims_are_fair_over_users(world: World):
    for number in range(6):
        await world.mission("greedy", f"g{number}")
    await world.mission("modest", "m")
    await world.open()
    first = await world.ledger().claim(2, per_user=10)
    assert {run.user_id for run in first} == {"greedy", "modest"}


async def test_a_user_with_enough_at_work_is_passed_over(world: World):
    for number in range(6):
        await world.mission("greedy", f"g{number}")
    await world.open()
    assert len(await world.ledger("w1").claim(10, per_user=2)) == 2
    assert await world.ledger("w2").claim(10, per_user=2) == []
    await world.mission("modest", "m")
    await world.open()
    assert [run.user_id for run in await world.ledger("w2").claim(10, per_user=2)] == ["modest"]


async def test_what_is_handed_back_costs_no_attempt(world: World):
    await world.mission()
    await world.claimed("w1")
    assert await world.ledger("w1").hand_back() == 1
    row = world.run()
    assert (row["state"], row["attempts"], row["lease_owner"]) == ("due", 0, None)
    assert len(await world.ledger("w2").claim(1, per_user=1)) == 1


async def test_a_step_is_kept_with_what_it_cost(world: World):
    await world.mission()
    run = await world.claimed()
    steps = world.ledger().steps(run)
    await steps.store(STEP)
    assert (await world.ledger().look(run)).steps == [STEP]
    row = world.run()
    assert (row["prompt_tokens"], row["completion_tokens"]) == (100, 20)
    usage = "select user_id, agent_id, mission_id, run_id, tokens_used from mana_ai.token_usage"
    assert world.admin.execute(usage).fetchall() == [("u1", "a1", "m1", run.run_id, 120)]


async def test_a_step_asked_anew_replaces_the_old_one_and_both_are_paid_for(world: World):
    await world.mission()
    run = await world.claimed()
    steps = world.ledger().steps(run)
    await steps.store(STEP)
    other = Step(1, "llm", b"\2" * 32, {"content": "y"}, 10, 0)
    await steps.store(other)
    assert (await world.ledger().look(run)).steps == [other]
    assert world.admin.execute("select sum(tokens_used)::int from mana_ai.token_usage").fetchone() == (130,)
    [unused] = world.run()["failed_calls"]
    assert datetime.fromisoformat(unused.pop("at")) < datetime.now(UTC)
    assert unused == {
        "error": "Unused", "ms": 0, "cost": None, "route": [], "prompt_tokens": 100, "completion_tokens": 20
    }  # fmt: skip
    await steps.store(Step(2, "tool", b"\3" * 32, {"success": True, "message": ""}))
    await steps.store(Step(2, "llm", b"\4" * 32, {"content": "z"}, 1, 1))
    assert len(world.run()["failed_calls"]) == 1  # a tool costs nothing


async def test_a_stored_plan_is_announced_in_the_same_transaction(world: World):
    await world.mission()
    run = await world.claimed()
    world.watch_messages()
    await world.ledger().store_plan(run, PLAN, sweep_after_s=5)
    row = world.run()
    assert (row["state"], row["plan"], row["lease_owner"], row["admitted_at"]) == ("planned", PLAN, None, None)
    assert world.messages() == [("mission.iterations", {"run_id": str(run.run_id), "user_id": "u1"})]


async def test_the_ledger_shows_a_reader_only_its_own_user(world: World):
    for user in ("u1", "u2"):
        await world.mission(user)
    await world.open()
    for run in await world.ledger().claim(2, per_user=1):
        await world.ledger().steps(run).store(STEP)
    reader = await connect(world.settings, "projector_reader")
    async with reader:
        for table in ("mission_runs", "run_steps", "token_usage"):
            rows = f"select user_id from mana_ai.{table}"  # noqa: S608
            await reader.execute("select set_config('app.current_user_id', '', false)")
            assert await (await reader.execute(rows)).fetchall() == []
            await reader.execute("select set_config('app.current_user_id', 'u1', false)")
            assert await (await reader.execute(rows)).fetchall() == [("u1",)]


async def test_the_planner_cannot_touch_the_log(world: World):
    async with world.pool.connection() as conn:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await conn.execute("select * from sync_changes")
