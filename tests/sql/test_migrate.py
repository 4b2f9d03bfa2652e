"""Migrations as they are applied: once, whole or not at all, by one process at a time, and by no older program."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql

from projector.embedded.database import create_log
from projector.sql import migrate as module
from projector.sql.connection import STREAM_ROLES
from projector.sql.migrate import (
    Migration,
    MigrationChangedError,
    NewerDatabaseError,
    compare,
    grant_login,
    migrate,
    migrations,
)
from tests.fixtures.settings import drop_database

NAME = "to_migrate"


@pytest.fixture
def url(stack, template):
    """A database with the log alone; `template` has made the cluster's roles, as any earlier database has."""
    created = stack.create_database(NAME)
    create_log(created)
    yield created
    drop_database(stack.admin_url, NAME)


@pytest.fixture
def conn(url):
    with psycopg.connect(url, autocommit=True) as opened:
        yield opened


def applied(conn):
    rows = conn.execute("select number, checksum from mana_ai.schema_migrations order by number").fetchall()
    return [(migration.number, migration.checksum) for migration in migrations()], rows


def of_ours(monkeypatch, found):
    monkeypatch.setattr(module, "migrations", lambda: found)


def test_twice_applies_once(conn):
    assert migrate(conn) == migrations()
    expected, rows = applied(conn)
    assert rows == expected
    assert migrate(conn) == []
    assert applied(conn) == (expected, rows)


def test_agents_of_runs_are_cut_by_an_owner_who_is_under_row_security_himself(conn, monkeypatch):
    every = migrations()
    of_ours(monkeypatch, [migration for migration in every if migration.number < 25])
    migrate(conn)
    conn.execute(
        "insert into mana_ai.mission_runs (run_id, iteration_id, user_id, mission_id, due_at, agent_id)"
        " select gen_random_uuid(), gen_random_uuid(), 'u', length(name)::text, now(), name"
        " from (values (repeat('x', 256)), (repeat('ä', 257))) as agents (name)"
    )
    (cutting,) = (migration for migration in every if migration.number == 25)
    with conn.transaction(force_rollback=True):
        conn.execute("create role plain_owner; grant usage, create on schema mana_ai to plain_owner")
        conn.execute("alter table mana_ai.mission_runs owner to plain_owner; set local role plain_owner")
        conn.execute(cutting.text)
        conn.execute("reset role")
        agents = conn.execute("select agent_id from mana_ai.mission_runs order by mission_id").fetchall()
        forced = conn.execute(
            "select relforcerowsecurity from pg_class where oid = 'mana_ai.mission_runs'::regclass"
        ).fetchone()
    assert agents == [("x" * 256,), ("ä" * 256,)]
    assert forced == (True,)


def test_what_an_admin_may_not_give_is_told_and_the_rest_is_given(conn):
    migrate(conn)
    roles = sql.SQL(", ").join(map(sql.Identifier, STREAM_ROLES))
    conn.execute("create role modest_admin createrole; create role plain_login login noreplication")
    try:
        conn.execute(sql.SQL("grant {} to modest_admin with admin option").format(roles))
        conn.execute("grant plain_login to modest_admin with admin option")
        conn.execute(f"revoke temporary on database {NAME} from public")
        conn.execute("set role modest_admin")
        replication, temporary = grant_login(conn, "plain_login")
        conn.execute("reset role")
        entered = conn.execute(
            "select roleid::regrole::text from pg_auth_members where member = 'plain_login'::regrole"
        ).fetchall()
    finally:
        conn.execute("reset role")
        conn.execute("drop role plain_login, modest_admin")
    assert sorted(role for (role,) in entered) == sorted(STREAM_ROLES)
    assert "may not give plain_login REPLICATION" in replication.what
    assert replication.remedy.startswith('alter role "plain_login" replication, as a superuser')
    assert temporary.remedy.startswith(f'grant temporary on database "{NAME}" to projector_cdc, as the owner')


def _in_a_process(url, start, outcomes):
    try:
        with psycopg.connect(url, autocommit=True) as conn:
            start.wait(30)
            outcomes.put([migration.number for migration in migrate(conn)])
    except psycopg.Error as error:
        outcomes.put([str(error)])


def test_two_processes_at_once_apply_each_migration_once(url, conn):
    context = multiprocessing.get_context("spawn")
    start, outcomes = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_in_a_process, args=(url, start, outcomes)) for _ in range(2)]
    for process in processes:
        process.start()
    done = [outcomes.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert sorted(done) == [[], [migration.number for migration in migrations()]]
    expected, rows = applied(conn)
    assert rows == expected


@pytest.mark.parametrize("failing", ["select 1 / 0", "alter table mana_ai.schema_migrations rename to elsewhere"])
def test_one_that_fails_leaves_nothing_and_the_next_time_goes_on_from_there(conn, monkeypatch, failing):
    ours = migrations()
    broken = Migration(9001, "broken", f"create table mana_ai.half (a int); {failing}")
    last = Migration(9002, "last", "create table mana_ai.rest (a int)")
    of_ours(monkeypatch, [*ours, broken, last])
    with pytest.raises((psycopg.errors.DivisionByZero, psycopg.errors.UndefinedTable)):
        migrate(conn)
    tables = "select to_regclass('mana_ai.half'), to_regclass('mana_ai.rest')"
    assert conn.execute(tables).fetchone() == (None, None)
    assert [migration.number for migration in compare(conn).missing] == [9001, 9002]
    mended = replace(broken, text="create table mana_ai.half (a int)")
    of_ours(monkeypatch, [*ours, mended, last])
    assert migrate(conn) == [mended, last]
    assert conn.execute(tables).fetchone() == ("mana_ai.half", "mana_ai.rest")


def test_an_edited_one_is_refused_and_nothing_is_applied(conn, monkeypatch):
    ours = migrations()
    migrate(conn)
    edited = replace(ours[2], text=f"{ours[2].text} ")
    of_ours(monkeypatch, [*ours[:2], edited, *ours[3:], Migration(9001, "later", "create table mana_ai.x ()")])
    with pytest.raises(MigrationChangedError, match=f"migration {edited} differs"):
        migrate(conn)
    assert conn.execute("select to_regclass('mana_ai.x')").fetchone() == (None,)


def test_a_program_older_than_the_database_is_refused(conn, monkeypatch):
    ours = migrations()
    migrate(conn)
    of_ours(monkeypatch, ours[:-1])
    with pytest.raises(NewerDatabaseError, match=str(ours[-1])):
        migrate(conn)
