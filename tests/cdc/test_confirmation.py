"""What is confirmed to Postgres, by the names of the faults that lost data in other programs."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import psycopg
import pytest

from projector.cdc.replication import Replication
from projector.metrics import CDC_STATUS_UPDATES
from tests.cdc.support import confirmed_beyond, current_lsn, insert, killed, process, read, read_until, running, slot


@pytest.fixture
def conn(settings):
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        yield conn


async def commits(settings, count: int) -> list[int]:
    """Every LSN that may be confirmed: the ends of the transactions that the slot still holds, read beside it."""
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        rows = conn.execute(
            "select distinct lsn::text from pg_logical_slot_peek_binary_changes(%s, null, null,"
            " 'proto_version', '1', 'publication_names', %s) where get_byte(data, 0) = ascii('C') limit %s",
            [settings.slot_name, settings.publication_name, count],
        ).fetchall()
    return sorted(int(text.split("/")[0], 16) << 32 | int(text.split("/")[1], 16) for (text,) in rows)


async def test_rows_with_the_same_lsn_all_survive_a_restart(settings, conn) -> None:
    """A multi-row insert: its rows share the commit LSN, and a kill in the middle skips none of them."""
    async with running(settings):
        pass
    with conn.transaction(), conn.cursor() as cursor:
        columns = "app_id, table_name, record_id, user_id, op, data, client_id"
        with cursor.copy(f"copy sync_changes ({columns}) from stdin") as copy:
            for number in range(5000):
                copy.write_row(("ai", "t", str(number), f"user-{number % 9}", "insert", '{"x": 1}', "c"))
    with process(settings, "cdc.mid_transaction:2500") as child:
        await killed(child)
    assert len(await read(settings)) < 5000
    async with running(settings):
        records = await read_until(settings, 5000)
    assert sorted(int(r.json["record_id"]) for r in records) == list(range(5000))


@pytest.mark.parametrize("point", ["cdc.before_send", "cdc.before_send:3", "cdc.after_ack_before_confirm"])
async def test_rows_after_a_transactional_message_survive_a_restart(settings, conn, point: str) -> None:
    async with running(settings):
        pass
    run = "0d2f4a3e-6f0e-5d3c-9a35-0f4b1f2f7f11"
    with conn.transaction():
        first = insert(conn, user_id="a")
        message = f'{{"run_id":"{run}","user_id":"b"}}'
        conn.execute("select pg_logical_emit_message(true, 'mission.due', %s)", [message])
        rest = [insert(conn, user_id=f"user-{n}") for n in range(20)]
    with process(settings, point) as child:
        await killed(child)
    async with running(settings):
        records = await read_until(settings, 22)
    assert len(records) == 22
    assert {r.headers["id"].decode() for r in records if "id" in r.headers} == {first, *rest}
    assert len({r.place for r in records}) == 22


async def test_the_slot_never_stands_inside_a_transaction(settings, conn) -> None:
    async with running(settings):
        pass
    for size in (1, 300, 2, 1000, 1, 500):
        with conn.transaction():
            for number in range(size):
                insert(conn, user_id=f"user-{number % 11}", record_id=str(number))
    start, ends = slot(settings).confirmed, await commits(settings, 100)
    seen = set()
    for passes in itertools.count(1):
        with process(settings, f"cdc.after_ack_before_confirm:{passes}") as child:
            try:
                await killed(child, 3)
            except TimeoutError:
                break
        seen.add(slot(settings).confirmed)
        if passes == 4:
            break
    async with running(settings):
        await read_until(settings, 1804)
        async with asyncio.timeout(10):
            while (now := slot(settings).confirmed) < ends[-1]:
                seen.add(now)
                await asyncio.sleep(0.002)
    # A keepalive may move an idle slot beyond the last commit; below it only ends of transactions are allowed.
    ends_of_transactions = {lsn for lsn in seen if lsn < ends[-1]} - {start}
    assert all(any(end <= lsn for end in ends) for lsn in ends_of_transactions)
    records = await read(settings)
    assert len(records) == len({r.place for r in records}) == 1804


async def test_nothing_is_confirmed_while_kafka_has_not_acknowledged(settings, conn) -> None:
    async with running(settings):
        pass
    before = slot(settings).confirmed
    insert(conn)
    with process(settings, "cdc.before_send") as child:
        await killed(child)
    assert slot(settings).confirmed == before


async def test_a_reconnect_never_moves_the_slot_backwards(settings, conn) -> None:
    async with running(settings):
        insert(conn)
        await confirmed_beyond(settings, current_lsn(conn))
    for _ in range(3):
        before = slot(settings).confirmed
        async with running(settings):
            await asyncio.sleep(0.4)
        assert slot(settings).confirmed >= before


async def test_an_idle_stream_sends_no_storm_of_status_updates(settings, conn) -> None:
    def sent() -> float:
        return CDC_STATUS_UPDATES._value.get()

    async with running(settings.model_copy(update={"heartbeat_s": 60})):
        insert(conn)
        await confirmed_beyond(settings, current_lsn(conn))
        before = sent()
        await asyncio.sleep(3)
        # The first heartbeat may still be on its way, and the server logs by itself which transactions run, every 15 s.
        assert sent() - before <= 2
        before = sent()
        for number in range(300):
            insert(conn, record_id=str(number))
            await asyncio.sleep(0.005)
        await read_until(settings, 301)
        assert sent() - before <= 5 * 5 + 5


async def test_the_server_ends_a_silent_session_and_the_stream_comes_back(settings, conn) -> None:
    async with running(settings) as task:
        pid = slot(settings).active_pid
        conn.execute("select pg_terminate_backend(%s)", [pid])
        insert(conn)
        (record,) = await read_until(settings, 1)
        assert not task.done()
    assert record.place.ord == 0


async def test_a_stream_under_a_short_sender_timeout_lives(settings, conn) -> None:
    conn.execute("alter role projector in database " + settings.slot_name + " set wal_sender_timeout = '1s'")
    async with running(settings):
        pid = slot(settings).active_pid
        await asyncio.sleep(2.5)
        assert slot(settings).active_pid == pid


async def test_a_status_update_may_ask_for_an_answer(settings, conn) -> None:
    async with running(settings):
        pass
    replication = await Replication.connect(settings)
    keepalives: list[Any] = []
    try:
        assert await replication.start(settings.slot_name, settings.publication_name)
        replication.confirm(0, 0, reply_wanted=True)
        async with asyncio.timeout(5):
            while not keepalives:
                replication.receive(lambda message: None, keepalives.append, 1 << 16)
                await asyncio.sleep(0.01)
    finally:
        await replication.close()
    assert not keepalives[-1].reply_wanted
