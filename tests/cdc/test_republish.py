"""Topics that lack records, or tell of changes that are gone, filled again on request while the stream is at work."""

from __future__ import annotations

import asyncio
from collections import Counter

import orjson
import psycopg
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from psycopg import sql

from projector.cdc import fill_progress
from projector.cdc.fill_progress import FillProgress
from projector.cdc.publication import prepare_source
from projector.cdc.seen import load_seen, read_ends, vanished
from projector.cdc.topics import wanted_settings
from projector.cli.cdc import republish
from projector.errors import ConfigError, NotMigratedError, PublicationMissedError
from projector.kafka import admin
from projector.log.topics import Topics, partition_of
from projector.sql.connection import connect
from tests.cdc.support import copy_in_transaction, ids, insert, publish_inserts_only, read, read_until, running
from tests.cli.test_wait import projector


@pytest.fixture
def conn(settings):
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        yield conn


async def test_exactly_the_missing_changes_come_back(settings, conn) -> None:
    users = [f"user-{n}" for n in range(8)]
    async with running(settings):
        written = [insert(conn, user_id=users[n % 8], record_id=str(n)) for n in range(40)]
        other = insert(conn, app_id="notes", table_name="notes")
        await read_until(settings, 41)
        topic = Topics(settings.topic_prefix).changes("ai")
        number = partition_of(users[0].encode(), settings.topic_partitions)
        lost = [record for record in await read(settings, topic) if record.partition == number]
        async with admin(settings) as client:
            below = lost[-2].offset
            await client.delete_records({TopicPartition(topic, number): RecordsToDelete(before_offset=below)})
        lost = [record for record in lost if record.offset < below]
        assert lost
        assert ids(await read(settings)) == Counter([*written, other]) - ids(lost)
        done = await projector(settings, "cdc", "republish", "--app", "ai", "--yes", "--wait", "--json")
        assert (done.status, done.error) == (0, "")
        events = [orjson.loads(line) for line in done.lines]
        assert (events[0]["event"], events[0]["apps"], events[-1]["event"]) == ("asked", ["ai"], "done")
        records = await read(settings)
        assert ids(records) == Counter([*written, other])
        assert ids(record for record in records if "fill" in record.headers) == ids(lost)
        written.append(insert(conn, user_id=users[0], record_id="after"))
        assert ids(await read_until(settings, 42)) == Counter([*written, other])


async def test_changes_that_were_deleted_without_a_word_are_told_as_erased(settings, conn) -> None:
    publish_inserts_only(conn, settings)
    async with running(settings):
        gone, kept = insert(conn, record_id="1"), insert(conn, record_id="2")
        await read_until(settings, 2)
        conn.execute("delete from sync_changes where id = %s", [gone])
        for _ in range(2):  # the second time there is nothing left to tell
            done = await projector(settings, "cdc", "republish", "--yes", "--wait")
            assert (done.status, done.error, done.lines[-1]) == (0, "", "done")
        told = [(r.headers["op"].decode(), r.headers["id"].decode()) for r in await read(settings)]
    assert told == [("insert", gone), ("insert", kept), ("erased", gone)]


async def test_a_topic_is_read_to_where_it_has_no_record(settings, conn) -> None:
    async with running(settings):
        insert(conn)
        (record,) = await read_until(settings, 1)
        await copy_in_transaction(settings, record)
        async with asyncio.timeout(20):
            done = await projector(settings, "cdc", "republish", "--yes", "--wait")
        assert (done.status, done.error, done.lines[-1]) == (0, "", "done")
    assert len(await read(settings)) == 2


async def test_only_what_topics_still_hold_is_told_as_erased(settings, conn) -> None:
    async with running(settings):
        gone = [insert(conn, record_id=str(n)) for n in range(4)]
        alive = insert(conn, record_id="alive")
        records = await read_until(settings, 5)
    topic, number = records[0].topic, records[0].partition

    async def below(offset: int) -> None:
        async with admin(settings) as client:
            await client.delete_records({TopicPartition(topic, number): RecordsToDelete(before_offset=offset)})

    async def told() -> list[str]:
        return [one.record[4].decode() async for one in vanished(settings, reader)]

    async with await connect(settings, "projector_cdc") as reader:
        await reader.set_autocommit(True)
        ends = [{topic: [0] * settings.topic_partitions}, await read_ends(settings)]
        await load_seen(settings, reader, [topic], [(ends[0], ends[1])], FillProgress(reader, 0, "gap"))
        conn.execute("delete from sync_changes where id != %s", [alive])
        assert await told() == gone
        await below(records[2].offset)
        assert await told() == gone[2:]
        await below(records[4].offset)
        assert await told() == []
        await below(records[4].offset + 1)  # nothing is left to read behind them
        async with asyncio.timeout(10):
            assert await told() == []


