"""A stream that is told to stop ends within seconds, whatever it waits for, and the next goes on."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import conninfo
from structlog.testing import capture_logs

from projector.cdc import slot as slots
from projector.config import Settings
from projector.embedded.kafka import Kafka
from streams import cdc
from tests.cdc.support import insert, process, read_until, running, slot_in_use


@pytest.fixture
def conn(settings: Settings) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        yield conn


@asynccontextmanager
async def stopped_within(settings: Settings, limit_s: float) -> AsyncIterator[asyncio.Task[None]]:
    """The stream, which is told to stop at the end of the block."""
    stop = asyncio.Event()
    task = asyncio.create_task(cdc.run(settings, stop))
    try:
        yield task
        stop.set()
        told = time.monotonic()
        await asyncio.wait({task}, timeout=30)
        assert task.done()
        assert time.monotonic() - told < limit_s
        task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(look: Callable[[], Any]) -> Any:
    async with asyncio.timeout(30):
        while not (found := look()):
            await asyncio.sleep(0.05)
        return found


async def test_a_slot_whose_creation_waits_says_for_whom_and_is_given_up_when_asked(
    settings: Settings, conn: psycopg.Connection[Any]
) -> None:
    url = conninfo.make_conninfo(settings.admin_url, application_name="nightly report")
    existing = "select from pg_replication_slots where slot_name = %s"
    with psycopg.connect(url) as forgotten:
        forgotten.execute("select pg_current_xact_id()")
        with capture_logs() as logs:
            async with stopped_within(settings, 5):
                [line] = await until(lambda: [line for line in logs if "creation waits" in line["event"]])
                assert conn.execute(existing, [settings.slot_name]).fetchone() is not None
        assert [line["event"] for line in logs].index("creating the slot") < logs.index(line)
        pid = forgotten.info.backend_pid
        assert line["pid"] == pid
        assert f"pid {pid} by nightly report" in line["waits_for"]
        assert f"pg_terminate_backend({pid})" in line["remedy"]
        assert conn.execute(existing, [settings.slot_name]).fetchone() is None
    written = insert(conn)
    async with running(settings):
        (record,) = await read_until(settings, 1)
    assert record.headers["id"].decode() == written


async def test_a_slot_that_another_session_holds_is_dropped_by_the_next_start(
    settings: Settings, conn: psycopg.Connection[Any]
) -> None:
    async with running(settings):
        insert(conn)
        await read_until(settings, 1)
    conn.execute("update mana_ai.cdc_sources set slot_ready = false")
    replication = await slots.Replication.connect(settings)
    try:
        assert await replication.start(settings.slot_name, settings.publication_name)
        with capture_logs() as logs:
            async with stopped_within(settings, 5):
                await until(lambda: any("waiting to drop it" in line["event"] for line in logs))
                await asyncio.sleep(0.5)
    finally:
        await replication.close()
    insert(conn, record_id="2")
    async with running(settings):
        await read_until(settings, 2)
        await slot_in_use(settings)


async def test_a_successor_that_reads_the_topics_of_a_silent_broker_ends_when_asked(
    settings: Settings, kafka: Kafka
) -> None:
    settings = settings.model_copy(update={"kafka_bootstrap_servers": kafka.bootstrap_servers})
    assert kafka.process is not None
    with process(settings) as first:
        await slot_in_use(settings)
        before = writer_pid(settings)
        try:
            with capture_logs() as logs:
                async with stopped_within(settings, 5):
                    await until(lambda: any("another process streams" in line["event"] for line in logs))
                    kafka.process.send(signal.SIGSTOP)
                    first.kill()
                    await until(lambda: writer_pid(settings) not in (None, before))
                    await asyncio.sleep(1)
            async with stopped_within(settings, cdc.GRACE_S + 5):
                await asyncio.sleep(1)  # it looks for the topics
        finally:
            kafka.process.send(signal.SIGCONT)


def writer_pid(settings: Settings) -> int | None:
    """The server's process that holds the writer's lock."""
    with psycopg.connect(settings.admin_url) as conn:
        row = conn.execute(
            "select l.pid from pg_locks l join pg_database d on d.oid = l.database"
            " where l.locktype = 'advisory' and l.granted and d.datname = current_database()"
        ).fetchone()
        return None if row is None else int(row[0])
