"""What the protocol brings beside rows: truncations, messages of others, many partitions, a table that changes."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from projector.cdc.publication import prepare_source
from projector.errors import TableShapeError, TopicSettingsError
from projector.log.topics import Topics
from projector.log.watermark import decode
from streams import cdc
from tests.cdc.support import current_lsn, insert, peak_mb, process, read, read_until, running, slot, slot_in_use
from tests.fixtures.settings import drop_slot

PEAK_MB = 100
"""All that a stream may ever have of the memory, its program included."""


@pytest.fixture
def conn(settings):
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        yield conn


async def test_a_truncation_reaches_every_partition_of_every_app(settings, conn) -> None:
    async with running(settings):
        insert(conn)
        await read_until(settings, 1)
        with conn.transaction():
            insert(conn, record_id="gone")
            conn.execute("truncate sync_changes")
            kept = insert(conn, record_id="kept")
        partitions = settings.topic_partitions * len(settings.apps)
        records = await read_until(settings, 3 + partitions)
    told = [r for r in records if r.headers["op"] == b"truncated"]
    assert {(r.topic, r.partition) for r in told} == {
        (Topics(settings.topic_prefix).changes(app), p)
        for app in settings.apps
        for p in range(settings.topic_partitions)
    }
    assert {r.key for r in told} == {b""}
    assert {r.value for r in told} == {b'{"op":"truncated"}'}
    (after,) = [r for r in records if r.headers.get("id") == kept.encode()]
    assert len({r.place for r in told}) == 1
    assert told[0].place < after.place


async def test_a_heartbeat_that_another_role_forges_moves_nothing(settings, conn) -> None:
    forged = "0" * 32
    async with running(settings):
        insert(conn)
        await read_until(settings, 1)
        for content in (f"{forged}:1", "", ":", "x:y", "1" * 5000):
            conn.execute("select pg_logical_emit_message(true, 'projector.heartbeat', %s)", [content])
            conn.execute("select pg_logical_emit_message(false, 'projector.heartbeat', %s)", [content])
        insert(conn)
        records = await read_until(settings, 2)
        await asyncio.sleep(1.5)
    assert [r.place.ord for r in records] == [0, 0]
    marks = [decode(r.value) for r in await read(settings, Topics(settings.topic_prefix).watermarks)]
    (beats,) = conn.execute("select beat from mana_ai.cdc_sources").fetchone() or (0,)
    assert marks
    assert all(mark.beat is None or mark.beat <= beats for mark in marks)


async def test_watermarks_never_promise_more_than_the_topics_hold(settings, conn) -> None:
    """Each says that what committed up to its LSN lies below its ends: held against the records themselves."""
    async with running(settings):
        for number in range(150):
            with conn.transaction():
                for _ in range(number % 4 + 1):
                    insert(conn, user_id=f"user-{number % 11}", app_id=("ai", "notes")[number % 2])
            if number % 3 == 0:
                await asyncio.sleep(0.03)
        await read_until(settings, 370)
        await asyncio.sleep(1.5)
    records = await read(settings)
    marks = [decode(r.value) for r in await read(settings, Topics(settings.topic_prefix).watermarks)]
    assert len(marks) > 3
    assert [m.lsn for m in marks] == sorted(m.lsn for m in marks)
    for mark in marks:
        for r in records:
            if r.place.lsn < mark.lsn:
                assert r.offset < mark.ends[r.topic][r.partition], f"{r.place} is not below {mark}"
            # The clock agrees: nothing that committed before is missing.
            if int(r.headers["ts"]) < mark.committed_at:
                assert r.offset < mark.ends[r.topic][r.partition]


async def test_a_hundred_thousand_rows_in_one_transaction_pass_in_bounded_memory(settings, conn) -> None:
    with process(settings) as child:
        await slot_in_use(settings)
        insert(conn)
        await read_until(settings, 1)
        conn.execute(
            "insert into sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)"
            " select 'ai', 'notes', i::text, 'user-' || i % 50, 'insert', jsonb_build_object('x', repeat('y', 700)),"
            " 'c' from generate_series(1, 100000) i"
        )
        await read_until(settings, 100_001, 120)
        assert peak_mb(child.pid) < PEAK_MB


async def test_two_hundred_partitions_over_twelve_topics(settings, conn) -> None:
    apps = tuple(f"app{n}" for n in range(10))
    many = settings.model_copy(update={"apps": apps, "topic_partitions": 17})
    prepare_source(conn, many)
    async with running(many):
        for number in range(400):
            insert(conn, app_id=apps[number % 10], user_id=f"user-{number}")
        records = await read_until(many, 400)
    async with running(many):
        insert(conn, app_id=apps[0], user_id="user-0")
        records = await read_until(many, 401)
    assert len({(r.topic, r.partition) for r in records}) > 120
    assert len({r.headers["id"] for r in records}) == 401


async def test_rows_of_another_shape_stop_the_stream_and_come_out_of_the_table_once_it_is_mended(
    settings, conn
) -> None:
    async with running(settings):
        pass
    written = [insert(conn, record_id="before")]
    conn.execute("alter table sync_changes alter column schema_version type text")
    written.append(insert(conn, record_id="odd", schema_version="1"))
    with pytest.raises(TableShapeError, match="schema_version"):
        await asyncio.wait_for(cdc.run(settings, asyncio.Event()), 20)
    conn.execute("alter table sync_changes alter column schema_version drop default")
    conn.execute("alter table sync_changes alter column schema_version type int using schema_version::int")
    # The WAL keeps the old shape for ever; the table has the new one.
    with pytest.raises(TableShapeError, match="schema_version"):
        await asyncio.wait_for(cdc.run(settings, asyncio.Event()), 20)
    drop_slot(conn, settings.slot_name)
    async with running(settings):
        records = await read_until(settings, 2)
    assert sorted(r.json["id"] for r in records) == sorted(written)


@pytest.mark.parametrize(
    ("alter", "match"),
    [
        ("drop column schema_version", "no column schema_version"),
        ("alter column schema_version type text", "schema_version holds text where integer belongs"),
    ],
    ids=["dropped", "retyped"],
)
async def test_a_column_that_is_dropped_or_retyped_under_a_stream_stops_it_before_the_first_such_row(
    settings, conn, alter: str, match: str
) -> None:
    task = asyncio.create_task(cdc.run(settings, asyncio.Event()))
    await slot_in_use(settings, task)
    before = insert(conn)
    await read_until(settings, 1)
    conn.execute(f"alter table sync_changes {alter}")
    insert(conn)
    written = current_lsn(conn)
    with pytest.raises(TableShapeError, match=match):
        await asyncio.wait_for(task, 20)
    assert slot(settings).confirmed < written
    assert [r.json["id"] for r in await read(settings)] == [before]


async def test_a_topic_with_more_partitions_than_before_is_refused(settings, conn) -> None:
    async with running(settings):
        pass
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    try:
        await admin.create_partitions({Topics(settings.topic_prefix).due: NewPartitions(total_count=9)})
    finally:
        await admin.close()
    with pytest.raises(TopicSettingsError, match="9 partitions"):
        await asyncio.wait_for(cdc.run(settings, asyncio.Event()), 20)


async def test_rows_of_a_table_that_somebody_added_to_the_publication_are_passed_over(settings, conn) -> None:
    conn.execute("create table elsewhere (id int primary key, sync_changes text)")
    conn.execute(f"alter publication {settings.publication_name} add table elsewhere")
    async with running(settings):
        with conn.transaction():
            conn.execute("insert into elsewhere values (1, 'x')")
            ours = insert(conn)
            conn.execute("delete from elsewhere")
        conn.execute("truncate elsewhere")
        after = insert(conn)
        records = await read_until(settings, 2)
    assert [r.json["id"] for r in records] == [ours, after]
    assert [r.place.ord for r in records] == [1, 0]


async def test_an_updated_row_of_the_log_is_told_as_one_to_read_again(settings, conn) -> None:
    conn.execute(f"alter publication {settings.publication_name} set (publish = 'insert, update, delete, truncate')")
    async with running(settings):
        changed = insert(conn, data={"text": "x" * 10_000})
        conn.execute("update sync_changes set origin = 'again'")  # its large value does not come with it
        records = await read_until(settings, 2)
    assert [r.headers["op"] for r in records] == [b"insert", b"erased"]
    assert [r.json["id"] for r in records] == [changed, changed]
