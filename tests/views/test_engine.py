from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

import pytest
from aiokafka import TopicPartition
from psycopg import sql

from projector.errors import FoldVersionError, ForeignClusterError, PositionOutOfRangeError
from projector.sql import query
from projector.sql.connection import connect
from projector.views import kafka
from projector.views.batch import Applied
from projector.views.declared import MISSIONS, RECORDS
from projector.views.engine import Engine
from projector.views.positions import LOST, Partition, Position, Positions, widths_of
from projector.views.verify import verify
from tests.views.log import at, row, running

MISSION = "select * from mana_ai.mission_snapshots where mission_id = %s"


@asynccontextmanager
async def engine_of(settings, view=MISSIONS):
    """An engine and a reader of whole partitions, both without a group."""
    async with AsyncExitStack() as stack:
        conn = await stack.enter_async_context(await connect(settings, "projector_engine"))
        partitions = await kafka.partitions_of(settings, kafka.topics_of(settings, view))
        positions = Positions(view.name, await kafka.cluster_id(settings))
        engine = Engine(view, positions, conn, widths_of(partitions))
        consumer = await stack.enter_async_context(kafka.consumer(settings))
        consumer.assign([TopicPartition(*partition) for partition in partitions])
        yield engine, partitions, consumer


async def apply(engine, messages):
    """Takes and commits, as the loop does with what it has fetched."""
    return Applied(seek=await engine.take(messages)) + await engine.commit()


async def fetch(consumer, ends, starts):
    """Everything from `starts` to `ends`, by partition."""
    found = {}
    for partition, end in ends.items():
        consumer.seek(TopicPartition(*partition), starts.get(partition, 0))
        messages = []
        while not messages or messages[-1].offset + 1 < end:
            messages += (await consumer.getone(TopicPartition(*partition)),)
        found[Partition(*partition)] = messages
    return found


async def test_a_change_is_a_row_with_its_typed_columns(log):
    data = {"title": "Water plants", "state": "active", "agentId": "a1", "nextRunAt": at(3600), "updatedAt": at(1)}
    await log.write([row("insert", "m1", 2, data, space_id="s1"), row("update", "m1", 5, {"cadence.atHour": 7}, 4)])
    async with running(log.settings):
        await log.caught_up(MISSIONS)
        cursor = await log.admin.execute(MISSION, ["m1"])
        names = [column.name for column in cursor.description]
        shown = dict(zip(names, await cursor.fetchone(), strict=True))
    assert shown["record"] == {
        "title": "Water plants",
        "state": "active",
        "agentId": "a1",
        "nextRunAt": at(3600),
        "cadence": {"atHour": 7},
    }
    times = {
        name: None if shown[name] is None else shown[name].timestamp()
        for name in ("next_run_at", "deleted_at", "last_applied_at", "updated_at")
    }
    start = 1780308000
    assert times == {
        "next_run_at": start + 3600,
        "deleted_at": None,
        "last_applied_at": start + 5,
        "updated_at": start + 4,
    }
    assert (shown["user_id"], shown["status"], shown["agent_id"], shown["space_id"]) == ("u1", "active", "a1", "s1")
    assert (shown["deleted"], shown["complete"]) == (False, True)
    assert (shown["source"], shown["source_lsn"]) == (1, "0/1000200")


async def test_missions_are_due_that_are_active_and_whole_and_have_a_time(log):
    due = {"state": "active", "nextRunAt": "2020-01-01T00:00:00Z"}
    await log.write(
        [
            row("insert", "due", 1, due),
            row("insert", "paused", 2, due | {"state": "paused"}),
            row("insert", "odd", 3, due | {"nextRunAt": "tomorrow"}),
            row("update", "partial", 4, due),
            row("insert", "deleted", 5, due),
            row("delete", "deleted", 6, {}),
        ]
    )
    async with running(log.settings):
        await log.caught_up(MISSIONS)
    asked = {"default_agent": "a1", "longest_agent": 256, "limit": 10}
    found = await log.admin.execute(query("planner/find_due"), asked)
    assert await found.fetchall() == [("u1", "due", "a1", datetime(2020, 1, 1, tzinfo=UTC))]


async def test_each_table_goes_to_its_view_and_foreign_records_move_the_position(log):
    await log.write(
        [
            row("insert", "m1", 1, {"title": "m"}),
            row("insert", "a1", 2, {"name": "a"}, table="agents"),
            row("insert", "g1", 3, {"text": "g"}, table="goals"),
            row("insert", "n1", 4, {"text": "n"}, app_id="notes", table="notes"),
        ]
    )
    async with running(log.settings):
        await log.caught_up()
    counts = "select (select count(*) from mana_ai.mission_snapshots), (select count(*) from mana_ai.agent_snapshots)"
    assert await (await log.admin.execute(counts)).fetchall() == [(1, 1)]
    kept = await log.admin.execute("select app_id, table_name, record_id from mana_ai.record_snapshots order by 1")
    assert await kept.fetchall() == [("ai", "goals", "g1"), ("notes", "notes", "n1")]


