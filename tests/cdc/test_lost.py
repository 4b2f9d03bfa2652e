"""What is lost beside the stream, or under it: a slot that the server took, a slot with records, a topic in use."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import psycopg
import pytest
from aiokafka.admin import NewPartitions

from projector.cdc import producer
from projector.config import Settings
from projector.embedded.servers import Servers
from projector.errors import TopicSettingsError
from projector.kafka import admin
from projector.log.topics import Topics, partition_of
from projector.views.kafka import cluster_id
from streams import cdc
from tests.cdc.support import ids, insert, killed, process, read, read_until, running, slot_in_use
from tests.fixtures.clusters import prepared_database, second_server
from tests.fixtures.settings import drop_slot, settings_for


@pytest.fixture
def conn(settings):
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        yield conn


async def drop_topic(settings: Settings, topic: str) -> None:
    async with admin(settings) as client, asyncio.timeout(10):
        await client.delete_topics([topic])
        while topic in await client.list_topics():
            await asyncio.sleep(0.05)


async def marked(conn: psycopg.Connection, records: int) -> None:
    """Waits until a kept watermark counts so many records."""
    async with asyncio.timeout(10):
        while True:
            row = conn.execute("select ends from mana_ai.cdc_watermarks order by id desc limit 1").fetchone()
            if row is not None and sum(map(sum, row[0].values())) >= records:
                return
            await asyncio.sleep(0.05)


async def test_a_slot_that_the_server_has_invalidated_is_made_anew_and_the_gap_published(
    stack: Servers, tmp_path: Path
) -> None:
    limits = {"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB"}
    with second_server(tmp_path / "small", settings=limits) as server:
        database = prepared_database(server, "small")
        settings = settings_for(server.servers(stack.bootstrap_servers), database).model_copy(
            update={"topic_prefix": f"small-{tmp_path.name}"}
        )
        with psycopg.connect(settings.admin_url, autocommit=True) as conn:
            async with running(settings):
                written = [insert(conn, record_id=str(n)) for n in range(20)]
                await read_until(settings, 20)
                await marked(conn, 20)
            written += [insert(conn, record_id=f"gap-{n}") for n in range(20)]
            for _ in range(4):
                conn.execute("select pg_logical_emit_message(false, 'noise', repeat('x', 1000000)), pg_switch_wal()")
            conn.execute("checkpoint")
            status = "select wal_status from pg_replication_slots where slot_name = %s"
            assert conn.execute(status, [settings.slot_name]).fetchone() == ("lost",)
            async with running(settings):
                written.append(insert(conn, record_id="after"))
                records = await read_until(settings, 41)
            assert conn.execute(status, [settings.slot_name]).fetchone() != ("lost",)
    assert ids(records) == Counter(written)
    assert {r.json["record_id"] for r in records if "fill" in r.headers} == {f"gap-{n}" for n in range(20)}


async def test_a_slot_that_is_dropped_while_the_topics_are_filled_is_made_anew(settings, conn) -> None:
    settings = settings.model_copy(update={"fill_rows_per_s": 100})
    written = [insert(conn, record_id=str(n)) for n in range(200)]
    with process(settings) as child:
        await read_until(settings, 20)
        drop_slot(conn, settings.slot_name)
        written.append(insert(conn, record_id="meanwhile"))
        await slot_in_use(settings)
        written.append(insert(conn, record_id="after"))
        records = await read_until(settings, len(written))
        assert child.poll() is None
    assert ids(records) == Counter(written)


@pytest.mark.parametrize("point", ["", "cdc.before_slot"])
async def test_positions_are_taken_back_when_the_slot_is_lost_with_the_records(settings, conn, point: str) -> None:
    """Otherwise what is published again would pass by a view that had come further."""
    topic = Topics(settings.topic_prefix).changes("notes")
    async with running(settings):
        written = [insert(conn, app_id="notes", record_id=str(n)) for n in range(20)]
        records = await read_until(settings, 20)
        await marked(conn, 20)
    conn.execute(
        "insert into mana_ai.stream_positions (view, cluster, topic, partition, next_offset, fold_version)"
        " values ('records', %s, %s, %s, 20, 1)",
        [await cluster_id(settings), topic, records[0].partition],
    )
    await drop_topic(settings, topic)
    if point:  # a kill in the middle of healing leaves no slot behind either
        with process(settings, point) as child:
            await killed(child)
    else:
        drop_slot(conn, settings.slot_name)
    async with running(settings):
        records = await read_until(settings, 20)
    assert ids(records) == Counter(written)
    assert conn.execute("select next_offset from mana_ai.stream_positions").fetchall() == [(0,)]


async def test_a_topic_that_is_deleted_under_the_stream_is_made_anew_and_filled(settings, conn, monkeypatch) -> None:
    monkeypatch.setattr(producer, "REQUEST_TIMEOUT_MS", 2000)
    async with running(settings) as stream:
        written = [insert(conn, record_id=str(n), app_id=("ai", "notes")[n % 2]) for n in range(40)]
        await read_until(settings, 40)
        await marked(conn, 40)
        await drop_topic(settings, Topics(settings.topic_prefix).changes("notes"))
        written += [insert(conn, record_id=f"later-{n}", app_id=("ai", "notes")[n % 2]) for n in range(10)]
        async with asyncio.timeout(60):
            while (found := await held(settings)) != Counter(written) and not stream.done():
                await asyncio.sleep(0.2)
    assert found == Counter(written)


async def test_a_topic_that_was_given_partitions_is_refused_until_it_is_made_anew(settings, conn) -> None:
    topic = Topics(settings.topic_prefix).changes("notes")
    more = settings.model_copy(update={"topic_partitions": 6})
    async with running(settings):
        written = [insert(conn, app_id="notes", user_id=f"user-{n}", record_id=str(n)) for n in range(20)]
        await read_until(settings, 20)
        await marked(conn, 20)
    async with admin(settings) as client:
        await client.create_partitions(
            {name: NewPartitions(6) for name in Topics(settings.topic_prefix).all(settings.apps)}
        )
    with pytest.raises(TopicSettingsError, match="has 6 partitions, PROJECTOR_TOPIC_PARTITIONS says 4"):
        await asyncio.wait_for(cdc.run(settings, asyncio.Event()), 20)
    with pytest.raises(TopicSettingsError, match=f"{topic} has 6 partitions and was filled when it had 4") as refused:
        await asyncio.wait_for(cdc.run(more, asyncio.Event()), 20)
    assert f"--delete --topic {topic}" in refused.value.remedy
    await drop_topic(settings, topic)
    async with running(more):
        written.append(insert(conn, app_id="notes", user_id="user-0", record_id="after"))
        records = await read_until(more, 21)
    assert ids(records) == Counter(written)
    assert all(record.partition == partition_of(record.key, 6) for record in records)


async def held(settings: Settings) -> Counter[str]:
    """What the topics hold; nothing while one of them is away."""
    async with admin(settings) as client:
        there = set(await client.list_topics())
    if not there.issuperset(Topics(settings.topic_prefix).all(settings.apps)):
        return Counter()
    return ids(await read(settings))
