from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack, nullcontext

import orjson
import psycopg
import pytest
from aiokafka import TopicPartition
from structlog.testing import capture_logs

from projector.cdc.commands import DUE
from projector.errors import (
    DifferencesError,
    NothingRebuiltError,
    PositionOutOfRangeError,
    ProjectorError,
    RebuildBusyError,
    SpareInUseError,
)
from projector.kafka import admin
from projector.sql.connection import connect
from projector.views import generations, rebuild
from projector.views.declared import MISSIONS, RECORDS, VIEWS
from projector.views.fetch import fetcher
from projector.views.positions import Partition, Positions
from projector.views.verify import verify
from tests.views.log import at, row, running, value_of
from tests.views.test_dead_letters import POISON

TITLES = "select mission_id, record ->> 'title' from mana_ai.mission_snapshots order by 1"


async def state(log, view=MISSIONS):
    async with await connect(log.settings, "projector_engine") as conn:
        found = await generations.load_one(conn, view)
    return found.state, found.serving


async def fetch(log, statement):
    return await (await log.admin.execute(statement)).fetchall()


@pytest.fixture
async def served(log):
    """Missions of forty users with a history, one dead letter, and views that have stopped."""
    await log.write(
        [row("insert", f"m{n}", n, {"title": f"t{n}", "state": "active"}, user_id=f"u{n % 40}") for n in range(80)]
        + [row("update", f"m{n}", 100 + n, {"title": f"new {n}"}, user_id=f"u{n % 40}") for n in range(0, 80, 2)]
    )
    await log.poison(b"[]")
    async with running(log.settings):
        await log.caught_up()
    return log


async def test_a_rebuild_is_promoted_and_rolled_back_while_the_live_view_goes_on(served):
    log, count, enough = served, 0, False

    async def write():
        nonlocal count
        while not enough:
            count += 1
            await log.write(
                [
                    row("update", f"m{n}", 1000 + count, {"title": f"{count}"}, user_id=f"u{n % 40}")
                    for n in range(0, 80, 7)
                ]
            )

    async with running(log.settings):
        writing = asyncio.create_task(write())
        assert (await rebuild.start(log.settings, MISSIONS)).state == generations.READY
        assert (await rebuild.diff(log.settings, MISSIONS)).examples == ()
        assert await state(log) == ("ready", 1)
        assert (await rebuild.promote(log.settings, MISSIONS)).differences == 0
        assert await state(log) == ("previous", 2)
        await asyncio.sleep(0.3)
        await rebuild.rollback(log.settings, MISSIONS)
        assert await state(log) == ("previous", 1)
        await rebuild.rollback(log.settings, MISSIONS)
        assert await state(log) == ("previous", 2)
        enough = True
        await writing
        await log.caught_up(MISSIONS)
        assert (await verify(log.settings, MISSIONS)).examples == ()
        # What served before is kept, and is equal when it has caught up.
        assert (await rebuild.diff(log.settings, MISSIONS)).examples == ()
    letters = await fetch(log, "select view, count(*) from mana_ai.dead_letters group by 1 order by 1")
    assert letters == [("iterations", 1), ("missions", 1)]
    assert count > 2


async def test_rows_that_are_not_the_fold_are_replaced_only_when_that_is_accepted(served, monkeypatch):
    monkeypatch.setattr(rebuild, "SETTLE_PAUSES_S", (0.05,))
    await served.admin.execute("update mana_ai.mission_snapshots_1 set status = 'paused' where mission_id = 'm1'")
    await rebuild.start(served.settings, MISSIONS)
    found = await rebuild.diff(served.settings, MISSIONS)
    assert [(one.key, one.columns) for one in found.examples] == [(("u1", "m1"), {"status": ("paused", "active")})]
    with pytest.raises(DifferencesError, match="1 of 80 rows of view missions"):
        await rebuild.promote(served.settings, MISSIONS)
    assert await state(served) == ("ready", 1)
    await rebuild.promote(served.settings, MISSIONS, accept_differences=True)
    assert (await verify(served.settings, MISSIONS)).examples == ()


