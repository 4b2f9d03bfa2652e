"""No role of the streams that serves one user at a time sees or changes another's rows, in any table of ours.

The tables are those that the catalogue has: a new one with a `user_id` is held to the same without being named here.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.rows import dict_row

from projector.sql.connection import CONTENT_ROLE, STREAM_ROLES, connect, connect_sync
from projector.views.declared import VIEWS
from tests.fixtures.settings import login_in, settings_for
from tests.views.log import row, running

CROSSING = {"projector_cdc", "projector_engine", "projector_planner"}
"""Roles that work for all users. Whoever else reads is bound to the user it names."""
ONE_USER = sorted({*STREAM_ROLES, CONTENT_ROLE} - CROSSING)

SHOWN = {*(view.table for view in VIEWS.values()), "mission_iteration_list"}
"""What readers name: what shows the serving generation of each view, and what lists of it."""

TENANTS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12
) | st.sampled_from(["u1", "U1", "u1 ", "%", "_", "u1,u2", "'or''='", "null", "ü", "u\u0308"])

ONE_A_USER = {"user_zones"}

# What columns need whose values are not free; others that must have one are filled by their types.
VALUES: dict[tuple[str, str], Any] = {
    ("cdc_fills", "reason"): "app",
    # What lists iterations shows a row for each.
    **{(f"mission_iterations_{generation}", "record"): '{"iterations": [{}]}' for generation in (1, 2)},
    ("run_steps", "kind"): "llm",
    ("sync_changes", "op"): "insert",
}
BY_TYPE: dict[str, Any] = {
    "text[]": [],
    "xid8": "3",
    "boolean": False,
    "bytea": bytes(32),
    "integer": 1,
    "bigint": 1,
    "jsonb": "{}",
    "pg_lsn": "0/1",
    "timestamp with time zone": "2026-06-01T10:00:00Z",
}


@dataclass(frozen=True)
class Table:
    """A relation with a `user_id`; `columns` are (name, type) of those that an insert has to fill."""

    name: sql.Identifier
    relname: str
    kind: str
    protected: bool
    columns: tuple[tuple[str, str], ...]

    @property
    def stored(self) -> bool:
        return self.kind in "rp"

    def rows(self, many: int) -> int:
        """How many of so many rows of one user it can hold."""
        return min(many, 1) if self.relname in ONE_A_USER else many


def tables(conn: psycopg.Connection[Any]) -> list[Table]:
    """Every relation of schema mana_ai with a `user_id`, and the log."""
    rows = conn.execute(
        "select n.nspname, c.relname, c.relkind::text, case when c.relkind in ('r', 'p')"
        "   then c.relrowsecurity and c.relforcerowsecurity"
        "   else coalesce('security_invoker=true' = any (c.reloptions), false) and c.relkind = 'v' end,"
        " (select array_agg(array[attname, format_type(atttypid, null)])"
        "  from pg_attribute where attrelid = c.oid and attnum > 0 and not attisdropped"
        "   and (attnotnull and not atthasdef and attidentity = '' or attname = 'user_id'))"
        " from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where (nspname = 'mana_ai' or c.oid = 'sync_changes'::regclass) and c.relkind in ('r', 'p', 'v', 'm', 'f')"
        " and exists (select from pg_attribute where attrelid = c.oid and attname = 'user_id' and not attisdropped)"
        " order by 2"
    ).fetchall()
    return [
        Table(sql.Identifier(schema, name), name, kind, protected, tuple((c, t) for c, t in columns))
        for schema, name, kind, protected, columns in rows
    ]


class World:
    """A migrated database, an admin who stores rows, and a session of each role as the streams have it."""

    def __init__(self, admin: psycopg.Connection[Any], sessions: dict[str, psycopg.Connection[Any]]) -> None:
        self.admin = admin
        self.sessions = sessions
        self.tables = tables(admin)
        reader = (sessions or {CONTENT_ROLE: admin})[CONTENT_ROLE]
        row = reader.execute("select session_user").fetchone()
        self.reader: str = row[0] if row else ""
        self._numbers = count(1)

    def rights(self, role: str, table: Table) -> set[str]:
        """What `role` may do to rows of `table`: all of a row or some of it, but `select` only whose it is."""
        asked = (
            "select has_column_privilege(%(role)s, %(table)s, 'user_id', 'select') as select,"
            " has_any_column_privilege(%(role)s, %(table)s, 'insert') as insert,"
            " has_any_column_privilege(%(role)s, %(table)s, 'update') as update,"
            " has_table_privilege(%(role)s, %(table)s, 'delete') as delete"
        )
        cursor = self.admin.cursor(row_factory=dict_row)
        row = cursor.execute(asked, {"role": role, "table": table.name.as_string(self.admin)}).fetchone()
        return {right for right, has in (row or {}).items() if has}

    def store(self, rows: dict[str, int]) -> None:
        """Gives each user so many rows in every table, and nobody else any."""
        with self.admin.transaction():
            # Parents that are none of a user's are left out.
            self.admin.execute("set local session_replication_role = replica")
            for table in filter(lambda table: table.stored, self.tables):
                self.admin.execute(sql.SQL("delete from {}").format(table.name))
                for user, many in rows.items():
                    for number in range(table.rows(many)):
                        self._insert(table, user, number)

    def _insert(self, table: Table, user: str, number: int) -> None:
        def value(name: str, kind: str) -> Any:
            if name == "user_id":
                return user
            if (table.relname, name) == ("content_reads", "reader"):
                return self.reader
            if (table.relname, name) in VALUES:
                return VALUES[table.relname, name]
            if kind == "uuid":
                return uuid5(NAMESPACE_OID, f"{user}/{number}/{name}")
            if kind == "text":
                return f"{name}-{number}"
            # Some numbers are part of a place, and no two rows have the same.
            return next(self._numbers) if kind in ("integer", "bigint") and name in ("ord", "offset") else BY_TYPE[kind]

        values = {name: value(name, kind) for name, kind in table.columns}
        self.admin.execute(
            sql.SQL("insert into {} ({}) values ({})").format(
                table.name,
                sql.SQL(", ").join(map(sql.Identifier, values)),
                sql.SQL(", ").join(sql.Placeholder() * len(values)),
            ),
            list(values.values()),
        )


@pytest.fixture(scope="module")
def world(stack, template):
    with ExitStack() as opened:
        database = opened.enter_context(template.copy())
        used = settings_for(stack, database)
        admin = opened.enter_context(psycopg.connect(database.admin_url, autocommit=True))
        of_reader = opened.enter_context(login_in(used, CONTENT_ROLE))
        sessions = {role: opened.enter_context(connect_sync(used, role)) for role in STREAM_ROLES}
        sessions[CONTENT_ROLE] = opened.enter_context(connect_sync(of_reader, CONTENT_ROLE))
        yield World(admin, sessions)


def test_every_table_with_a_user_is_under_forced_row_level_security(world):
    assert {table.relname for table in world.tables} >= {"dead_letters", "mission_runs", "sync_changes"}
    assert [table.relname for table in world.tables if not table.protected] == []


@pytest.mark.parametrize(
    "statement",
    [
        "create table mana_ai.mine (user_id text)",
        "create table mana_ai.mine (user_id text); alter table mana_ai.mine enable row level security",
        "create view mana_ai.mine as select * from mana_ai.mission_runs",
        "create materialized view mana_ai.mine as select * from mana_ai.mission_runs",
    ],
)
def test_a_table_that_is_not_is_noticed(world, statement):
    with world.admin.transaction(force_rollback=True):
        world.admin.execute(statement)
        assert [table.relname for table in tables(world.admin) if not table.protected] == ["mine"]


def test_no_role_that_serves_one_user_may_pass_by_row_level_security_or_become_another(world):
    roles = "select rolname from pg_roles where rolname = any (%s) and (rolsuper or rolbypassrls)"
    assert world.admin.execute(roles, [ONE_USER]).fetchall() == []
    superusers = "select rolname from pg_roles where rolname = any (%s) and rolsuper"
    assert world.admin.execute(superusers, [[*STREAM_ROLES]]).fetchall() == []
    member = "select a, b from unnest(%s::text[]) a, unnest(%s::text[]) b where a <> b and pg_has_role(a, b, 'member')"
    assert world.admin.execute(member, [ONE_USER, list(STREAM_ROLES)]).fetchall() == []


def test_what_names_users_without_being_theirs_is_closed_to_roles_that_serve_one_user(world):
    """How far a run has come, and what it found: no policy could tell whose it is."""
    named = world.admin.execute(
        "select distinct c.oid::regclass::text from pg_attribute join pg_class c on c.oid = attrelid"
        " where c.relnamespace = 'mana_ai'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f')"
        " and attname ~ 'user' and not exists"
        " (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'user_id')"
    ).fetchall()
    tables = {table for (table,) in named}
    assert tables == {"mana_ai.verify_runs", "mana_ai.view_rebuilds"}
    walls = "select oid::regclass::text from pg_class where relrowsecurity and relforcerowsecurity"
    assert tables <= {table for (table,) in world.admin.execute(walls).fetchall()}
    may = "select r, t from unnest(%s::text[]) r, unnest(%s::text[]) t where has_any_column_privilege(r, t, 'select')"
    assert world.admin.execute(may, [ONE_USER, list(tables)]).fetchall() == []


@settings(max_examples=12)
@given(rows=st.dictionaries(TENANTS, st.integers(0, 2), min_size=2, max_size=3))
def test_a_role_that_serves_one_user_reads_exactly_that_users_rows(world, rows):
    world.store(rows)
    read = set()
    for role in ONE_USER:
        conn = world.sessions[role]
        for table in world.tables:
            select = sql.SQL("select user_id from {}").format(table.name)
            if "select" not in world.rights(role, table):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    conn.execute(select)
                continue
            read.add(re.sub(r"_[12]$", "", table.relname))
            for user in [*rows, "stranger", ""]:
                conn.execute("select set_config('app.current_user_id', %s, false)", [user])
                seen = [found for (found,) in conn.execute(select).fetchall()]
                assert seen == [user] * table.rows(rows.get(user, 0)), (role, table.relname)
            conn.execute("reset app.current_user_id")
            assert conn.execute(select).fetchall() == [], (role, table.relname)
    assert read >= {*SHOWN, "mission_runs", "run_steps"}


async def test_records_of_one_name_of_two_users_and_of_two_apps_are_different_records(log):
    places = [
        *(("ai", "aiMissions", "mission_snapshots"), ("ai", "agents", "agent_snapshots")),
        *(("ai", "notes", "record_snapshots"), ("notes", "notes", "record_snapshots")),
    ]
    await log.write(
        [
            row("insert", "x", 1, {"of": [user, app]}, user_id=user, app_id=app, table=table, space_id="shared")
            for user in ("u1", "u2")
            for app, table, _ in places
        ]
    )
    async with running(log.settings):
        await log.caught_up()
    async with await connect(log.settings, "projector_reader") as reader:
        for user in ("u1", "u2"):
            await reader.execute("select set_config('app.current_user_id', %s, false)", [user])
            for shown in {shown for _, _, shown in places}:
                found = await reader.execute(f"select record -> 'of' from mana_ai.{shown} order by 1")  # noqa: S608
                expected = [([user, app],) for app, _, named in places if named == shown]
                assert await found.fetchall() == expected


def test_a_role_that_serves_one_user_changes_that_users_rows_alone(world):
    rows = {"u1": 2, "u2": 3}
    world.store(rows)
    changing = set()
    for role in ONE_USER:
        conn = world.sessions[role]
        conn.execute("select set_config('app.current_user_id', 'u1', false)")
        for table in world.tables:
            for right in world.rights(role, table) - {"select"}:
                changing.add((role, right, table.relname))
                if right == "update":
                    _updates_its_own(conn, table)
                elif right == "insert":
                    _inserts_its_own(conn, world, table)
                elif right == "delete":
                    _deletes_its_own(conn, table)
                else:
                    pytest.fail(f"{role} may {right} rows of {table.relname}: say here what must hold")
    assert changing >= {("projector_sink", "insert", "sync_changes"), ("projector_sink", "update", "mission_runs")}


def _updates_its_own(conn: psycopg.Connection[Any], table: Table) -> None:
    update = sql.SQL("update {} set user_id = {}")
    with conn.transaction(force_rollback=True):
        mine = conn.execute(update.format(table.name, sql.SQL("user_id returning user_id"))).fetchall()
        assert mine == [("u1",)] * 2
    # Reads nothing, so only the policy that checks what is written stands in its way.
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        conn.execute(update.format(table.name, sql.Literal("u2")))


def _deletes_its_own(conn: psycopg.Connection[Any], table: Table) -> None:
    with conn.transaction(force_rollback=True):
        # Reads nothing, so only the policy of deletions stands in its way.
        assert conn.execute(sql.SQL("delete from {}").format(table.name)).rowcount == 2


def _inserts_its_own(conn: psycopg.Connection[Any], world: World, table: Table) -> None:
    writer = World(conn, {})
    with conn.transaction(force_rollback=True):
        writer._insert(table, "u1", 7)
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        writer._insert(table, "u2", 7)


def test_the_planner_reads_the_missions_of_all_and_nothing_of_the_log(world):
    world.store({"u1": 1, "u2": 1})
    planner = world.sessions["projector_planner"]
    for table in world.tables:
        select = sql.SQL("select user_id from {} order by 1").format(table.name)
        if table.relname.startswith("record_snapshots"):
            # What missions link is read as their user, and in no other way.
            assert planner.execute(select).fetchall() == [], table.relname
            with planner.transaction():
                planner.execute("select set_config('app.current_user_id', 'u1', true)")
                assert planner.execute(select).fetchall() == [("u1",)], table.relname
        elif "select" in world.rights("projector_planner", table):
            assert planner.execute(select).fetchall() == [("u1",), ("u2",)], table.relname
        else:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                planner.execute(select)
    readable = {t.relname for t in world.tables if "select" in world.rights("projector_planner", t)}
    assert readable >= {*SHOWN, "mission_runs"}
    assert not readable & {"sync_changes", "dead_letters", "cdc_dead_letters", "cdc_fills", "cdc_fill_rows"}
