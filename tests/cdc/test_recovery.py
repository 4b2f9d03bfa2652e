"""Restarts of every kind: what has reached a topic does not come again, what has not does."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import psycopg
import pytest
from structlog.testing import capture_logs

from projector.cdc.tail import read_tails
from projector.cdc.writer import Writer
from projector.log.topics import Topics
from projector.sql.connection import connect
from streams.cdc import passes
from tests.cdc.support import (
    Record,
    confirmed_beyond,
    copy_in_transaction,
    current_lsn,
    insert,
    killed,
    process,
    read,
    read_until,
    reader,
    running,
    slot_in_use,
)

POINTS = [
    "cdc.before_send:2",
    "cdc.before_send:7",
    "cdc.after_send_before_ack:3",
    "cdc.after_ack_before_confirm:1",
    "cdc.after_ack_before_confirm:5",
    "cdc.after_confirm:1",
    "cdc.mid_transaction:3",
    "cdc.mid_transaction:40",
]


@pytest.fixture
def conn(settings):
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        yield conn


def check(records: list[Record], written: list[str]) -> None:
    """Every row once, and each user's rows in order of commit."""
    assert Counter(r.headers["id"].decode() for r in records) == Counter(written)
    order = {change: index for index, change in enumerate(written)}
    for key in {r.key for r in records}:
        numbers = [order[r.headers["id"].decode()] for r in records if r.key == key]
        assert numbers == sorted(numbers)


async def test_kills_at_every_point_lose_and_repeat_nothing(settings, conn) -> None:
    async with running(settings):
        pass
    written: list[str] = []
    numbers = random.Random(7)
    for point in POINTS:
        for _ in range(12):
            with conn.transaction():
                written += [
                    insert(conn, user_id=f"user-{numbers.randrange(20)}") for _ in range(numbers.randrange(1, 9))
                ]
        with process(settings, point) as child:
            for _ in range(400):
                if child.poll() is not None:
                    break
                written.append(insert(conn, user_id=f"user-{numbers.randrange(20)}"))
                await asyncio.sleep(0.01)
            await killed(child)
    async with running(settings):
        await read_until(settings, len(written), 30)
        await confirmed_beyond(settings, current_lsn(conn) - 4096)
    check(await read(settings), written)


async def test_a_transaction_that_half_its_partitions_have_is_completed(settings, conn) -> None:
    """Only one partition's part is acknowledged at the kill; the others' come afterwards, this one's not again."""
    async with running(settings):
        pass
    with conn.transaction():
        written = [insert(conn, user_id=f"user-{n % 20}") for n in range(200)]
    with process(settings, "cdc.before_send:3") as child:
        await killed(child)
    with process(settings, "cdc.after_ack_before_confirm:1") as child:
        await killed(child)
    half = await read(settings)
    assert 0 < len(half) <= 200
    async with running(settings):
        await read_until(settings, 200)
    check(await read(settings), written)


async def test_a_second_stream_waits_for_the_slot_and_takes_over(settings, conn) -> None:
    with process(settings) as first:
        held = await slot_in_use(settings)
        async with running(settings):
            written = [insert(conn, record_id="1")]
            await read_until(settings, 1)
            assert reader(settings) == held
            first.kill()
            written.append(insert(conn, record_id="2"))
            await read_until(settings, 2, 5)
            assert reader(settings) != held
    check(await read(settings), written)


async def test_a_stream_that_was_paused_writes_nothing_that_its_successor_wrote(settings, conn) -> None:
    conn.execute(f"alter role projector in database {settings.slot_name} set wal_sender_timeout = '2s'")
    with process(settings) as first:
        await slot_in_use(settings)
        insert(conn, record_id="0")
        await read_until(settings, 1)
        first.send_signal(19)
        for number in range(50):
            insert(conn, record_id=str(number), user_id=f"user-{number % 5}")
        async with running(settings):
            await read_until(settings, 51)
            first.send_signal(18)
            await asyncio.sleep(1.5)
            insert(conn, record_id="last")
            records = await read_until(settings, 52)
    assert len({r.place for r in records}) == len(records) == 52


async def test_a_server_that_takes_no_writes_for_a_while_is_waited_for(settings, conn) -> None:
    async with running(settings):
        written = [insert(conn)]
        await read_until(settings, 1)
        conn.execute(f"alter database {settings.slot_name} set default_transaction_read_only = on")
        with capture_logs() as logs:
            conn.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and usename = 'projector'"
            )
            async with asyncio.timeout(20):
                while not any(line.get("reason") == "ReadOnlySqlTransaction" for line in logs):
                    await asyncio.sleep(0.05)
        conn.execute(f"alter database {settings.slot_name} reset default_transaction_read_only")
        written.append(insert(conn))
        await read_until(settings, 2)
    check(await read(settings), written)


async def test_a_writer_that_was_paused_in_a_transaction_loses_its_lock(settings) -> None:
    async with (
        await connect(settings, "projector_cdc") as held,
        await connect(settings, "projector_cdc") as waiting,
    ):
        assert await Writer(held, settings, 1.0).acquire(asyncio.Event())
        await held.execute("begin")
        async with asyncio.timeout(5):
            assert await Writer(waiting, settings, 1.0).acquire(asyncio.Event())
        with pytest.raises(psycopg.Error) as caught:
            await held.execute("select")
        assert passes(caught.value)


async def test_tails_name_the_last_place_of_each_partition(settings, conn) -> None:
    async with running(settings):
        for number in range(30):
            insert(conn, user_id=f"user-{number}")
        records = await read_until(settings, 30)
    tails = await read_tails(settings)
    last = {}
    ends = {topic: [0] * settings.topic_partitions for topic in Topics(settings.topic_prefix).all(settings.apps)}
    for record in records:
        last[record.topic, record.partition] = record.place
        ends[record.topic][record.partition] = record.offset + 1
    assert (tails.places, tails.ends) == (last, ends)


async def test_tails_are_found_before_the_end_of_a_transaction(settings, conn) -> None:
    async with running(settings):
        insert(conn)
        (record,) = await read_until(settings, 1)
    await copy_in_transaction(settings, record)
    async with asyncio.timeout(20):
        tails = await read_tails(settings)
    assert tails.places == {(record.topic, record.partition): record.place}
    assert tails.ends[record.topic][record.partition] == record.offset + 3


async def test_random_kills_under_load_lose_and_repeat_nothing(settings, conn) -> None:
    async with running(settings):
        pass
    written: list[str] = []
    numbers = random.Random(11)
    for _ in range(4):
        with process(settings) as child:
            deadline = asyncio.get_running_loop().time() + 1.5 + numbers.random()
            while asyncio.get_running_loop().time() < deadline:
                with conn.transaction():
                    written += [insert(conn, user_id=f"user-{numbers.randrange(9)}") for _ in range(5)]
                await asyncio.sleep(0)
            child.kill()
    async with running(settings):
        await read_until(settings, len(written), 30)
    check(await read(settings), written)
