"""Slot and generation: what is created at the first start, and what is refused with which remedy."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from aiokafka import AIOKafkaProducer
from psycopg import sql

from projector.cdc.topics import ensure_topics
from projector.errors import (
    BrokerUnavailableError,
    ConfigError,
    DatabaseUnavailableError,
    ForeignSourceError,
    NotMigratedError,
    TableShapeError,
)
from projector.log.topics import Topics
from streams import cdc
from tests.cdc.support import insert, running


@pytest.fixture
def conn(settings):
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        yield conn


def with_settings(settings, **changes):
    return settings.model_copy(update=changes)


async def refused(settings, error: type[Exception], match: str) -> Exception:
    with pytest.raises(error, match=match) as caught:
        await asyncio.wait_for(cdc.run(settings, asyncio.Event()), 20)
    assert getattr(caught.value, "remedy", "")
    return caught.value


async def test_the_first_start_creates_slot_and_generation(settings, conn) -> None:
    async with running(settings):
        pass
    row = conn.execute(
        "select s.plugin, (to_jsonb(s) ->> 'failover')::bool, c.generation, c.consistent_lsn <= s.confirmed_flush_lsn,"
        " c.snapshot_xmax is not null, c.system_identifier = (select system_identifier::text from pg_control_system())"
        " from pg_replication_slots s join mana_ai.cdc_sources c using (slot_name) where slot_name = %s",
        [settings.slot_name],
    ).fetchone()
    assert row == ("pgoutput", True if conn.info.server_version >= 170_000 else None, 1, True, True, True)


async def test_a_slot_creation_that_was_interrupted_is_done_again(settings, conn) -> None:
    conn.execute(
        "insert into mana_ai.cdc_sources (generation, system_identifier, slot_name)"
        " select 1, system_identifier, %s from pg_control_system()",
        [settings.slot_name],
    )
    conn.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [settings.slot_name])
    async with running(settings):
        insert(conn)
    row = conn.execute("select consistent_lsn is not null, slot_ready from mana_ai.cdc_sources").fetchone()
    assert row == (True, True)


async def test_a_slot_of_somebody_else_is_left_alone(settings, conn) -> None:
    conn.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [settings.slot_name])
    await refused(settings, ConfigError, "did not create")


async def test_another_server_is_refused(settings, conn) -> None:
    async with running(settings):
        pass
    conn.execute("update mana_ai.cdc_sources set system_identifier = '1'")
    await refused(settings, ForeignSourceError, "topics hold the log of 1")


@pytest.mark.parametrize(
    ("headers", "match"),
    [
        ([("source", b"1"), ("lsn", b"FFFFFF/0"), ("ord", b"0")], "knows nothing"),
        ([("source", b"2"), ("lsn", b"0/1"), ("ord", b"0")], "knows nothing"),
        ([("other", b"1")], "names no place"),
    ],
)
async def test_topics_that_another_source_filled_are_refused(settings, headers, match: str) -> None:
    await ensure_topics(settings)
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers)
    await producer.start()
    try:
        await producer.send_and_wait(Topics(settings.topic_prefix).due, b"{}", headers=headers)
    finally:
        await producer.stop()
    await refused(settings, ForeignSourceError, match)


async def test_a_missing_publication_is_refused(settings, conn) -> None:
    conn.execute(sql.SQL("drop publication {}").format(sql.Identifier(settings.publication_name)))
    await refused(settings, NotMigratedError, "no publication")


async def test_servers_that_are_away_at_the_start_are_named(settings) -> None:
    await refused(with_settings(settings, kafka_bootstrap_servers="127.0.0.1:9"), BrokerUnavailableError, "Kafka")
    url = psycopg.conninfo.make_conninfo(settings.database_url.get_secret_value(), port=9)
    broken = settings.model_validate({**settings.model_dump(), "database_url": url})
    await refused(broken, DatabaseUnavailableError, "cannot connect")


async def test_a_dropped_column_that_is_needed_stops_the_stream_by_name(settings, conn) -> None:
    async with running(settings):
        pass
    insert(conn)
    conn.execute("alter table sync_changes drop column client_id")
    conn.execute(
        "insert into sync_changes (app_id, table_name, record_id, user_id, op) values ('ai', 't', 'r', 'u', 'insert')"
    )
    await refused(settings, TableShapeError, "no column client_id")
