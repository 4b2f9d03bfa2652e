"""The parser, on bytes that a real server sends."""

from __future__ import annotations

import psycopg
import pytest

from projector.cdc.pgoutput import (
    Begin,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Missing,
    Origin,
    Relation,
    Truncate,
    Type,
    Update,
    parse,
)


@pytest.fixture
def conn(database):
    with psycopg.connect(database.admin_url, autocommit=True) as conn:
        yield conn


def capture(conn, database, *statements: str) -> list:
    """What pgoutput makes of the statements, each a transaction of its own."""
    conn.execute("create publication everything for all tables")
    conn.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [database.name])
    for statement in statements:
        conn.execute(statement)
    messages = conn.execute(
        "select data from pg_logical_slot_get_binary_changes(%s, null, null,"
        " 'proto_version', '1', 'publication_names', 'everything', 'messages', 'true')",
        [database.name],
    )
    return [parse(bytes(data)) for (data,) in messages]


def test_rows_of_every_kind(conn, database) -> None:
    conn.execute("create type mood as enum ('fine', 'gone')")
    conn.execute("create table things (id int primary key, feeling mood, body text)")
    conn.execute("alter table things alter body set storage external")
    conn.execute("insert into things values (1, null, repeat('x', 10000))")
    found = capture(
        conn,
        database,
        "insert into things values (2, 'fine', null)",
        "update things set feeling = 'gone' where id = 1",
        "update things set id = 3 where id = 2",
        "delete from things where id = 3",
        "truncate things restart identity cascade",
    )
    kinds = [type(message) for message in found]
    assert kinds.count(Begin) == kinds.count(Commit) == 5
    (kind,) = {m for m in found if isinstance(m, Type)}
    assert (kind.namespace, kind.name) == ("public", "mood")
    relation = next(m for m in found if isinstance(m, Relation))
    assert [(c.name, c.in_key) for c in relation.columns] == [("id", True), ("feeling", False), ("body", False)]
    assert relation.replica_identity == "d"
    (insert,) = [m for m in found if isinstance(m, Insert)]
    assert insert.new == (b"2", b"fine", None)
    first, second = [m for m in found if isinstance(m, Update)]
    assert first.old is None
    assert first.new == (b"1", b"gone", Missing.UNCHANGED_TOAST)
    assert second.key_only
    assert second.old == (b"2", None, None)
    (delete,) = [m for m in found if isinstance(m, Delete)]
    assert delete == Delete(relation.id, (b"3", None, None), True)
    (truncate,) = [m for m in found if isinstance(m, Truncate)]
    assert truncate == Truncate((relation.id,), True, True)


def test_messages_and_origins(conn, database) -> None:
    conn.execute("create table things (id int primary key)")
    conn.execute("select pg_replication_origin_create(%s)", [f"upstream_{database.name}"])
    try:
        conn.execute("select pg_replication_origin_session_setup(%s)", [f"upstream_{database.name}"])
        found = capture(
            conn,
            database,
            "select pg_logical_emit_message(true, 'mission.due', '{}')",
            "select pg_logical_emit_message(false, 'at once', 'x')",
            "insert into things values (1)",
        )
        conn.execute("select pg_replication_origin_session_reset()")
    finally:
        conn.execute("select pg_replication_origin_drop(%s)", [f"upstream_{database.name}"])
    messages = [m for m in found if isinstance(m, LogicalMessage)]
    assert [(m.transactional, m.prefix, m.content) for m in messages] == [
        (True, "mission.due", b"{}"),
        (False, "at once", b"x"),
    ]
    assert {m.name for m in found if isinstance(m, Origin)} == {f"upstream_{database.name}"}


def test_begin_and_commit_name_the_same_commit_and_its_end(conn, database) -> None:
    conn.execute("create table things (id int primary key)")
    begin, *_, commit = capture(conn, database, "insert into things values (1)")
    assert begin.commit_lsn == commit.commit_lsn < commit.end_lsn
    assert begin.commit_time == commit.commit_time