async def test_a_command_is_not_refused_while_the_session_of_another_ends(log, monkeypatch):
    async with AsyncExitStack() as ending:

        async def slowly(*args):
            return nullcontext(await ending.enter_async_context(await connect(*args)))

        monkeypatch.setattr(generations, "connect", slowly)
        for _ in range(2):
            with pytest.raises(NothingRebuiltError):
                await rebuild.promote(log.settings, MISSIONS)


async def test_what_is_of_use_is_not_given_up_unasked(served):
    with pytest.raises(NothingRebuiltError, match="holds nothing"):
        await rebuild.promote(served.settings, MISSIONS)
    assert not await rebuild.cancel(served.settings, MISSIONS)
    await rebuild.start(served.settings, MISSIONS)
    with pytest.raises(SpareInUseError, match="a finished rebuild"):
        await rebuild.start(served.settings, MISSIONS)
    await rebuild.start(served.settings, MISSIONS, replace=True)
    with pytest.raises(NothingRebuiltError, match="a finished rebuild"):
        await rebuild.rollback(served.settings, MISSIONS)
    await rebuild.promote(served.settings, MISSIONS)
    with pytest.raises(SpareInUseError, match="what served before"):
        await rebuild.cancel(served.settings, MISSIONS)
    async with generations.hold_spare(served.settings, MISSIONS):
        with pytest.raises(RebuildBusyError):
            await rebuild.cancel(served.settings, MISSIONS, drop_previous=True)
    assert await rebuild.cancel(served.settings, MISSIONS, drop_previous=True)
    assert await fetch(served, "select count(*) from mana_ai.mission_snapshots_1") == [(0,)]
    assert await fetch(served, "select count(*) from mana_ai.stream_positions where view like '%@%'") == [(0,)]
    assert (await verify(served.settings, MISSIONS)).rows == 80


async def test_an_open_reader_keeps_nothing_and_nobody_waiting(served):
    async with await psycopg.AsyncConnection.connect(served.settings.admin_url) as reader:
        await reader.execute("set transaction isolation level repeatable read")
        before = await (await reader.execute(TITLES)).fetchall()
        async with asyncio.timeout(30):
            await rebuild.start(served.settings, MISSIONS)
            await rebuild.promote(served.settings, MISSIONS)
            # A truncation would wait for this reader: the rows are deleted instead.
            await rebuild.start(served.settings, MISSIONS, replace=True)
            await rebuild.promote(served.settings, MISSIONS)
        assert await (await reader.execute(TITLES)).fetchall() == before
    assert await fetch(served, TITLES) == before
    assert await state(served) == ("previous", 1)


async def test_an_engine_that_slept_through_a_promotion_changes_nothing(served):
    from tests.views.test_engine import apply, engine_of  # the engine without its loop
    from tests.views.test_engine import fetch as messages

    async with engine_of(served.settings) as (zombie, partitions, consumer):
        starts = await zombie.open(partitions)
        await rebuild.start(served.settings, MISSIONS)
        await rebuild.promote(served.settings, MISSIONS)
        await served.write([row("update", "m1", 5000, {"title": "late"}, user_id="u1")])
        ends = {Partition(*place): end for place, end in served.ends.items() if end > starts[Partition(*place)]}
        fetched = await messages(consumer, ends, starts)
        lost = await apply(zombie, fetched)
        assert (lost.committed, lost.seek) == ({}, {partition: starts[partition] for partition in ends})
        await apply(zombie, fetched)
    assert (await verify(served.settings, MISSIONS)).examples == ()
    title = "select record ->> 'title' from mana_ai.mission_snapshots_{} where mission_id = 'm1'"
    assert await fetch(served, title.format(1)) == [("t1",)]
    assert await fetch(served, title.format(2)) == [("late",)]


async def test_several_processes_share_the_partitions(served, monkeypatch):
    monkeypatch.setattr(rebuild, "PARALLEL_FROM", 1)
    seen = []
    done = await rebuild.start(served.settings, MISSIONS, workers=2, report=seen.append)
    assert (done.state, done.events, done.total, done.changes) == ("ready", 121, 121, 120)
    assert (await rebuild.promote(served.settings, MISSIONS)).examples == ()
    assert (seen[-1].events, seen[-1].eta_s) == (121, 0.0)