async def test_two_engines_on_the_same_partitions_lose_and_double_nothing(log):
    rows = [row("insert", "m1", 0, {"title": "0"})]
    rows += [row("update", f"m{number % 5}", number, {"title": str(number)}) for number in range(1, 200)]
    await log.write(rows)
    async with engine_of(log.settings) as (one, partitions, consumer), engine_of(log.settings) as (other, _, beside):
        starts = {engine: await engine.open(partitions) for engine in (one, other)}
        lost = 0

        async def work(engine, consumer, size):
            nonlocal lost
            while any(engine.read_to(Partition(*place)) < end for place, end in log.ends.items()):
                here = {place: engine.read_to(Partition(*place)) for place in log.ends}
                ends = {p: min(end, here[p] + size) for p, end in log.ends.items() if here[p] < end}
                applied = await apply(engine, await fetch(consumer, ends, here))
                lost += bool(applied.seek)

        assert starts[one] == starts[other]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(work(one, consumer, 7))
            tasks.create_task(work(other, beside, 11))
    assert lost > 0
    report = await verify(log.settings, MISSIONS, settle_s=0)
    assert (report.rows, report.differences) == (5, 0)


async def test_a_writer_beside_the_engine_makes_it_forget_what_it_holds(log):
    first, second = row("insert", "m1", 0, {"title": "old"}), row("update", "m1", 1, {"note": "n"})
    await log.write([first])
    async with engine_of(log.settings) as (engine, partitions, consumer):
        await engine.open(partitions)
        await apply(engine, await fetch(consumer, log.ends, {}))
        async with log.admin.transaction():
            await log.admin.execute("delete from mana_ai.mission_snapshots_1")
            await log.admin.execute("update mana_ai.stream_positions set revision = revision + 1")
        starts = dict(log.ends)
        await log.write([second])
        messages = await fetch(consumer, log.ends, starts)
        applied = await apply(engine, messages)
        assert applied.rows == 0
        assert dict(applied.seek) == starts
        assert (await apply(engine, messages)).rows == 1
    records = await log.admin.execute("select record from mana_ai.mission_snapshots")
    assert await records.fetchall() == [({"note": "n"},)]


async def test_a_batch_that_was_on_its_way_before_the_partition_was_opened_is_asked_for_again(log):
    await log.write([row("insert", "m1", 0, {}), row("insert", "m2", 1, {}), row("insert", "m3", 2, {})])
    async with engine_of(log.settings) as (engine, partitions, consumer):
        await engine.open(partitions)
        [place] = log.ends
        late = await fetch(consumer, log.ends, {place: 1})
        assert dict((await apply(engine, late)).seek) == {place: 0}
        with pytest.raises(PositionOutOfRangeError, match="needs offset 0"):
            await apply(engine, late)


async def test_positions_of_another_cluster_or_of_other_rules_stop_the_view(log):
    await log.write([row("insert", "m1", 0, {})])
    async with running(log.settings):
        await log.caught_up(MISSIONS)
    async with engine_of(log.settings) as (engine, partitions, _):
        await log.admin.execute("update mana_ai.stream_positions set fold_version = fold_version + 1")
        with pytest.raises(FoldVersionError, match="missions"):
            await engine.open(partitions)
        await log.admin.execute("update mana_ai.stream_positions set cluster = 'elsewhere'")
        with pytest.raises(ForeignClusterError, match="elsewhere"):
            await engine.open(partitions)


@pytest.mark.parametrize("column", ["next_offset", "revision", "fold_version"])
async def test_a_swap_is_lost_when_anything_that_it_compares_has_changed(settings, column):
    positions, partition = Positions("missions", "cluster"), Partition("t", 0)
    async with await connect(settings, "projector_engine") as conn:
        _, known = await positions.load(conn, [partition])
        there, back = (
            sql.SQL("update mana_ai.stream_positions set {0} = {0} + {1}").format(sql.Identifier(column), by)
            for by in (1, -1)
        )
        await conn.execute(there)
        with pytest.raises(LOST):
            await positions.swap(conn, known, {partition: Position(7, 0)})
        assert 7 not in (await positions.read(conn)).values()
        await conn.execute(back)
        await positions.swap(conn, known, {partition: Position(7, 0)})
        assert await positions.read(conn) == {partition: 7}


async def test_a_topic_that_ends_below_the_position_stops_the_view_and_only_it(log, capsys):
    await log.write([row("insert", "m1", 0, {}), row("insert", "n1", 1, {}, app_id="notes", table="notes")])
    async with running(log.settings):
        await log.caught_up()
    await log.admin.execute("update mana_ai.stream_positions set next_offset = 1000 where view = 'missions'")
    with pytest.raises(PositionOutOfRangeError, match="view missions goes on at offset 1000"):
        await _apply_another_note(log, capsys)


async def _apply_another_note(log, capsys):
    async with running(log.settings), asyncio.timeout(30):
        await log.write([row("insert", "n2", 2, {}, app_id="notes", table="notes")])
        await log.caught_up(RECORDS)
        while "view stopped" not in capsys.readouterr().out:
            await asyncio.sleep(0.05)
