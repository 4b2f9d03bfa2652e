"""A change stream that runs beside a test, rows to send through it, and what came out of it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition
from psycopg import sql
from psycopg.types.json import Jsonb

from projector.config import Settings
from projector.log.place import Place, from_headers, parse_lsn
from projector.log.topics import Topics
from streams import cdc
from tests.fixtures.transactions import send_in_transaction


@dataclass(frozen=True, slots=True)
class Record:
    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    timestamp: int
    headers: dict[str, bytes]

    @property
    def json(self) -> Any:
        return orjson.loads(self.value)

    @property
    def place(self) -> Place:
        return from_headers(self.headers)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[asyncio.Task[None]]:
    """The stream in this process, once it reads the slot; ended in order, its errors raised."""
    stop = asyncio.Event()
    task = asyncio.create_task(cdc.run(settings, stop))
    try:
        await slot_in_use(settings, task)
        yield task
    finally:
        stop.set()
        await task


async def slot_in_use(settings: Settings, task: asyncio.Task[None] | None = None, *, within_s: float = 30) -> int:
    """Waits until some session streams from the slot; returns the server's process id of it."""
    async with asyncio.timeout(within_s):
        while task is None or not task.done():
            if (pid := reader(settings)) is not None:
                return pid
            await asyncio.sleep(0.02)
    task.result()
    raise AssertionError("the stream ended before it began")


def reader(settings: Settings) -> int | None:
    """The server's process that streams from the slot; a session that only creates the slot does not count."""
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        row = conn.execute(
            "select r.pid from pg_stat_replication r join pg_replication_slots s on s.active_pid = r.pid"
            " where s.slot_name = %s and r.state in ('catchup', 'streaming')",
            [settings.slot_name],
        ).fetchone()
    return None if row is None else int(row[0])


@contextmanager
def process(settings: Settings, crash_at: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """The stream in a process of its own, which may kill itself at a crash point; killed at the end if need be."""
    code = (
        "import asyncio; from projector.config import load_settings; from projector.logging import configure;"
        "from streams import cdc; s = load_settings(); configure(s, 'cdc'); asyncio.run(cdc.run(s, asyncio.Event()))"
    )
    environment = {**os.environ, **settings.environment(), "PROJECTOR_CRASH_AT": crash_at}
    child = subprocess.Popen([sys.executable, "-c", code], env=environment)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()


async def killed(child: subprocess.Popen[bytes], timeout_s: float = 30) -> None:
    """Waits for a crash point to fire; one that does not fails the test."""
    async with asyncio.timeout(timeout_s):
        while child.poll() is None:
            await asyncio.sleep(0.02)
    assert child.returncode == -signal.SIGKILL


def peak_mb(pid: int) -> float:
    """The most memory that a process has had so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def ids(records: Iterable[Record]) -> Counter[str]:
    """How often each change is there."""
    return Counter(record.headers["id"].decode() for record in records)


@dataclass(frozen=True, slots=True)
class SlotState:
    active_pid: int | None
    confirmed: int


def slot(settings: Settings) -> SlotState:
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        row = conn.execute(
            "select active_pid, confirmed_flush_lsn::text from pg_replication_slots where slot_name = %s",
            [settings.slot_name],
        ).fetchone()
    return SlotState(None, 0) if row is None else SlotState(row[0], parse_lsn(row[1]) if row[1] else 0)


def current_lsn(conn: psycopg.Connection[Any]) -> int:
    row = conn.execute("select pg_current_wal_insert_lsn()::text").fetchone()
    assert row is not None
    return parse_lsn(row[0])


async def confirmed_beyond(settings: Settings, lsn: int, timeout_s: float = 15) -> None:
    async with asyncio.timeout(timeout_s):
        while slot(settings).confirmed < lsn:
            await asyncio.sleep(0.05)


def insert(conn: psycopg.Connection[Any], **columns: Any) -> str:
    """One row of sync_changes; returns its id."""
    row = {
        "app_id": "ai",
        "table_name": "aiMissions",
        "record_id": "m1",
        "user_id": "anna",
        "op": "insert",
        "data": {"title": "Water the plants"},
        "client_id": "device-1",
        **columns,
    }
    row = {name: Jsonb(value) if isinstance(value, dict | list) else value for name, value in row.items()}
    names = ", ".join(row)
    marks = ", ".join(["%s"] * len(row))
    found = conn.execute(f"insert into sync_changes ({names}) values ({marks}) returning id::text", [*row.values()])  # noqa: S608
    inserted = found.fetchone()
    assert inserted is not None
    return str(inserted[0])


async def read(settings: Settings, topic: str | None = None) -> list[Record]:
    """Everything in one topic, or in all topics of the settings, partition by partition in order of offset."""
    topics = Topics(settings.topic_prefix)
    names = [topic] if topic else topics.all(settings.apps)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap_servers, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        partitions = [
            TopicPartition(name, p)
            for name in names
            for p in range(1 if name == topics.watermarks else settings.topic_partitions)
        ]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        records: list[Record] = []
        while [tp for tp in partitions if await consumer.position(tp) < ends[tp]]:
            for tp, batch in (await consumer.getmany(timeout_ms=500)).items():
                records += [
                    Record(tp.topic, tp.partition, r.offset, r.key or b"", r.value, r.timestamp, dict(r.headers))
                    for r in batch
                ]
        return sorted(records, key=lambda r: (r.topic, r.partition, r.offset))
    finally:
        await consumer.stop()


async def read_until(settings: Settings, count: int, timeout_s: float = 20) -> list[Record]:
    """Everything in all topics, as soon as there are at least `count` records."""
    async with asyncio.timeout(timeout_s):
        while len(records := await read(settings)) < count:
            await asyncio.sleep(0.05)
        return records


async def copy_in_transaction(settings: Settings, record: Record) -> None:
    """The record once more in its partition, and behind it an offset without one."""
    await send_in_transaction(
        settings.kafka_bootstrap_servers,
        record.topic,
        record.partition,
        record.key,
        record.value,
        list(record.headers.items()),
    )


def publish_inserts_only(conn: psycopg.Connection[Any], settings: Settings) -> None:
    """From now on rows go without a word to the stream."""
    publication = sql.Identifier(settings.publication_name)
    conn.execute(sql.SQL("alter publication {} set (publish = 'insert')").format(publication))