@pytest.mark.parametrize("point", ["rebuild.mid_fill", "views.mid_copy", "views.after_commit"])
async def test_a_rebuild_of_which_one_process_was_killed_says_so_and_is_whole_when_started_again(
    served, monkeypatch, point
):
    monkeypatch.setattr(rebuild, "PARALLEL_FROM", 1)
    # Read by processes as they start, so not by this one.
    monkeypatch.setenv("PROJECTOR_CRASH_AT", point)
    with pytest.raises(
        ProjectorError, match=f"a worker of the rebuild of missions ended with status -{signal.SIGKILL}"
    ):
        await rebuild.start(served.settings, MISSIONS, workers=2)
    assert await state(served) == ("failed", 1)
    with pytest.raises(NothingRebuiltError, match="a failed rebuild"):
        await rebuild.promote(served.settings, MISSIONS)
    monkeypatch.delenv("PROJECTOR_CRASH_AT")
    assert (await rebuild.start(served.settings, MISSIONS, workers=2)).events == 121
    assert (await rebuild.promote(served.settings, MISSIONS)).examples == ()


async def test_a_fill_that_a_rival_put_back_reads_everything_again(served, monkeypatch):
    rivals = 2
    swap = Positions.swap

    async def swap_after_a_rival(positions, conn, known, next_offsets):
        nonlocal rivals
        if rivals:
            rivals -= 1
            async with await connect(served.settings, "projector_engine") as other:
                await positions.bump(other)
        await swap(positions, conn, known, next_offsets)

    monkeypatch.setattr("projector.views.filler.WAITING_BYTES", 1)
    monkeypatch.setattr(Positions, "swap", swap_after_a_rival)
    await rebuild.start(served.settings, MISSIONS)
    assert rivals == 0
    assert (await rebuild.diff(served.settings, MISSIONS)).examples == ()


@pytest.mark.parametrize("waiting", [1, 1 << 30], ids=["many commits", "one commit"])
async def test_what_is_odd_in_a_topic_is_rebuilt_as_the_live_view_took_it(log, monkeypatch, waiting):
    monkeypatch.setattr("projector.views.filler.WAITING_BYTES", waiting)
    monkeypatch.setattr("projector.views.fetch.FETCH_BYTES", 1)
    erased = [row("update", "m1", 20 + n, {"title": f"erased {n}"}) for n in range(2)]
    await log.write([row("insert", f"m{n}", n, {"title": f"t{n}"}) for n in range(4)])
    await log.write([erased[0]])
    for poison in POISON.values():
        await log.poison(poison)
    await log.poison(b'{"record_id":"m1"', table=None)
    await log.poison(b'{"record_id":"m\0"}')
    turned = row("update", "m2", 30, {"record_id": "m3", "note": "of m2"})
    await log.store([turned])
    value = orjson.dumps({"data": turned["data"], **turned})
    await log.poison(value)
    await log.write([row("insert", 'quoted "m"', 31, {"title": "q"}), erased[1]])
    for one in erased:
        await log.erase(one)
    await log.write([row("update", "m1", 40, {"note": "kept"}), row("insert", "gone", 41, {})])
    gone = row("insert", "gone too", 42, {})
    await log.write([gone])
    await log.erase(gone)
    kinds = 'select view, reason, "offset" from mana_ai.dead_letters order by 1, 3'
    # Without a live view the letters are the rebuild's.
    await rebuild.start(log.settings, MISSIONS)
    kept = [(view.partition("@")[0], *rest) for view, *rest in await fetch(log, kinds)]
    await log.admin.execute("truncate mana_ai.dead_letters")
    async with running(log.settings):
        await log.caught_up()
    assert kept == [one for one in await fetch(log, kinds) if one[0] == "missions"]
    assert [reason for _, reason, _ in kept] == [*POISON, "not-json"]
    for view in (MISSIONS, RECORDS, VIEWS["iterations"]):
        await rebuild.start(log.settings, view, replace=True)
        assert (await rebuild.diff(log.settings, view)).examples == ()
        assert (await verify(log.settings, view)).examples == ()
    assert dict(await fetch(log, TITLES)) == {
        "m0": "t0",
        "m1": "t1",
        "m2": "t2",
        "m3": "t3",
        'quoted "m"': "q",
        "gone": None,
    }


