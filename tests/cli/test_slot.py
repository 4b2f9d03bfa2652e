"""`projector slot`: how the slot is, and what must not be dropped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import psycopg
import pytest
from psycopg import sql

from projector.cdc.replication import Replication
from projector.config import Settings
from projector.sql import query
from tests.cli.test_servers import run


@pytest.fixture
def admin(settings: Settings) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        yield conn


def exists(admin: psycopg.Connection[Any], settings: Settings) -> bool:
    found = admin.execute("select from pg_replication_slots where slot_name = %s", [settings.slot_name])
    return found.fetchone() is not None


def make(admin: psycopg.Connection[Any], settings: Settings) -> None:
    admin.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [settings.slot_name])


def test_a_slot_that_is_not_there_is_said_with_what_makes_it(settings: Settings) -> None:
    for words in (("status",), ("drop", "--yes")):
        done = run(settings, "slot", *words)
        assert done.returncode == 1
        assert f"no replication slot {settings.slot_name}" in done.stderr
    assert orjson.loads(run(settings, "slot", "status", "--json").stdout) == {"slot": None}


def test_status_shows_what_is_kept_and_by_whom(settings: Settings, admin: psycopg.Connection[Any]) -> None:
    make(admin, settings)
    with psycopg.connect(settings.admin_url) as forgotten:
        forgotten.execute("select pg_logical_emit_message(true, 'noise', repeat('x', 200000))")
        pid = forgotten.info.backend_pid
        shown = orjson.loads(run(settings, "slot", "status", "--json").stdout)
        assert shown["retained_bytes"] >= 200_000
        assert shown["lag_bytes"] >= 200_000
        assert shown["safe_bytes"] > 0
        assert shown["held_by"][0]["kind"] == "inactive"
        for_people = run(settings, "slot", "status")
    assert for_people.returncode == 0
    assert "held back: nobody reads the slot" in for_people.stdout
    assert "projector run cdc" in for_people.stdout
    assert pid > 0


def test_create_prepares_the_slot_of_the_first_start(settings: Settings, admin: psycopg.Connection[Any]) -> None:
    for _ in range(2):  # safe to repeat
        done = run(settings, "slot", "create")
        assert done.returncode == 0, done.stderr
        assert f"slot {settings.slot_name} is ready, source generation 1" in done.stdout
        assert exists(admin, settings)
    row = admin.execute("select slot_ready from mana_ai.cdc_sources").fetchone()
    assert row == (True,)


def test_create_without_a_publication_creates_nothing(settings: Settings, admin: psycopg.Connection[Any]) -> None:
    admin.execute(sql.SQL("drop publication {}").format(sql.Identifier(settings.publication_name)))
    done = run(settings, "slot", "create")
    assert done.returncode == 1
    assert "projector migrate" in done.stderr
    assert not exists(admin, settings)


def test_drop_asks_to_be_confirmed_and_says_what_it_means(settings: Settings, admin: psycopg.Connection[Any]) -> None:
    make(admin, settings)
    asked = run(settings, "slot", "drop")
    assert asked.returncode == 2
    assert "published out of the table" in asked.stderr
    assert exists(admin, settings)
    done = run(settings, "slot", "drop", "--yes")
    assert done.returncode == 0, done.stderr
    assert "published out of the table" in done.stdout
    assert not exists(admin, settings)


async def test_a_slot_in_use_is_not_dropped_and_its_reader_is_named(
    settings: Settings, admin: psycopg.Connection[Any]
) -> None:
    make(admin, settings)
    reader = await Replication.connect(settings)
    pid = reader.backend_pid
    try:
        assert await reader.start(settings.slot_name, settings.publication_name)
        done = run(settings, "slot", "drop", "--yes")
    finally:
        await reader.close()
    assert done.returncode == 1
    assert f"pid {pid}" in done.stderr
    assert exists(admin, settings)


def test_neither_drop_nor_create_interferes_with_a_stream_that_fills_the_topics(
    settings: Settings, admin: psycopg.Connection[Any]
) -> None:
    make(admin, settings)
    admin.execute(query("cdc/writer_lock"), [settings.slot_name])
    for words in (("drop", "--yes"), ("create",)):
        done = run(settings, "slot", *words)
        assert done.returncode == 1
        assert f"pid {admin.info.backend_pid}" in done.stderr
    assert exists(admin, settings)
