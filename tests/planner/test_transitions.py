"""Which state may follow on which, asked of the database as the planner: the one list that the queries live by."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from projector.planner.runs import STATES, UNFINISHED
from projector.sql.connection import connect
from tests.planner.world import World

ALLOWED = {
    "due": {"running", "cancelled"},
    "running": {"due", "planned", "held", "failed", "cancelled"},
    "planned": {"written", "cancelled"},
    "held": {"running", "due", "cancelled"},
    "written": set(),
    "failed": {"due", "cancelled"},
    "cancelled": {"due"},
}
NOW = "2026-06-01T10:00:00Z"
UUID = "00000000-0000-0000-0000-000000000001"
NOTHING = dict.fromkeys(
    ("lease_owner", "lease_until", "started_at", "next_attempt_at", "plan", "planned_at", "change_id", "written_at")
)
WAITING = NOTHING | {"next_attempt_at": NOW}
PLANNED = NOTHING | {"started_at": NOW, "plan": Jsonb({}), "planned_at": NOW, "decision": "planned"}
COLUMNS: dict[str, dict[str, Any]] = {
    "due": WAITING,
    "running": NOTHING | {"lease_owner": "w", "lease_until": NOW, "started_at": NOW},
    "planned": PLANNED | {"next_attempt_at": NOW},
    "held": WAITING | {"reason": "r", "decision": "skipped-paused"},
    "written": PLANNED | {"change_id": UUID, "written_at": NOW, "decision": "ran"},
    "failed": NOTHING | {"reason": "r"},
    "cancelled": NOTHING | {"reason": "r", "decision": "mission-gone"},
}


def insert(state: str) -> tuple[sql.Composed, list[Any]]:
    columns = {"run_id": UUID, "iteration_id": UUID, "user_id": "u", "mission_id": "m", "agent_id": "a", "due_at": NOW}
    columns |= {"state": state} | COLUMNS[state]
    statement = sql.SQL("insert into mana_ai.mission_runs ({}) values ({})").format(
        sql.SQL(", ").join(map(sql.Identifier, columns)), sql.SQL(", ").join(sql.Placeholder() * len(columns))
    )
    return statement, list(columns.values())


async def test_the_database_lets_a_run_take_exactly_the_listed_ways(world: World):
    found: dict[str, set[str]] = {state: set() for state in STATES}
    async with await connect(world.settings, "projector_planner") as conn:
        for before in STATES:
            world.admin.execute(*insert(before))
            for after in STATES:
                columns = {"state": after} | COLUMNS[after]
                update = sql.SQL("update mana_ai.mission_runs set {}").format(
                    sql.SQL(", ").join(sql.SQL("{} = {}").format(sql.Identifier(c), sql.Placeholder()) for c in columns)
                )
                try:
                    async with conn.transaction(force_rollback=True):
                        changed = await conn.execute(update, list(columns.values()))
                        assert changed.rowcount == 1
                except psycopg.errors.RestrictViolation:
                    continue
                found[before].add(after)
            world.admin.execute("delete from mana_ai.mission_runs")
    assert found == {before: after | {before} for before, after in ALLOWED.items()}


async def test_the_planner_opens_runs_as_due_and_as_nothing_else(world: World):
    async with await connect(world.settings, "projector_planner") as conn:
        for state in STATES:
            async with conn.transaction(force_rollback=True):
                if state == "due":
                    await conn.execute(*insert(state))
                else:
                    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="opened_as_due"):
                        await conn.execute(*insert(state))


def test_a_run_is_finished_from_when_nobody_works_on_it_any_more(world: World):
    for state in STATES:
        world.admin.execute(*insert(state))
        finished, updated = world.admin.execute("select finished_at, updated_at from mana_ai.mission_runs").fetchone()
        assert finished == (None if state in UNFINISHED else updated), state
        world.admin.execute("delete from mana_ai.mission_runs")
