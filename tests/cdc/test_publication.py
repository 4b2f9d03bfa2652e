"""Publication and replica identity: prepared once, following the settings, and checked."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from projector.cdc.checks import check_source
from projector.cdc.publication import IDENTITY_INDEX, apps_of, prepare_source, read_publication
from tests.cdc.support import running
from tests.fixtures.settings import drop_slot


@pytest.fixture
def conn(settings):
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        yield conn


def test_the_publication_filters_on_the_apps_and_leaves_out_updates(settings, conn) -> None:
    published = read_publication(conn, settings.publication_name)
    assert published is not None
    assert apps_of(published.row_filter) == {"ai", "notes"}
    assert published[1:-1] == (True, True, True, False, 1)


def test_preparing_the_source_again_changes_nothing_and_follows_the_apps(settings, conn) -> None:
    before = conn.execute("select oid, xmin from pg_publication").fetchall()
    prepare_source(conn, settings)
    assert conn.execute("select oid, xmin from pg_publication").fetchall() == before
    for apps in (("ai",), ("ai", "todo", "x.y-z_0")):
        prepare_source(conn, settings.model_copy(update={"apps": apps}))
        published = read_publication(conn, settings.publication_name)
        assert published is not None
        assert apps_of(published.row_filter) == set(apps)


def test_a_login_that_does_not_own_the_log_publishes_inserts_alone(settings, conn, database) -> None:
    name = settings.slot_name
    role = sql.Identifier(f"other_{name}")
    conn.execute(sql.SQL("drop publication {}").format(sql.Identifier(settings.publication_name)))
    conn.execute(sql.SQL("alter table sync_changes replica identity default"))
    conn.execute(sql.SQL("create role {} login").format(role))
    try:
        conn.execute(sql.SQL("grant create on database {} to {}").format(sql.Identifier(database.name), role))
        conn.execute(sql.SQL("set role {}").format(role))
        # Postgres lets only an owner add a table to a publication, so even that is refused, with its remedy.
        with pytest.raises(Exception, match="may not prepare the publication"):
            prepare_source(conn, settings)
    finally:
        conn.execute("reset role")
        conn.execute(sql.SQL("drop owned by {}").format(role))
        conn.execute(sql.SQL("drop role {}").format(role))


def whats(conn, settings) -> str:
    return "\n".join(f"{f.severity}: {f.what}" for f in check_source(conn, settings))


async def test_a_prepared_source_has_only_the_usual_warnings(settings, conn) -> None:
    found = check_source(conn, settings)
    assert {f.severity for f in found} <= {"warning"}
    assert "no replication slot" in whats(conn, settings)
    async with running(settings):
        assert "no replication slot" not in whats(conn, settings)
    assert all("\n" not in f.what + f.remedy and f.remedy for f in found)


def test_every_fault_of_the_source_is_found_by_name(settings, conn) -> None:
    publication = f"alter publication {settings.publication_name} set"
    faults = {
        "alter table sync_changes replica identity default": "error: the replica identity",
        "alter table sync_changes replica identity full": "error: sync_changes has REPLICA IDENTITY FULL",
        f"alter table sync_changes replica identity using index {IDENTITY_INDEX}": "",
        f"{publication} table sync_changes where (app_id <> 'x')": "row filter of its own",
        f"{publication} table sync_changes where (app_id = 'ai')": "leaves out apps of PROJECTOR_APPS: notes",
        f"{publication} (publish = 'insert, update')": "publishes updates",
        f"drop publication {settings.publication_name}": "error: there is no publication",
        "revoke select on sync_changes from projector_cdc": "error: projector_cdc may not read",
        "alter table sync_changes rename to elsewhere": "error: this database has no table sync_changes",
    }
    for statement, expected in faults.items():
        conn.execute(statement)
        assert expected in whats(conn, settings)


def test_a_login_without_replication_is_named_with_its_remedy(settings, conn, database) -> None:
    broken = settings.model_validate({**settings.model_dump(), "replication_url": database.logins.sync})
    (finding,) = [f for f in check_source(conn, broken) if "replicate" in f.what]
    assert finding.severity == "error"
    assert finding.remedy == 'alter role "sync_server" replication'


async def test_a_dropped_slot_is_found(settings, conn) -> None:
    async with running(settings):
        pass
    drop_slot(conn, settings.slot_name)
    assert f"warning: the replication slot {settings.slot_name} was dropped" in whats(conn, settings)
