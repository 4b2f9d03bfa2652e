"""Reads of applications, as their roles, among the rows of 5,000 users: an index finds every one of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from projector.planner.ledger import SITUATION
from projector.sql import query
from projector.sql.connection import connect_sync
from tests.fixtures.settings import settings_for

USERS = 5000
# The tables that hold the rows, which the views' names may stand before.
STORED = {name: f"mana_ai.{name}_1" for name in ("mission_snapshots", "agent_snapshots", "record_snapshots")}

COMMON = (
    "deleted, complete, source, source_lsn, last_applied_at, record, state)"
    " select format('u%%s', number), {}, false, true, 1, '0/1', '2026-06-01T10:00:00Z', '{{}}', '{{\"w\": []}}'"
    " from generate_series(1, %s) number, generate_series(1, {}) nth"
)
FILL = {
    # One mission in a thousand is due.
    "mission_snapshots": "(user_id, mission_id, status, next_run_at, "
    + COMMON.format(
        "format('m%%s', nth), 'active', case when number %% 1000 = 0 then now() else now() + interval '9 days' end", 3
    ),
    "agent_snapshots": "(user_id, agent_id, status, " + COMMON.format("format('a%%s', nth), 'active'", 2),
    "record_snapshots": "(user_id, app_id, table_name, record_id, "
    + COMMON.format("'notes', case when nth < 4 then 'notes' else 'folders' end, format('r%%s', nth)", 6),
}

ONE = "u4321"
READS = {
    "all missions of a user": (3, "select record from mana_ai.mission_snapshots where user_id = %(user_id)s"),
    "one mission": (
        1,
        "select record from mana_ai.mission_snapshots where user_id = %(user_id)s and mission_id = 'm2'",
    ),
    "the agents of a user": (2, "select record from mana_ai.agent_snapshots where user_id = %(user_id)s"),
    "the records of a table for a user": (
        3,
        "select record from mana_ai.record_snapshots"
        " where user_id = %(user_id)s and app_id = 'notes' and table_name = 'notes'",
    ),
    "one record": (
        1,
        "select record from mana_ai.record_snapshots"
        " where user_id = %(user_id)s and app_id = 'notes' and table_name = 'notes' and record_id = 'r1'",
    ),
}


@pytest.fixture(scope="module")
def sessions(stack, template) -> Iterator[dict[str, psycopg.Connection[Any]]]:
    with template.copy() as database:
        used = settings_for(stack, database)
        with psycopg.connect(database.admin_url, autocommit=True) as admin:
            for name, columns in FILL.items():
                admin.execute(f"insert into {STORED[name]} {columns}", [USERS])
                admin.execute(f"vacuum analyze {STORED[name]}")
        with connect_sync(used, "projector_reader") as reader, connect_sync(used, "projector_planner") as planner:
            for session in (reader, planner):
                session.execute("select set_config('app.current_user_id', %s, false)", [ONE])
            yield {"reader": reader, "planner": planner}


def scans(
    conn: psycopg.Connection[Any], statement: str | sql.Composed, parameters: dict[str, Any]
) -> list[dict[str, Any]]:
    """The nodes of the plan, as run, that read a snapshot table or an index of one."""
    asked = sql.SQL(statement) if isinstance(statement, str) else statement
    row = conn.execute(sql.SQL("explain (analyze, format json) {}").format(asked), parameters).fetchone()
    assert row is not None
    found = []

    def walk(node: dict[str, Any]) -> None:
        if "_snapshots" in node.get("Relation Name", "") + node.get("Index Name", ""):
            found.append(node)
        for inner in node.get("Plans", []):
            walk(inner)

    walk(row[0][0]["Plan"])
    return found


def examined(nodes: list[dict[str, Any]]) -> int:
    """Rows that scans looked at, shown or not."""
    return round(sum(n["Actual Rows"] + n.get("Rows Removed by Filter", 0) for n in nodes if "Relation Name" in n))


@pytest.mark.parametrize("role", ["reader", "planner"])
@pytest.mark.parametrize("read", READS)
def test_a_read_of_one_user_looks_at_that_users_rows_alone(sessions, role, read):
    expected, statement = READS[read]
    nodes = scans(sessions[role], statement, {"user_id": ONE})
    assert nodes
    assert [node["Node Type"] for node in nodes if node["Node Type"] == "Seq Scan"] == []
    assert examined(nodes) == expected
    assert len(sessions[role].execute(statement, {"user_id": ONE}).fetchall()) == expected


def test_the_policy_alone_finds_the_readers_rows_by_the_index(sessions):
    nodes = scans(sessions["reader"], "select record from mana_ai.mission_snapshots", {})
    assert "Seq Scan" not in {node["Node Type"] for node in nodes}
    assert examined(nodes) == 3


def test_the_planners_questions_scan_no_table_of_a_view(sessions):
    planner, one = (
        sessions["planner"],
        {"run_ids": [UUID(int=1)], "users": [ONE], "missions": ["m1"], "default_agent": "a1"},
    )
    situation = scans(planner, SITUATION, one)
    assert "Seq Scan" not in {node["Node Type"] for node in situation}
    assert examined(situation) == 2
    linked = {"apps": ["notes"] * 2, "tables": ["notes"] * 2, "ids": ["r1", "r3"]}
    records = scans(planner, query("planner/input_records"), {"user_id": ONE} | linked)
    assert "Seq Scan" not in {node["Node Type"] for node in records}
    assert [n["Index Name"] for n in records if n["Actual Rows"]] == ["record_snapshots_pkey"]
    due = scans(planner, query("planner/find_due"), {"default_agent": "a1", "limit": 100})
    assert "Seq Scan" not in {node["Node Type"] for node in due}
    assert examined(due) == USERS // 1000 * 3