async def test_what_comes_again_after_its_erasure_stays_erased_whatever_was_committed_between(log, monkeypatch):
    monkeypatch.setattr("projector.views.filler.WAITING_BYTES", 1)
    monkeypatch.setattr("projector.views.fetch.FETCH_BYTES", 1)
    await log.write([row("insert", "m1", 1, {"title": "t"})])
    secret = row("update", "m1", 2, {"title": "secret"})
    await log.write([secret])
    before = log.lsn
    await log.erase(secret)
    await log.publish_below(before, [secret])
    await rebuild.start(log.settings, MISSIONS)
    assert await fetch(log, "select record from mana_ai.mission_snapshots_2") == [({"title": "t"},)]


async def test_changes_of_a_record_in_two_partitions_become_one_row(log):
    """As they are after the topic was given more partitions."""
    await log.write([row("insert", "m1", 1, {"title": "one"})])
    update = row("update", "m1", 2, {"note": "two"})
    [(topic, partition)] = log.ends
    log.lsn += 0x100
    headers = [*log._headers("update"), ("table", b"aiMissions"), ("id", update["id"].encode())]
    other = (partition + 1) % log.settings.topic_partitions
    await log.producer.send_and_wait(topic, value_of(update), b"u1", partition=other, headers=headers)
    assert (await rebuild.start(log.settings, MISSIONS)).changes == 2
    rows = await fetch(log, "select record from mana_ai.mission_snapshots_2")
    assert rows == [({"title": "one", "note": "two"},)]


async def test_a_partition_is_read_from_an_offset_to_another_and_not_before_its_beginning(log):
    await log.write([row("insert", f"m{n}", n, {}) for n in range(9)])
    [(topic, number)] = log.ends
    partition = Partition(topic, number)
    async with fetcher(log.settings, [topic]) as topics:
        read = [one.offset async for messages, _ in topics.read(partition, 3, 7) for one in messages]
        assert read == [3, 4, 5, 6]
        assert [one async for one in topics.read(partition, 9, 9)] == []
        with pytest.raises(PositionOutOfRangeError, match=f"offset 20 of {topic}-{number} is needed"):
            [one async for one in topics.read(partition, 20, 21)]
        async with admin(log.settings) as client:
            from aiokafka.admin import RecordsToDelete

            await client.delete_records({TopicPartition(topic, number): RecordsToDelete(before_offset=5)})
        with pytest.raises(PositionOutOfRangeError, match="offset 3 of"):
            [one async for one in topics.read(partition, 3, 7)]


def test_shares_are_even_and_none_is_left_out():
    left = {Partition("t", number): size for number, size in enumerate((70, 40, 30, 0, 10))}
    shares = rebuild.share_out(left, 2)
    assert sorted(partition for share in shares for partition in share) == sorted(left)
    assert sorted(sum(left[partition] for partition in share) for share in shares) == [70, 80]
    assert rebuild.share_out(left, 9) == [[partition] for partition in sorted(left, key=lambda p: -left[p])]
    assert rebuild.share_out({}, 2) == [[]]


