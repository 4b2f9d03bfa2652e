"""How long a committed change takes to its topic, and to its row, at a steady rate of single-row transactions.

Timed from just before the INSERT is sent, by the clock that all processes of this machine share. What a bare producer
takes to the same consumer, with no database and no stream between, is measured in the same run: the floor.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from bench.cdc import PARTITIONS, installation
from bench.report import Report, percentile
from projector.cdc.topics import ensure_topics
from projector.config import Settings
from projector.embedded.pipeline import Pipeline
from projector.log.topics import Topics
from projector.views.declared import VIEWS
from projector.views.wait import wait_for_lsn, wal_end

NAME = "latency"
SECONDS = 20
RATES = (100, 1000)
WARM_UP_S = 2.0

INSERT = (
    "insert into sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)"
    " values ('ai', 'aiMissions', %s, %s, 'insert', %s::jsonb, 'bench')"
)

ANNOUNCE = """
create or replace function bench_announce() returns trigger language plpgsql as $$
begin
    perform pg_notify('bench_rows', new.record::text);
    return null;
end $$;
create or replace trigger bench_announce after insert or update on mana_ai.mission_snapshots_1
    for each row execute function bench_announce();
"""


def run(report: Report, quick: bool = False) -> None:
    """Prints p50 and p99 of `producer_to_topic`, `commit_to_topic` and `commit_to_row` at each rate."""
    seconds = 3 if quick else SECONDS
    with installation(NAME) as settings:
        for measure, streams, measured in (
            ("producer_to_topic", (), _producer_to_topic),
            ("commit_to_topic", ("cdc",), _commit_to_topic),
            ("commit_to_row", ("cdc", "views"), _commit_to_row),
        ):
            with _streams(settings, *streams):
                for rate in RATES:
                    delays = asyncio.run(measured(settings, rate, seconds))
                    told = {"transactions_per_s": rate, "seconds": seconds, "seen": len(delays)}
                    for percent in (50, 99):
                        report.add(f"{measure}_p{percent}_ms", percentile(delays, percent), "ms", **told)


@contextmanager
def _streams(settings: Settings, *names: str) -> Iterator[None]:
    """The streams named, as processes, from ready to stopped."""
    with tempfile.TemporaryDirectory(prefix="bench-logs-") as directory:
        # Their word that they are at work is a line at INFO.
        pipeline = Pipeline(settings.model_copy(update={"log_level": "info"}), Path(directory))
        try:
            for name in names:
                pipeline.start(name)
            for name in names:
                pipeline.wait_ready(name)
            yield
        finally:
            pipeline.stop_all()


async def _producer_to_topic(settings: Settings, rate: int, seconds: float) -> list[float]:
    """Milliseconds from before each record is given to a producer to its arrival: what Kafka and its client take."""
    # Topics of its own: the stream refuses those that another program has written to.
    beside = settings.model_copy(update={"topic_prefix": "floor"})
    await ensure_topics(beside)
    return await _to_topic(beside, "produce", rate, seconds)


async def _commit_to_topic(settings: Settings, rate: int, seconds: float) -> list[float]:
    """Milliseconds from before each INSERT to the record in the hands of a consumer, without the warm-up."""
    return await _to_topic(settings, "write", rate, seconds)


async def _to_topic(settings: Settings, program: str, rate: int, seconds: float) -> list[float]:
    total = int(rate * (seconds + WARM_UP_S))
    topic = Topics(settings.topic_prefix).changes("ai")
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap_servers, enable_auto_commit=False, auto_offset_reset="latest"
    )
    await consumer.start()
    partitions = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
    consumer.assign(partitions)
    await consumer.seek_to_end(*partitions)
    for partition in partitions:
        await consumer.position(partition)
    tag = f"{program}-{rate}"
    writer = _start_writer(settings, tag, rate, total, program)
    delays: list[float] = []
    seen = 0
    try:
        async with asyncio.timeout(seconds + 60):
            while seen < total:
                fetched = await consumer.getmany(timeout_ms=1000)
                now = time.monotonic_ns()
                for records in fetched.values():
                    for record in records:
                        data = json.loads(record.value)["data"]
                        if data["tag"] == tag:
                            seen += 1
                            if data["n"] >= rate * WARM_UP_S:
                                delays.append((now - data["sent"]) / 1e6)
    finally:
        writer.kill()
        writer.wait()
        await consumer.stop()
    return sorted(delays)


async def _commit_to_row(settings: Settings, rate: int, seconds: float) -> list[float]:
    """Milliseconds from before each INSERT to the row being visible to others, without the warm-up.

    A trigger announces each row; PostgreSQL delivers that when the transaction has committed, and not before.
    """
    total = int(rate * (seconds + WARM_UP_S))
    delays: list[float] = []
    seen = 0
    async with await psycopg.AsyncConnection.connect(settings.admin_url, autocommit=True) as conn:
        # Whatever was written before is not what is measured.
        written, _ = await wal_end(conn)
        await wait_for_lsn(settings, conn, VIEWS["missions"], written, 120)
        await conn.execute(ANNOUNCE)
        await conn.execute("listen bench_rows")
        tag = f"row-{rate}"
        writer = _start_writer(settings, tag, rate, total)
        try:
            async with asyncio.timeout(seconds + 60):
                async for notification in conn.notifies():
                    now = time.monotonic_ns()
                    data = json.loads(notification.payload)
                    if data["tag"] == tag:
                        seen += 1
                        if data["n"] >= rate * WARM_UP_S:
                            delays.append((now - data["sent"]) / 1e6)
                    if seen == total:
                        break
        finally:
            writer.kill()
            writer.wait()
    return sorted(delays)


def _start_writer(
    settings: Settings, tag: str, rate: int, total: int, program: str = "write"
) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-c", f"from bench.latency import {program}; {program}({tag!r}, {rate}, {total})"]
    environment = {
        **os.environ,
        "BENCH_URL": settings.admin_url,
        "BENCH_BROKERS": settings.require_kafka(),
        "BENCH_TOPIC": Topics(settings.topic_prefix).changes("ai"),
    }
    return subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL)


def produce(tag: str, rate: int, total: int) -> None:
    """Sends `total` records as `write` inserts rows, straight to the topic, as the stream's producer is set."""
    asyncio.run(_produce(tag, rate, total))


