"""What a fill may take: rows a second, memory, the size of a record."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import psycopg
import pytest

from projector.cdc import republish
from projector.cdc.topics import ensure_topics
from projector.sql.connection import connect
from projector.views.status import read_fills
from streams import cdc
from tests.cdc.support import (
    ids,
    insert,
    peak_mb,
    process,
    publish_inserts_only,
    read,
    read_until,
    running,
    slot_in_use,
)


@pytest.fixture
def conn(settings):
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        yield conn


async def test_a_throttled_fill_keeps_to_its_rate_and_how_far_it_came_and_ends_when_asked(settings, conn) -> None:
    settings = settings.model_copy(update={"fill_rows_per_s": 20})
    for number in range(200):
        insert(conn, record_id=str(number))
    stop = asyncio.Event()
    began = time.monotonic()
    stream = asyncio.create_task(cdc.run(settings, stop))
    records = await read_until(settings, 60)
    assert len(records) <= 20 * (time.monotonic() - began) + 20
    row = conn.execute("select rows from mana_ai.cdc_fills where rows > 0").fetchone()
    assert row is not None, "nothing was kept of how far it came"
    stop.set()
    await asyncio.wait_for(stream, 5)
    assert len(await read(settings)) < 200


async def test_the_time_left_of_a_fill_does_not_count_how_long_it_lay(settings, conn) -> None:
    settings = settings.model_copy(update={"fill_rows_per_s": 20})
    for number in range(400):
        insert(conn, record_id=str(number))
    for hours in (0, 3):
        conn.execute(
            "update mana_ai.cdc_fills set started_at = started_at - lay, resumed_at = resumed_at - lay,"
            " reported_at = reported_at - lay from make_interval(hours => %s) as lay",
            [hours],
        )
        stop = asyncio.Event()
        stream = asyncio.create_task(cdc.run(settings, stop))
        await read_until(settings, 80 * (1 + bool(hours)))
        (fill,) = await read_fills(settings)
        stop.set()
        await asyncio.wait_for(stream, 5)
        assert fill.total == 400
        assert fill.silent_s < 5
        assert fill.eta_s == pytest.approx((400 - fill.done) / 20, rel=0.5)


async def test_a_slow_fill_holds_no_snapshot_for_long(settings, conn) -> None:
    conn.execute(
        "insert into sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)"
        " select 'ai', 'notes', i::text, 'anna', 'insert', jsonb_build_object('x', repeat('y', 50000)), 'c'"
        " from generate_series(1, 300) i"
    )
    held = (
        "select extract(epoch from clock_timestamp() - query_start)::float8 from pg_stat_activity"
        " where datname = current_database() and backend_xmin is not null and query ilike '%copy (%'"
    )
    stop = asyncio.Event()
    stream = asyncio.create_task(cdc.run(settings.model_copy(update={"fill_rows_per_s": 20}), stop))
    await read_until(settings, 1)
    seen = []
    for _ in range(70):
        seen += [seconds for (seconds,) in conn.execute(held).fetchall()]
        await asyncio.sleep(0.1)
    stop.set()
    await asyncio.wait_for(stream, 5)
    assert max(seen, default=0.0) < 4


async def test_erasures_keep_to_the_rate_end_when_asked_and_are_told_once(settings, conn) -> None:
    publish_inserts_only(conn, settings)
    async with running(settings):
        gone = [insert(conn, record_id=str(n)) for n in range(120)]
        await read_until(settings, 120)
    conn.execute("delete from sync_changes")
    async with await connect(settings, "projector_cdc") as asking:
        await republish.ask(asking, settings.apps)
    slow = settings.model_copy(update={"fill_rows_per_s": 20})
    told = 0
    for _ in range(2):
        stop = asyncio.Event()
        began = time.monotonic()
        stream = asyncio.create_task(cdc.run(slow, stop))
        records = await read_until(slow, 120 + told + 25)
        assert len(records) <= 120 + told + 20 * (time.monotonic() - began) + 20
        open_for_long = (
            "select query from pg_stat_activity where datname = current_database()"
            " and application_name = 'projector_cdc' and clock_timestamp() - xact_start > interval '0.5 s'"
        )
        assert conn.execute(open_for_long).fetchall() == []
        stop.set()
        await asyncio.wait_for(stream, 5)
        told = len(await read(settings)) - 120
        assert told < 120
    async with running(settings):
        pass
    records = await read(settings)
    assert ids(r for r in records if r.headers["op"] == b"erased") == Counter(gone)
    assert len(records) == 240


async def test_a_large_table_is_filled_in_bounded_memory(settings, conn) -> None:
    await ensure_topics(settings)
    small = settings.model_copy(update={"apps": ("notes",)})
    with process(small) as child:
        await slot_in_use(small)
        insert(conn, app_id="notes")
        await read_until(small, 1)
        before = peak_mb(child.pid)
    conn.execute(
        "insert into sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)"
        " select 'ai', 'notes', i::text, 'user-' || i % 50, 'insert', jsonb_build_object('x', repeat('y', 2000)), 'c'"
        " from generate_series(1, 40000) i"
    )
    with process(settings) as child:
        await slot_in_use(settings, within_s=120)
        filled = peak_mb(child.pid)
    assert len(await read(settings)) == 40_001
    assert filled - before < 60


async def test_a_record_of_a_fill_above_the_limit_becomes_a_dead_letter_and_the_fill_goes_on(settings, conn) -> None:
    settings = settings.model_copy(update={"max_message_bytes": 256 * 1024})
    before = insert(conn)
    large = insert(conn, data={"text": "x" * 300_000})
    after = insert(conn)
    async with running(settings):
        records = await read_until(settings, 2)
    assert [r.json["id"] for r in records] == [before, after]
    letters = conn.execute("select change_id, user_id, reason from mana_ai.cdc_dead_letters").fetchall()
    assert letters == [(large, "anna", "too-large")]
