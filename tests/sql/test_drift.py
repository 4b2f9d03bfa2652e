"""What was changed by hand since the last migration: each is named, and the remedy mends it."""

from __future__ import annotations

import psycopg
import pytest

from projector.sql import drift
from projector.sql import migrate as module
from projector.sql.connection import connect
from projector.sql.drift import differences
from projector.sql.migrate import Migration, SchemaDriftError, migrate, migrations

# A table of a view, with its index.
TABLE, INDEX = "mission_snapshots_1", "mission_snapshots_due"

CHANGES = {
    "a column dropped": ("alter table mana_ai.dead_letters drop column attempts", "column attempts"),
    "a column of another type": ("alter table mana_ai.dead_letters alter reason type varchar", "column reason"),
    "a column that may be null": ("alter table mana_ai.token_usage alter ts drop not null", "column ts"),
    "a column without its default": ("alter table mana_ai.token_usage alter ts drop default", "column ts"),
    "a column added": (f"alter table mana_ai.{TABLE} add column mine int", "column mine"),
    "an index dropped": ("drop index mana_ai.dead_letters_user", "index dead_letters_user"),
    "an index of other columns": (
        "drop index mana_ai.dead_letters_user; create index dead_letters_user on mana_ai.dead_letters (user_id)",
        "index dead_letters_user",
    ),
    "an index without its condition": (
        f"drop index mana_ai.{INDEX}; create index {INDEX} on mana_ai.{TABLE} (next_run_at)",
        f"index {INDEX}",
    ),
    "a constraint dropped": (
        "alter table mana_ai.run_steps drop constraint only_answers_cost",
        "constraint only_answers",
    ),
    "row security disabled": (f"alter table mana_ai.{TABLE} disable row level security", f"row security {TABLE}"),
    "row security of what names users": (
        "alter table mana_ai.view_rebuilds disable row level security",
        "row security view_rebuilds",
    ),
    "row security not forced": ("alter table mana_ai.dead_letters no force row level security", "row security dead"),
    "a policy dropped": (f"drop policy own_rows on mana_ai.{TABLE}", "policy own_rows"),
    "a policy for everyone": (f"alter policy own_rows on mana_ai.{TABLE} to public", "policy own_rows"),
    "a policy that lets all rows pass": (f"alter policy own_rows on mana_ai.{TABLE} using (true)", "policy own_rows"),
    "a policy added": (f"create policy mine on mana_ai.{TABLE} using (true)", "policy mine"),
    "a right taken": (f"revoke update on mana_ai.{TABLE} from projector_engine", f"{TABLE} to projector_engine"),
    "a right given": ("grant delete on mana_ai.mission_runs to projector_sink", "mission_runs to projector_sink"),
    "a right for everyone": ("grant select on mana_ai.mission_runs to public", "mission_runs to public"),
    "a right to a column": ("grant update (state) on mana_ai.mission_runs to public", "mission_runs (state) to public"),
    "a right to the log taken": ("revoke insert on sync_changes from projector_sink", "sync_changes to projector_sink"),
    "a right to the schema taken": ("revoke usage on schema mana_ai from projector_cdc", "mana_ai to projector_cdc"),
    "a function changed": (
        "create or replace function mana_ai.fold_path(key text) returns text[] language sql immutable strict"
        " parallel safe as 'select array[key]'",
        "function mana_ai.fold_path",
    ),
    "a function that runs as its owner": ("alter function mana_ai.fold_path security definer", "function mana_ai.fold"),
    "a function that everybody lost": (
        "revoke execute on function mana_ai.fold_path from public",
        "grant function mana_ai.fold_path(key text) to public",
    ),
    "a trigger added": (
        "create trigger mine before update on mana_ai.mission_runs for each row"
        " execute function suppress_redundant_updates_trigger()",
        "trigger mine",
    ),
    "a table added": ("create table mana_ai.mine (a int primary key)", "table mine"),
    "a table dropped": ("drop table mana_ai.token_usage", "table token_usage"),
    "a role that crosses users": ("alter role projector_reader bypassrls", "role projector_reader"),
    "a role that is another one too": ("grant projector_engine to projector_reader", "projector_engine to projector_r"),
}
BY_HAND = {
    *("a table dropped", "a function changed", "a function that runs as its owner"),
    *("a column of another type", "a column that may be null", "a column without its default"),
}
"""Changes whose remedy is told in words: data, or a text that is too long."""


@pytest.fixture
def conn(database):
    with psycopg.connect(database.admin_url, autocommit=True) as opened:
        yield opened


def test_a_migrated_schema_has_not_drifted(conn):
    assert drift.is_recorded(conn)
    assert differences(conn) == []


@pytest.fixture(scope="module")
def shared(template):
    """One database for all changes: each is rolled back, as roles belong to the cluster anyway."""
    with template.copy() as copied, psycopg.connect(copied.admin_url, autocommit=True) as opened:
        yield opened


@pytest.mark.parametrize("change", CHANGES)
def test_it_is_named_alone_and_its_remedy_mends_it(shared, change):
    conn, (statement, named) = shared, CHANGES[change]
    with conn.transaction(force_rollback=True):
        conn.execute(statement)
        [found] = differences(conn)
        assert named in str(found)
        if change not in BY_HAND:
            conn.execute(found.remedy)
            assert differences(conn) == []


async def test_the_table_of_a_session_is_none(settings, conn):
    async with await connect(settings, "projector_engine") as engine:
        await engine.execute(f"create temporary table incoming (like mana_ai.{TABLE})")
        assert differences(conn) == []


def test_nothing_is_applied_to_a_changed_schema_until_that_is_mended_or_accepted(conn, monkeypatch):
    more = Migration(9001, "more", "create table mana_ai.more (a int)")
    monkeypatch.setattr(module, "migrations", lambda ours=migrations(): [*ours, more])  # noqa: B008
    conn.execute("drop index mana_ai.dead_letters_user")
    with pytest.raises(SchemaDriftError, match="index dead_letters_user of mana_ai"):
        migrate(conn)
    assert conn.execute("select to_regclass('mana_ai.more')").fetchone() == (None,)
    assert migrate(conn, accept_drift=True) == [more]
    assert differences(conn) == []


def test_migrating_again_hides_no_change_unless_told_to(conn):
    conn.execute("drop index mana_ai.dead_letters_user")
    assert migrate(conn) == []
    assert len(differences(conn)) == 1
    assert migrate(conn, accept_drift=True) == []
    assert differences(conn) == []


def test_another_versions_record_is_not_compared_but_written_anew(conn):
    conn.execute("update mana_ai.schema_objects set definition = 'another' where kind = 'listing'")
    assert not drift.is_recorded(conn)
    migrate(conn)
    assert drift.is_recorded(conn)


def test_a_migration_that_fails_leaves_the_record_as_it_was(conn, monkeypatch):
    broken = Migration(9001, "broken", "create table mana_ai.half (a int); select 1 / 0")
    monkeypatch.setattr(module, "migrations", lambda ours=migrations(): [*ours, broken])  # noqa: B008
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate(conn)
    assert differences(conn) == []