async def test_every_step_tells_how_far_it_is(settings, conn, monkeypatch) -> None:
    monkeypatch.setattr(fill_progress, "KEEP_S", 0.0)
    async with running(settings):
        gone = [insert(conn, record_id=f"gone-{n}") for n in range(250)]
        await read_until(settings, 250)
    assert (await projector(settings, "slot", "drop", "--yes")).status == 0
    conn.execute("delete from sync_changes")
    lost = [insert(conn, record_id=f"lost-{n}") for n in range(120)]
    conn.execute(
        "create table told (n int generated always as identity, step text, done bigint, total bigint);"
        " create function keep_told() returns trigger language plpgsql security definer as $$ begin"
        "  insert into told (step, done, total)"
        "  values (new.step, case new.step when 'rows' then new.rows else new.step_done end, new.total); return null;"
        " end $$;"
        " create trigger told after update on mana_ai.cdc_fills for each row execute function keep_told()"
    )
    async with running(settings):
        assert ids(await read_until(settings, 2 * 250 + 120)) == Counter(2 * gone + lost)
    told = conn.execute("select step, max(done), max(total) from told group by step order by min(n)").fetchall()
    assert told == [("topics", 250, 250), ("rows", 120, 120), ("erasures", 200, 250)]


async def test_a_record_that_was_too_large_comes_once_the_limit_is_raised(settings, conn) -> None:
    tight = settings.model_copy(update={"max_message_bytes": 256 * 1024})
    async with running(tight):
        large, small = insert(conn, record_id="1", data={"text": "x" * 300_000}), insert(conn, record_id="2")
        assert ids(await read_until(tight, 1)) == Counter([small])
    async with admin(settings) as client:
        topics = Topics(settings.topic_prefix).all(settings.apps)
        await client.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, topic, wanted_settings(settings)) for topic in topics]
        )
    async with running(settings):
        done = await projector(settings, "cdc", "republish", "--app", "ai", "--yes", "--wait")
        assert (done.status, done.error, done.lines[-1]) == (0, "", "done")
        assert ids(await read(settings)) == Counter([small, large])


async def test_what_commits_while_the_publication_is_away_comes_once_it_is_back(settings, conn) -> None:
    drop = sql.SQL("drop publication {}").format(sql.Identifier(settings.publication_name))
    passed_over = conn.info.server_version >= 180_000
    written = Counter()

    async def drop_under_the_stream() -> None:
        async with running(settings) as stream:
            written[insert(conn, record_id="before")] += 1
            await read_until(settings, 1)
            conn.execute(drop)
            written[insert(conn, record_id="while it is away")] += 1
            await asyncio.wait((stream,), timeout=30)

    with pytest.raises(NotMigratedError if passed_over else PublicationMissedError):
        await drop_under_the_stream()
    prepare_source(conn, settings)
    if not passed_over:  # the slot can never get past it
        assert (await projector(settings, "slot", "drop", "--yes")).status == 0
    async with running(settings):
        assert ids(await read_until(settings, 2)) == written
        if passed_over:
            with conn.transaction():  # or the stream may look at that moment, and stop
                conn.execute(drop)
                written[insert(conn, record_id="while it is away for a moment")] += 1
                prepare_source(conn, settings)
        written[insert(conn, record_id="after")] += 1
        assert ids(await read_until(settings, len(written))) == written


async def test_what_committed_without_a_publication_comes_although_no_stream_saw_that(settings, conn) -> None:
    async with running(settings):
        written = Counter([insert(conn, record_id="before")])
        await read_until(settings, 1)
    conn.execute(sql.SQL("drop publication {}").format(sql.Identifier(settings.publication_name)))
    written[insert(conn, record_id="while it is away")] += 1
    prepare_source(conn, settings)
    if conn.info.server_version < 180_000:
        with pytest.raises(PublicationMissedError):
            async with running(settings) as stream:
                await asyncio.wait((stream,), timeout=30)
        assert (await projector(settings, "slot", "drop", "--yes")).status == 0
    async with running(settings):
        written[insert(conn, record_id="after")] += 1
        assert ids(await read_until(settings, 3)) == written


async def test_what_cannot_be_asked_for_is_refused(settings, monkeypatch) -> None:
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="--yes is missing"):
        republish()
    with pytest.raises(ConfigError, match="'unknown' is not published"):
        republish(apps=["unknown"], yes=True)
    early = await asyncio.wait_for(projector(settings, "cdc", "republish", "--yes"), 30)
    assert early.status == 1
    assert "has not published anything yet" in early.error