async def test_where_the_topics_lack_their_beginning_the_log_is_folded(served):
    cut = {TopicPartition(*place): 1 for place in served.ends}
    async with admin(served.settings) as client:
        from aiokafka.admin import RecordsToDelete

        await client.delete_records({place: RecordsToDelete(before_offset=1) for place in cut})
    async with running(served.settings):
        await served.write([row("update", "m2", 500, {"title": "after the cut"}, user_id="u2")])
        await served.caught_up(MISSIONS)
        with capture_logs() as logs:
            done = await rebuild.start(served.settings, MISSIONS)
        assert (done.source, done.events) == ("log", 121)
        said = [(line["log_level"], line["view"]) for line in logs if "lack their beginning" in line["event"]]
        assert said == [("warning", "missions")]
        await served.write([row("update", "m3", 600, {"title": "meanwhile"}, user_id="u3")])
        assert (await rebuild.promote(served.settings, MISSIONS)).examples == ()
        await served.write([row("insert", "m99", 700, {"title": "afterwards"})])
        await served.caught_up(MISSIONS)
        assert (await verify(served.settings, MISSIONS)).examples == ()
    titles = dict(await fetch(served, TITLES))
    assert (titles["m2"], titles["m3"], titles["m99"]) == ("after the cut", "meanwhile", "afterwards")


async def test_a_record_longer_than_what_is_fetched_at_once_is_folded_whole(log, monkeypatch):
    monkeypatch.setattr("projector.views.from_log.ROWS_AT_ONCE", 3)
    monkeypatch.setattr("projector.views.from_log.USERS_AT_ONCE", 2)
    await log.write(
        [row("insert", "a", 1, {"title": "a"}, user_id=f"u{n}") for n in range(5)]
        + [row("update", "a", 2 + n, {f"k{n}": n}) for n in range(10)]
        + [row("insert", "x", 5, {"title": "note"}, app_id="notes", table="notes", user_id="u0")]
    )
    async with running(log.settings):
        await log.caught_up()
        for view in (MISSIONS, RECORDS):
            await rebuild.start(log.settings, view, source="log")
            # Nobody is named in what is finished.
            assert await fetch(log, "select from mana_ai.view_rebuilds where after_user <> ''") == []
            assert (await rebuild.promote(log.settings, view)).examples == ()


# Each call is made in a process of its own, which need not import everything anew.
CALLS = """
import asyncio, os, sys
from projector import crash
from projector.config import load_settings
from projector.views import rebuild
from projector.views.declared import MISSIONS
for line in sys.stdin:
    crash._name, call, more = line.rstrip("\\n").split(";")
    child = os.fork()
    if not child:
        os.dup2(2, 1)
        asyncio.run(eval(f"rebuild.{call}(load_settings(), MISSIONS{more})"))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture
async def killed(log):
    """Makes a call, and returns how its process ended."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CALLS),
        env={**os.environ, **log.settings.environment()},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )

    async def call(name, point, more):
        process.stdin.write(f"{point};{name};{more}\n".encode())
        return int(await asyncio.wait_for(process.stdout.readline(), 30))

    yield call
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), 30) == 0


async def test_killed_at_any_point_a_rebuild_goes_on_or_begins_anew(served, killed):
    log = served
    async with running(log.settings):
        for call, point, more, expected in (
            ("start", "rebuild.before_emptied", "", ("empty", 1)),
            ("start", "rebuild.emptied", "", ("empty", 1)),
            ("start", "rebuild.begun", "", ("filling", 1)),
            ("start", "rebuild.mid_fill", "", ("filling", 1)),
            ("start", "views.mid_copy", "", ("filling", 1)),
            ("start", "views.before_commit", "", ("filling", 1)),
            ("start", "views.after_commit", "", ("filling", 1)),
            ("start", "rebuild.before_ready", "", ("filling", 1)),
            ("start", "rebuild.mid_log", ", source='log'", ("filling", 1)),
            ("start", "", "", ("ready", 1)),
            ("promote", "rebuild.held", "", ("ready", 1)),
            ("promote", "rebuild.before_promoted", "", ("ready", 1)),
            ("promote", "rebuild.promoted", "", ("previous", 2)),
            ("rollback", "rebuild.held", "", ("previous", 2)),
            ("rollback", "rebuild.before_promoted", "", ("previous", 2)),
            ("rollback", "rebuild.promoted", "", ("previous", 1)),
            ("cancel", "rebuild.before_emptied", ", drop_previous=True", ("previous", 1)),
        ):
            await log.write([row("update", "m7", 2000, {"title": f"{call} {point}"}, user_id="u7")])
            if point:
                assert await killed(call, point, more) == -signal.SIGKILL, f"{point} did not fire"
            else:
                await rebuild.start(log.settings, MISSIONS)
            assert await state(log) == expected, point
        await log.caught_up(MISSIONS)
        report = await verify(log.settings, MISSIONS)
        assert (report.rows, report.examples) == (80, ())
        assert (await rebuild.diff(log.settings, MISSIONS)).examples == ()


