"""A topic that was deleted and made anew under the same name: whose records a position counts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from uuid import uuid4

import psycopg
import pytest
from aiokafka.admin import NewTopic
from psycopg.types.json import Jsonb

from projector.cdc.topics import wanted_settings
from projector.errors import BrokerUnavailableError, ForeignClusterError, NotReachedError, TopicRecreatedError
from projector.kafka import admin
from projector.log.topics import Topics
from projector.sql import query
from projector.sql.connection import connect
from projector.views import kafka, rebuild
from projector.views.consume import consume
from projector.views.declared import MISSIONS, VIEWS
from projector.views.positions import Partition, Position, Positions
from projector.views.topic_ids import topic_ids
from projector.views.verify import verify
from projector.views.wait import wait_for_lsn, wait_for_offset, wal_end
from projector.views.watermarks import Staleness
from tests.cdc import support
from tests.views.log import open_log, row, running

APP = "ai"


@pytest.fixture
async def log(settings):
    async with open_log(settings) as opened:
        yield opened


@pytest.fixture
def sync(settings):
    """As the sync server and devices write; the change stream publishes."""
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        yield conn


async def delete(settings):
    topic = Topics(settings.topic_prefix).changes(APP)
    async with admin(settings) as client:
        await client.delete_topics([topic])
        async with asyncio.timeout(10):
            while topic in await client.list_topics():
                await asyncio.sleep(0.05)


async def create(settings):
    name = Topics(settings.topic_prefix).changes(APP)
    topic = NewTopic(name, settings.topic_partitions, 1, topic_configs=wanted_settings(settings))
    async with admin(settings) as client, asyncio.timeout(10):
        # The name is taken until the broker is done with the deletion.
        while (await client.create_topics([topic])).topic_errors[0][1]:
            await asyncio.sleep(0.05)


async def ids_of(settings):
    async with asyncio.timeout(10):
        while True:
            # The broker tells of a topic a moment after it has made it.
            with contextlib.suppress(BrokerUnavailableError):
                return await topic_ids(settings, kafka.topics_of(settings, MISSIONS))
            await asyncio.sleep(0.05)


async def test_a_topic_made_anew_has_another_id(log):
    before = await ids_of(log.settings)
    assert set(before) == set(kafka.topics_of(log.settings, MISSIONS))
    assert await ids_of(log.settings) == before
    await delete(log.settings)
    with pytest.raises(BrokerUnavailableError, match=r"knows no topic .*\.ai"):
        await topic_ids(log.settings, before)
    await create(log.settings)
    after = await ids_of(log.settings)
    assert set(after) == set(before)
    assert after != before


async def test_a_view_stops_at_a_topic_made_anew_that_reaches_beyond_its_position(log):
    await log.write([row("insert", "m1", 1, {"title": "t"})])
    async with running(log.settings):
        await log.caught_up()
    await delete(log.settings)
    await create(log.settings)
    await log.publish([row("insert", f"x{n}", n, {"title": "of another log"}) for n in range(5)])
    with pytest.raises(TopicRecreatedError, match=r"goes on at offset 1 of .*, and the topic was made anew"):
        await asyncio.wait_for(consume(log.settings, MISSIONS, Staleness(MISSIONS), asyncio.Event()), 20)
    assert await (await log.admin.execute("select count(*) from mana_ai.mission_snapshots")).fetchone() == (1,)


@pytest.fixture
async def elsewhere(log):
    """Views that stand in a topic that was made anew, and reaches beyond their positions with other records.

    The row of m1 lacks a change of its own, which the topic has above the position: as if it were still to come.
    """
    applied, lacking = row("insert", "m1", 1, {"title": "t"}), row("update", "m1", 2, {"title": "never applied"})
    await log.publish([applied])
    async with running(log.settings):
        await log.caught_up()
    await delete(log.settings)
    await create(log.settings)
    await log.store([applied, lacking])
    await log.publish([*(row("insert", f"x{n}", n, {"title": "of another log"}) for n in range(2)), lacking])
    return log


async def test_what_lies_above_a_position_of_another_topic_or_cluster_is_not_still_to_come(elsewhere):
    settings = elsewhere.settings
    with pytest.raises(TopicRecreatedError, match="the topic was made anew"):
        await verify(settings, MISSIONS, settle_s=0)
    await elsewhere.admin.execute("update mana_ai.stream_positions set topic_id = null, cluster = 'another'")
    with pytest.raises(ForeignClusterError, match="of Kafka cluster another"):
        await verify(settings, MISSIONS, settle_s=0)


@pytest.mark.parametrize("column", ["topic_id = gen_random_uuid()", "cluster = 'another'"])
async def test_nobody_is_told_that_a_view_shows_what_it_applied_of_another_topic_or_cluster(log, column):
    await log.make_watermarks()
    await log.write([row("insert", "m1", 1, {"title": "t"})])
    async with running(log.settings):
        await log.caught_up()
    async with await connect(log.settings, "projector_reader") as reader:
        lsn, _ = await wal_end(reader)
        await log.watermark(lsn, time.time())
        await wait_for_lsn(log.settings, reader, MISSIONS, lsn, 5)
        await log.admin.execute(f"update mana_ai.stream_positions set {column}")  # noqa: S608
        with pytest.raises(NotReachedError, match=r"view missions is at offset 0 of .*, not 1"):
            await wait_for_lsn(log.settings, reader, MISSIONS, lsn, 1)


async def test_a_spare_generation_of_an_earlier_topic_never_serves(log):
    """Its positions would go on in the topic made anew, over records that nobody applied."""
    await log.write([row("insert", "m1", 1, {"title": "t"})])
    async with running(log.settings):
        await log.caught_up()
    await rebuild.start(log.settings, MISSIONS)
    await delete(log.settings)
    await create(log.settings)
    await log.write([row("insert", f"x{n}", n, {"title": "skipped"}) for n in range(3)])
    with pytest.raises(TopicRecreatedError, match="view missions@spare goes on at offset 1"):
        await rebuild.promote(log.settings, MISSIONS, accept_differences=True)


async def test_a_view_of_an_earlier_topic_goes_on_after_a_rebuild_from_all_of_the_one_made_anew(log):
    rows = [row("insert", f"m{n}", n, {"title": "t"}) for n in range(5)]
    await log.write(rows[:2])
    async with running(log.settings):
        await log.caught_up()
    await delete(log.settings)
    await create(log.settings)
    await log.store(rows[2:])
    await log.publish(rows)
    assert (await rebuild.start(log.settings, MISSIONS)).events == 5
    await rebuild.promote(log.settings, MISSIONS, accept_differences=True)
    assert (await verify(log.settings, MISSIONS, settle_s=0)).rows == 5
    # The iterations stand in the earlier topic still: that is their affair alone.
    stop = asyncio.Event()
    at_work = asyncio.create_task(consume(log.settings, MISSIONS, Staleness(MISSIONS), stop))
    await log.write([row("update", "m1", 9, {"title": "afterwards"})])
    await log.caught_up(MISSIONS)
    stop.set()
    await asyncio.wait_for(at_work, 20)
    assert (await verify(log.settings, MISSIONS)).examples == ()
    with pytest.raises(TopicRecreatedError):
        await rebuild.rollback(log.settings, MISSIONS)


async def test_a_view_of_another_cluster_goes_on_in_this_one_after_a_rebuild_and_not_back(log):
    await log.write([row("insert", "m1", 1, {"title": "t"})])
    async with running(log.settings):
        await log.caught_up()
    await log.admin.execute("update mana_ai.stream_positions set cluster = 'another', topic_id = gen_random_uuid()")
    with pytest.raises(ForeignClusterError):
        await asyncio.wait_for(consume(log.settings, MISSIONS, Staleness(MISSIONS), asyncio.Event()), 20)
    for view in VIEWS.values():
        await rebuild.start(log.settings, view)
        assert (await rebuild.promote(log.settings, view)).examples == ()
    async with running(log.settings):
        await log.write([row("update", "m1", 2, {"title": "here"})])
        await log.caught_up()
        reports = [await verify(log.settings, view) for view in VIEWS.values()]
    assert [(report.rows, report.examples) for report in reports] == [(1, ()), (0, ()), (1, ()), (0, ())]
    with pytest.raises(ForeignClusterError):
        await rebuild.rollback(log.settings, MISSIONS)


async def test_a_rebuild_that_was_interrupted_begins_anew_when_its_topic_did(log):
    await log.write([row("insert", "m1", 1, {"title": "of the earlier topic"})])
    async with running(log.settings):
        await log.caught_up()
    await rebuild.start(log.settings, MISSIONS)
    await log.admin.execute("update mana_ai.view_rebuilds set state = 'filling' where view = 'missions'")
    await delete(log.settings)
    await create(log.settings)
    await log.publish([row("insert", "m2", 1, {"title": "of the topic made anew"})])
    done = await rebuild.start(log.settings, MISSIONS)
    assert (done.state, done.events) == ("ready", 1)
    spare = await log.admin.execute("select mission_id from mana_ai.mission_snapshots_2")
    assert await spare.fetchall() == [("m2",)]


async def test_positions_take_over_the_id_only_where_it_is_unknown_or_nothing_was_applied(settings):
    positions = Positions("missions", "cluster")
    fresh, begun = Partition("t", 0), Partition("t", 1)
    old, new = {"t": uuid4()}, {"t": uuid4()}
    async with await connect(settings, "projector_engine") as conn:
        _, known = await positions.load(conn, [fresh, begun])
        await positions.swap(conn, {begun: known[begun]}, {begun: Position(3, 0)})
        await positions.load(conn, [fresh, begun], old)
        await positions.load(conn, [fresh], new)
        with pytest.raises(TopicRecreatedError, match="at offset 3 of t-1"):
            await positions.load(conn, [begun], new)
        async with await connect(settings, "projector_cdc") as cdc:
            await cdc.execute(query("cdc/take_positions_back"), ['{"t": [0, 2]}'])
        # An engine at work comes to know of it when it loses the swap, and goes on at once.
        _, taken_back = await positions.load(conn, [begun])
        assert taken_back[begun].next_offset == 2
        await positions.load(conn, [fresh, begun], new)
        with pytest.raises(TopicRecreatedError):
            await positions.load(conn, [begun], old)


async def noticed(sync, ends):
    """Waits until a watermark tells of that many records in one partition, so that their loss is seen."""
    async with asyncio.timeout(10):
        while not sync.execute(
            "select 1 from mana_ai.cdc_watermarks where jsonb_path_exists(ends, '$.*[*] ? (@ >= $n)', %s)",
            [Jsonb({"n": ends})],
        ).fetchone():
            await asyncio.sleep(0.05)


async def caught_up(settings):
    """Waits for the views to have applied what the topics hold now."""
    ends = {}
    for record in await support.read(settings):
        ends[record.topic, record.partition] = record.offset + 1
    async with await connect(settings, "projector_reader") as conn:
        for view in VIEWS.values():
            topics = kafka.topics_of(settings, view)
            wanted = {place: end for place, end in ends.items() if place[0] in topics}
            await wait_for_offset(conn, view, wanted, 20)


async def test_the_change_stream_fills_a_deleted_topic_again_and_the_views_go_on_in_it(settings, sync):
    users = ["anna", "bertha", "carla"]
    async with support.running(settings):
        for number in range(30):
            support.insert(sync, record_id=f"m{number}", user_id=users[number % 3])
        await support.read_until(settings, 30)
        async with running(settings):
            await caught_up(settings)
        await noticed(sync, 10)
    await delete(settings)
    async with support.running(settings):
        support.insert(sync, record_id="after", user_id="anna")
        assert len(await support.read_until(settings, 31)) == 31
        async with running(settings):
            await caught_up(settings)
            reports = [await verify(settings, view) for view in VIEWS.values()]
    assert {report.view: (report.rows, report.differences) for report in reports} == {
        "missions": (31, 0),
        "agents": (0, 0),
        "iterations": (31, 0),
        "records": (0, 0),
    }


async def test_a_topic_made_anew_under_a_stream_at_work_loses_nothing(settings, sync):
    async with support.running(settings):
        written = [support.insert(sync, record_id=f"m{n}", user_id="anna") for n in range(10)]
        await support.read_until(settings, 10)
        await noticed(sync, 10)
        await delete(settings)
        await create(settings)
        written.append(support.insert(sync, record_id="after", user_id="anna"))
        records = await support.read_until(settings, 11, 40)
    assert sorted(record.headers["id"].decode() for record in records) == sorted(written)
