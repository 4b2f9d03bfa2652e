"""What users wrote is read with a right of the database's, and never without a trace of who read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from projector.config import Settings
from projector.sql.connection import CONTENT_ROLE, connect_sync
from tests.cli.in_process import read
from tests.cli.test_runs import BRIEF, DUE, LLM, PLAN, PRIVATE, Book
from tests.fixtures.settings import login_in

CANCELLED = {"state": "cancelled", "decision": "d", "reason": "r", "started_at": DUE, "next_attempt_at": None}
READABLE = (("mission_runs", "brief ->> 'user'"), ("run_steps", "response ->> 'content'"))


@pytest.fixture
def book(settings: Settings, capsys: pytest.CaptureFixture[str]) -> Iterator[Book]:
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        yield Book(settings, conn, capsys)


def planned(book: Book, number: int, user: str = "u1") -> str:
    run_id = book.add(number, **CANCELLED, plan=PLAN, planned_at=DUE, brief=BRIEF, user_id=user)
    book.add_step(run_id, 1, "llm", LLM)
    book.admin.execute("update mana_ai.run_steps set user_id = %s where run_id = %s", [user, run_id])
    return run_id


def noted(book: Book) -> list[tuple[Any, ...]]:
    return book.admin.execute(
        "select user_id, run_id, reader, read_at > now() - interval '1 minute' from mana_ai.content_reads order by id"
    ).fetchall()


def seen(conn: psycopg.Connection[Any]) -> list[tuple[UUID, str]]:
    return [
        row
        for table, value in READABLE
        for row in conn.execute(f"select run_id, {value} from mana_ai.{table} order by 1").fetchall()  # noqa: S608
    ]


def test_content_is_refused_to_a_login_without_the_right_which_is_named_with_its_grant(book: Book) -> None:
    one, other = planned(book, 1), planned(book, 2)
    for words in (("show", one), ("diff", one, other), ("replay", one)):
        told = book.read(*words, "--content", status=1)
        assert (
            "the login projector may not read what users wrote: it is no member of the role projector_content" in told
        )
        assert 'grant projector_content to "projector"' in " ".join(told.split())
        assert PRIVATE not in told
    dry = read(book.settings, book.capsys, "runs", "plan", "u1", "m1", "--plan-only", "--content", status=1)
    assert "no member of the role projector_content" in dry
    assert noted(book) == []


def test_who_may_read_content_leaves_its_name_for_each_run_that_it_read(book: Book) -> None:
    one, other = planned(book, 1), planned(book, 2, "u2")
    book.admin.execute('update mana_ai.mission_runs set plan = plan || \'{"summary": "s"}\' where run_id = %s', [other])
    with login_in(book.settings, "projector_planner", "projector_content") as of_reader:
        login = psycopg.conninfo.conninfo_to_dict(of_reader.require_database())["user"]
        assert PRIVATE in read(of_reader, book.capsys, "runs", "show", one, "--content")
        read(of_reader, book.capsys, "runs", "show", one)
        assert noted(book) == [("u1", UUID(one), login, True)]
        read(of_reader, book.capsys, "runs", "diff", one, other, "--content", status=1)
    assert noted(book)[1:] == [("u1", UUID(one), login, True), ("u2", UUID(other), login, True)]


def test_the_database_shows_the_role_no_run_that_its_login_has_not_told_to_read(book: Book) -> None:
    one = planned(book, 1)
    planned(book, 2)
    planned(book, 3, "u2")
    note = "insert into mana_ai.content_reads (user_id, run_id, reader) values (%s, %s, {})"
    with (
        login_in(book.settings, "projector_content") as of_reader,
        connect_sync(of_reader, "projector_content") as conn,
    ):
        assert seen(conn) == []
        conn.execute("select set_config('app.current_user_id', 'u1', false)")
        assert seen(conn) == []
        with conn.transaction(force_rollback=True):
            conn.execute(note.format("session_user"), ["u1", one])
            assert seen(conn) == []
            with conn.transaction():
                assert seen(conn) == []
        for reader, user in (("'olga'", "u1"), ("session_user", "u2")):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
                conn.execute(note.format(reader), [user, one])
        for column in ("read_at", "xact"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(note.format("session_user, default").replace("reader)", f"reader, {column})"), ["u1", one])
        for change in ("delete from", "update"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(f"{change} mana_ai.content_reads" + (" set run_id = run_id" if change == "update" else ""))
        assert seen(conn) == []
        conn.execute(note.format("session_user"), ["u1", one])
        assert seen(conn) == [(UUID(one), PRIVATE), (UUID(one), PRIVATE)]
        conn.execute("select set_config('app.current_user_id', 'u2', false)")
        assert seen(conn) == []
        conn.execute("select set_config('app.current_user_id', 'u1', false)")
        with login_in(book.settings, CONTENT_ROLE) as other, connect_sync(other, CONTENT_ROLE) as second:
            second.execute("select set_config('app.current_user_id', 'u1', false)")
            assert seen(second) == []
        book.admin.execute("update mana_ai.content_reads set read_at = read_at - interval '1 minute'")
        assert seen(conn) == []
