"""A record that came again after it was erased: a writer was paused with a request under way, and woke late."""

from __future__ import annotations

import psycopg
from aiokafka import AIOKafkaProducer

from tests.cdc.support import insert, read, read_until, running


async def test_what_came_again_after_its_erasure_is_not_erased_again_by_a_fill(settings) -> None:
    # Without a second heartbeat nothing is known of how far the topics went: the fill looks at all they hold.
    settings = settings.model_copy(update={"heartbeat_s": 60})
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        async with running(settings):
            kept, erased = insert(conn), insert(conn)
            conn.execute("delete from sync_changes where id = %s", [erased])
            records = await read_until(settings, 3)
        [again] = [r for r in records if r.headers["op"] == b"insert" and r.headers["id"].decode() == erased]
        await _send(settings, again)
        conn.execute("select pg_drop_replication_slot(%s)", [settings.slot_name])
        async with running(settings):
            last = insert(conn)
            await read_until(settings, 5)
    found = [(r.headers["op"].decode(), r.headers["id"].decode()) for r in await read(settings)]
    assert found == [("insert", kept), ("insert", erased), ("erased", erased), ("insert", erased), ("insert", last)]


async def _send(settings, record) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers)
    await producer.start()
    try:
        await producer.send_and_wait(
            record.topic,
            record.value,
            key=record.key,
            partition=record.partition,
            timestamp_ms=record.timestamp,
            headers=list(record.headers.items()),
        )
    finally:
        await producer.stop()