async def _produce(tag: str, rate: int, total: int) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=os.environ["BENCH_BROKERS"], acks="all", enable_idempotence=True, linger_ms=0
    )
    await producer.start()
    due = time.monotonic_ns()
    step = 1_000_000_000 // rate
    sent = None
    for n in range(total):
        due = max(due + step, time.monotonic_ns() - 10 * step)
        pause = due - time.monotonic_ns()
        if pause > 0:
            await asyncio.sleep(pause / 1e9)
        data = {"title": "Water the plants", "sent": time.monotonic_ns(), "n": n, "tag": tag}
        batch = producer.create_batch()
        value = json.dumps({"data": data, "padding": "x" * 400}).encode()
        batch.append(timestamp=int(time.time() * 1000), key=b"user", value=value)
        sent = await producer.send_batch(batch, os.environ["BENCH_TOPIC"], partition=n % PARTITIONS)
    if sent is not None:
        await sent
    await producer.stop()


def write(tag: str, rate: int, total: int) -> None:
    """Inserts `total` rows marked `tag`, `rate` a second, each in its own transaction; never catches up in a burst."""
    with psycopg.connect(os.environ["BENCH_URL"], autocommit=True) as conn:
        due = time.monotonic_ns()
        step = 1_000_000_000 // rate
        for n in range(total):
            due = max(due + step, time.monotonic_ns() - 10 * step)
            pause = due - time.monotonic_ns()
            if pause > 0:
                time.sleep(pause / 1e9)
            sent = time.monotonic_ns()
            data = json.dumps({"title": "Water the plants", "sent": sent, "n": n, "tag": tag})
            conn.execute(INSERT, [f"{tag}-{n}", f"user-{n % 200}", data])
