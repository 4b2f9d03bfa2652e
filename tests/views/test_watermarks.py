from __future__ import annotations

import asyncio
import math
import time

import orjson
import pytest
from prometheus_client import REGISTRY

from projector.log.place import lsn_text
from projector.log.topics import Topics
from projector.log.watermark import KEY, Watermark
from projector.sql.connection import connect
from projector.views import engine, watermarks
from projector.views.declared import MISSIONS, RECORDS, View
from projector.views.positions import Partition
from projector.views.watermarks import Staleness
from tests.views.log import row, running

TOPIC = "t.sync_changes.ai"
OTHER = "t.sync_changes.notes"


def staleness(view: View) -> float:
    found = REGISTRY.get_sample_value("projector_view_staleness_seconds", {"view": view.name})
    return math.nan if found is None else found


def applied_lsn(view: View) -> float | None:
    return REGISTRY.get_sample_value("projector_view_applied_lsn_bytes", {"view": view.name})


async def until(condition, limit_s=10.0):
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit
        await asyncio.sleep(0.01)


def mark(committed_at: float, *ends: int, lsn: int | None = None, source: int = 1) -> Watermark:
    """Of a topic with as many partitions as there are `ends`."""
    lsn = round(committed_at * 1000) if lsn is None else lsn
    return Watermark(source, lsn, round(committed_at * 1e6), None, {TOPIC: list(ends), "t.mission.due": [9, 9]})


@pytest.fixture
async def conn(settings):
    async with await connect(settings, "projector_engine") as opened:
        yield opened


@pytest.fixture
def view():
    return Staleness(MISSIONS)


async def test_a_view_is_as_old_as_the_newest_watermark_that_it_has_applied(log):
    await log.make_watermarks()
    await log.write([row("insert", "m1", 1, {"title": "t"})])
    async with running(log.settings):
        await log.caught_up()
        await log.watermark(0x2000000, time.time() - 30)
        await until(lambda: 30 <= staleness(MISSIONS) < 40)
        assert applied_lsn(MISSIONS) == 0x2000000
        await log.write([row("insert", "m2", 2, {"title": "t"})])
        await log.caught_up()
        assert staleness(MISSIONS) >= 30
        await log.watermark(0x3000000, time.time())
        await until(lambda: staleness(MISSIONS) < 5)
        assert (applied_lsn(MISSIONS), applied_lsn(RECORDS)) == (0x3000000, 0x3000000)


async def test_a_view_that_stands_still_grows_older_though_watermarks_go_on(log):
    await log.make_watermarks()
    await log.write([row("insert", "m1", 1, {"title": "t"})])
    async with running(log.settings):
        await log.watermark(0x2000000, time.time())
        await log.caught_up()
        await until(lambda: staleness(MISSIONS) < 5)
        async with log.admin.transaction():
            await log.admin.execute("select from mana_ai.stream_positions where view = 'missions' for update")
            await log.write([row("insert", "m2", 2, {"title": "t"})])
            behind = time.time()
            for number in range(5):
                await log.watermark(0x2000001 + number, time.time())
                await asyncio.sleep(0.1)
            await until(lambda: applied_lsn(RECORDS) == 0x2000005)
            assert applied_lsn(MISSIONS) == 0x2000000
            assert staleness(MISSIONS) > time.time() - behind
            before = staleness(MISSIONS)
            await asyncio.sleep(0.05)
            assert staleness(MISSIONS) >= before + 0.05
        await log.caught_up()
        await until(lambda: applied_lsn(MISSIONS) == 0x2000005)
        assert staleness(MISSIONS) < time.time() - behind


async def test_records_of_other_views_do_not_make_a_view_old(log, monkeypatch):
    monkeypatch.setattr(engine, "IDLE_ADVANCE_S", 600)
    await log.make_watermarks()
    async with running(log.settings):
        await log.write([row("insert", "g1", 1, {"text": "t"}, table="goals")])
        await log.watermark(0x2000003, time.time())
        await until(lambda: applied_lsn(MISSIONS) == 0x2000003)


async def test_the_topic_may_be_made_after_the_views_have_started_and_hold_what_is_no_watermark(log):
    async with running(log.settings):
        await log.write([row("insert", "m1", 1, {"title": "t"})])
        await log.caught_up()
        await log.make_watermarks()
        topic = Topics(log.settings.topic_prefix).watermarks
        for value in (b"{}", b"[", orjson.dumps({"source": 1}), None):
            await log.producer.send_and_wait(topic, value, KEY)
        await log.watermark(0x2000004, time.time())
        await until(lambda: applied_lsn(MISSIONS) == 0x2000004)


