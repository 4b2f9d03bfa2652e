"""Reads of applications, as their roles, among the rows of 5,000 users: an index finds every one of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
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
READS = {  # name → (rows, index, statement)
    "all missions of a user": (
        3,
        "mission_snapshots_pkey",
        "select record from mana_ai.mission_snapshots where user_id = %(user_id)s",
    ),
    "one mission": (
        1,
        "mission_snapshots_pkey",
        "select record from mana_ai.mission_snapshots where user_id = %(user_id)s and mission_id = 'm2'",
    ),
    "the agents of a user": (
        2,
        "agent_snapshots_pkey",
        "select record from mana_ai.agent_snapshots where user_id = %(user_id)s",
    ),
    "the records of a table for a user": (
        3,
        "record_snapshots_pkey",
        "select record from mana_ai.record_snapshots"
        " where user_id = %(user_id)s and app_id = 'notes' and table_name = 'notes'",
    ),
    "one record": (
        1,
        "record_snapshots_pkey",
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


NEXT_DUE = query("planner/until_next_due")
DUE = query("planner/find_due")
DUE_OF = {"default_agent": "a1", "longest_agent": 256, "limit": 100}


class Scan(NamedTuple):
    """How a snapshot table was read. `idle` counts rows looked at in vain, or looked up that an index should answer."""

    index: str | None
    rows: int
    idle: int = 0
    index_alone: bool = False


def scans(
    conn: psycopg.Connection[Any], statement: str | sql.Composed, parameters: dict[str, Any] | None = None
) -> list[Scan]:
    """Those of the plan that were run, so none of the generation that does not serve."""
    asked = sql.SQL(statement) if isinstance(statement, str) else statement
    row = conn.execute(sql.SQL("explain (analyze, format json) {}").format(asked), parameters).fetchone()
    assert row is not None
    found = []

    def walk(node: dict[str, Any]) -> None:
        below = node.get("Plans", [])
        if "_snapshots" in node.get("Relation Name", "") and node["Actual Loops"]:
            indexes = [scan["Index Name"] for scan in (node, *below) if "Index Name" in scan]
            idle = sum(count for name, count in node.items() if name.startswith(("Rows Removed", "Heap Fetches")))
            # An index whose first columns are not asked for is searched once for each of their values.
            idle += sum(max(0, scan.get("Index Searches", 0) - scan["Actual Loops"]) for scan in (node, *below))
            rows = round(node["Actual Rows"] * node["Actual Loops"])
            found.append(Scan(*indexes or [None], rows, idle, node["Node Type"] == "Index Only Scan"))
        for inner in below:
            walk(inner)

    walk(row[0][0]["Plan"])
    return found


@pytest.mark.parametrize("role", ["reader", "planner"])
@pytest.mark.parametrize("read", READS)
def test_a_read_of_one_user_looks_at_that_users_rows_alone(sessions, role, read):
    rows, index, statement = READS[read]
    assert scans(sessions[role], statement, {"user_id": ONE}) == [Scan(index, rows)]
    assert len(sessions[role].execute(statement, {"user_id": ONE}).fetchall()) == rows


def test_the_policy_alone_finds_the_readers_rows_by_the_index(sessions):
    found = scans(sessions["reader"], "select record from mana_ai.mission_snapshots")
    assert found == [Scan("mission_snapshots_pkey", 3)]


def test_the_scheduler_looks_at_what_is_due_and_at_what_is_due_next(sessions):
    due = USERS // 1000 * 3
    assert scans(sessions["planner"], DUE, DUE_OF) == [Scan("mission_snapshots_due", due)]
    # One entry of the index, however many missions are to be due at some time, and not a row of the table.
    assert scans(sessions["planner"], NEXT_DUE) == [Scan("mission_snapshots_due", 1, index_alone=True)]


def test_the_planners_other_questions_scan_no_table_of_a_view(sessions):
    one = {"run_ids": [UUID(int=1)], "users": [ONE], "missions": ["m1"], "default_agent": "a1"}
    assert sorted(scans(sessions["planner"], SITUATION, one)) == [
        Scan("agent_snapshots_pkey", 1),
        Scan("mission_snapshots_pkey", 1),
    ]
    linked = {"apps": ["notes"] * 2, "tables": ["notes"] * 2, "ids": ["r1", "r3"]}
    records = scans(sessions["planner"], query("planner/input_records"), {"user_id": ONE} | linked)
    assert records == [Scan("record_snapshots_pkey", 2)]


DOCUMENTED = (
    ("reader", READS["the records of a table for a user"][2], {"user_id": ONE}),
    ("planner", DUE, DUE_OF),
    ("planner", NEXT_DUE, None),
)
"""The statements of the plans in docs/views.md, in their order."""


def test_the_documentation_shows_the_plans_as_they_are(sessions):
    if sessions["planner"].info.server_version // 10_000 != 18:
        pytest.skip("other versions word their plans otherwise")
    page = (Path(__file__).parents[2] / "docs" / "views.md").read_text()
    section = page.partition("### What a read costs")[2].partition("\n## ")[0]
    shown = re.findall(r"^```\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    explain = sql.SQL("explain (analyze, costs off, timing off, summary off, buffers off) ")
    for (role, statement, parameters), excerpt in zip(DOCUMENTED, shown, strict=True):
        plan = sessions[role].execute(explain + sql.SQL(statement), parameters).fetchall()
        assert _unindented(excerpt.splitlines()) in _unindented(line for (line,) in plan)


def _unindented(lines: Iterable[str]) -> str:
    return "\n".join(line.strip() for line in lines)