@pytest.mark.parametrize(("point", "more"), [("views.after_commit", ""), ("rebuild.mid_log", ", source='log'")])
async def test_an_interrupted_rebuild_is_cancelled_without_a_trace(served, killed, point, more):
    assert await killed("start", point, more) == -signal.SIGKILL
    assert await state(served) == ("filling", 1)
    assert await rebuild.cancel(served.settings, MISSIONS)
    assert await state(served) == ("empty", 1)
    assert await fetch(served, "select from mana_ai.mission_snapshots_2") == []
    assert await fetch(served, "select from mana_ai.stream_positions where view = 'missions@spare'") == []
    assert (await verify(served.settings, MISSIONS)).examples == ()


async def test_erased_rows_leave_both_generations(served):
    async with running(served.settings):
        await rebuild.start(served.settings, MISSIONS)
        await rebuild.promote(served.settings, MISSIONS)
        last = row("insert", "gone", 900, {"title": "to be erased"}, user_id="u1")
        await served.write([last])
        await rebuild.diff(served.settings, MISSIONS)
        await served.erase(last)
        await served.caught_up(MISSIONS)
        await rebuild.diff(served.settings, MISSIONS)
    for number in (1, 2):
        table = f"mana_ai.mission_snapshots_{number}"
        assert await fetch(served, f"select from {table} where mission_id = 'gone'") == []


async def test_what_a_generation_folded_anew_ahead_of_its_offset_is_no_difference(served, monkeypatch):
    monkeypatch.setattr(rebuild, "SETTLE_PAUSES_S", (0.5,) * 40)
    log = served
    erased = row("update", "m1", 500, {"title": "to be erased"}, user_id="u1")
    await log.write([erased])
    await rebuild.start(log.settings, MISSIONS)
    async with running(log.settings):
        await log.erase(erased)
        await log.caught_up(MISSIONS)
        # The spare generation comes by the erasure now, when the log has a row that no topic has.
        ahead = row("update", "m1", 600, {"title": "ahead"}, user_id="u1")
        await log.store([ahead])
        comparing = asyncio.create_task(rebuild.diff(log.settings, MISSIONS))
        async with asyncio.timeout(20):
            while not await fetch(log, "select from mana_ai.mission_snapshots_2 where record ->> 'title' = 'ahead'"):
                await asyncio.sleep(0.05)
        await log.publish([ahead])
        assert (await comparing).examples == ()


async def test_a_rebuild_announces_no_mission(served):
    await served.write(
        [row("insert", "due", 800, {"state": "active", "nextRunAt": at(0), "cadence": {"kind": "daily"}})]
    )
    async with running(served.settings):
        await served.caught_up()
        slot = f"{served.settings.slot_name}_announcements"
        await served.admin.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
        try:
            for view in VIEWS.values():
                await rebuild.start(served.settings, view)
                await rebuild.promote(served.settings, view)
            assert await fetch(served, "select count(*) from mana_ai.mission_runs") == [(0,)]
            assert await announced(served, slot) == 0
            await served.admin.execute("select pg_logical_emit_message(true, %s, '{}')", [DUE])
            assert await announced(served, slot) == 1
        finally:
            await served.admin.execute("select pg_drop_replication_slot(%s)", [slot])


async def announced(log, slot):
    """How many messages that a mission is due are in the WAL since the slot was made."""
    found = await log.admin.execute(
        "select count(*) from pg_logical_slot_peek_binary_changes(%s, null, null, 'proto_version', '1',"
        " 'publication_names', %s, 'messages', 'true') where position(convert_to(%s, 'UTF8') in data) > 0",
        [slot, log.settings.publication_name, DUE],
    )
    [(count,)] = await found.fetchall()
    return count