async def test_a_view_that_begins_far_behind_says_so(log):
    """The topic's last watermark alone would call it young."""
    await log.make_watermarks()
    await log.write([row("insert", "m1", 1, {"title": "t"})])
    async with running(log.settings):
        await log.caught_up()
    hour_ago = time.time() - 3600
    await store(log, 0x2000002, hour_ago)
    await log.write([row("insert", f"m{n}", 2, {"title": "t"}) for n in range(50)])
    await store(log, 0x3000000, time.time() - 1)
    await log.watermark(0x3000001, time.time())
    async with log.admin.transaction():
        await log.admin.execute("select from mana_ai.stream_positions where view = 'missions' for update")
        async with running(log.settings):
            await until(lambda: staleness(MISSIONS) >= 3600)
            assert applied_lsn(MISSIONS) == 0x2000002
            await log.admin.execute("rollback")
            await log.caught_up()
            await until(lambda: staleness(MISSIONS) < 60)


async def store(log, lsn, committed_at):
    """Puts a watermark of the present ends into its table, as the publisher does once a second."""
    await log.admin.execute(
        "insert into mana_ai.cdc_sources (generation, system_identifier, slot_name) values (1, 's', 's')"
        " on conflict do nothing"
    )
    await log.admin.execute(
        "insert into mana_ai.cdc_watermarks (generation, lsn, committed_at, horizon, ends)"
        " values (1, %s, to_timestamp(%s), '700', %s)",
        [lsn_text(lsn), committed_at, orjson.dumps(log.all_ends()).decode()],
    )


async def test_without_a_watermark_or_without_partitions_nothing_is_said(conn, view):
    assert math.isnan(view.seconds())
    await view.begin(conn, {Partition(TOPIC, 0): 3})
    assert math.isnan(view.seconds())
    view.add(mark(time.time() - 5, 3))
    assert 5 <= view.seconds() < 20
    await view.begin(conn, {})
    assert math.isnan(view.seconds())


async def test_a_view_that_has_reached_no_watermark_is_at_least_as_old_as_the_oldest(conn, view):
    applied = {Partition(TOPIC, 0): 3}
    await view.begin(conn, applied)
    view.add(mark(time.time() - 50, 4))
    view.add(mark(time.time() - 5, 5))
    assert view.seconds() >= 50
    applied[Partition(TOPIC, 0)] = 5
    view.advance()
    assert 5 <= view.seconds() < 50


async def test_every_partition_counts_and_only_those_of_this_process(conn, view):
    applied = {Partition(TOPIC, 0): 7, Partition(TOPIC, 2): 6}
    await view.begin(conn, applied)
    view.add(mark(100, 7, 1000, 6))
    view.add(mark(200, 7, 1000, 7))
    assert applied_lsn(MISSIONS) == 100_000
    applied[Partition(TOPIC, 2)] = 7
    view.advance()
    assert applied_lsn(MISSIONS) == 200_000


async def test_a_watermark_that_does_not_know_a_topic_of_the_view_vouches_for_nothing(conn, view):
    await view.begin(conn, {Partition(TOPIC, 0): 7, Partition(OTHER, 0): 0})
    view.add(mark(100, 7))
    assert math.isnan(view.seconds())
    view.add(mark(200, 7)._replace(ends={TOPIC: [7], OTHER: [0]}))
    assert applied_lsn(MISSIONS) == 200_000


async def test_ends_of_an_earlier_source_or_of_topics_before_they_were_made_anew_hold_nothing_up(conn, view):
    applied = {Partition(TOPIC, 0): 7}
    await view.begin(conn, applied)
    view.add(mark(100, 50, lsn=900))
    view.add(mark(200, 7, lsn=10, source=2))
    assert applied_lsn(MISSIONS) == 10
    view.add(mark(300, 5, lsn=950))
    assert applied_lsn(MISSIONS) == 10
    view.add(mark(400, 60, lsn=20, source=2))
    view.add(mark(500, 8, lsn=30, source=2))
    applied[Partition(TOPIC, 0)] = 8
    view.advance()
    assert applied_lsn(MISSIONS) == 30


async def test_the_memory_of_a_view_that_stands_still_is_bounded_and_its_age_stays_honest(conn, view):
    applied = {Partition(TOPIC, 0): 0}
    await view.begin(conn, applied)
    count = 20 * watermarks.PENDING
    start = time.time() - count
    for number in range(1, count + 1):
        view.add(mark(start + number, number, lsn=number))
        assert len(view._pending) <= watermarks.PENDING
    for part in (0.25, 0.5, 0.9):
        applied[Partition(TOPIC, 0)] = reached = round(count * part)
        view.advance()
        true = count - reached
        # Never too young, and not much too old.
        assert true <= view.seconds() + 1 < true + count / 100
    applied[Partition(TOPIC, 0)] = count
    view.advance()
    assert (applied_lsn(MISSIONS), len(view._pending)) == (count, 0)
