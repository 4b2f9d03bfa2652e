from __future__ import annotations

import asyncio

from projector.log.topics import partition_of
from projector.views import truncate
from projector.views.declared import MISSIONS, RECORDS, VIEWS
from projector.views.rebuild import rebuild_and_compare
from projector.views.verify import verify
from tests.views.log import row, running


async def records(log):
    rows = await log.admin.execute("select user_id, mission_id, record from mana_ai.mission_snapshots order by 1, 2")
    return {(user, mission): record for user, mission, record in await rows.fetchall()}


async def agree(log, *views):
    """The views equal the log, by `verify` and by a rebuild; the numbers of rows."""
    counts = []
    for view in views:
        report = await verify(log.settings, view)
        [rebuilt] = await rebuild_and_compare(log.settings, [view])
        assert (report.examples, rebuilt.examples) == ((), ())
        assert report.rows == rebuilt.rows
        counts.append(report.rows)
    return counts


async def test_a_truncated_log_leaves_no_row_and_what_is_written_afterwards_is_folded(log):
    users = [f"u{n}" for n in range(30)]
    assert {partition_of(user.encode(), log.settings.topic_partitions) for user in users} == set(
        range(log.settings.topic_partitions)
    )
    await log.write([row("insert", "m1", 1, {"title": "t", "note": "n"}, user_id=user) for user in users])
    await log.write([row("insert", "a1", 1, {"name": "a"}, table="agents")])
    await log.write([row("insert", "n1", 1, {"text": "n"}, app_id="notes", table="notes")])
    async with running(log.settings):
        await log.caught_up()
        await log.truncate()
        await log.write([row("insert", "m2", 3, {"title": "new"}), row("update", "m1", 4, {"title": "again"})])
        await log.caught_up()
        assert await records(log) == {("u1", "m1"): {"title": "again"}, ("u1", "m2"): {"title": "new"}}
        assert await agree(log, *VIEWS.values()) == [2, 0, 2, 0]


async def test_rows_written_again_before_the_truncation_is_read_are_reloaded_and_not_lost(log):
    count = 120
    await log.write([row("insert", f"m{n}", 1, {"title": "old", "n": n}) for n in range(count)])
    async with running(log.settings):
        await log.caught_up(MISSIONS)
    await log.admin.execute("truncate sync_changes")
    again = [row("insert", f"m{n}", 3, {"title": "new"}) for n in range(count - 20)]
    await log.store(again)
    await log.say_truncated()
    async with running(log.settings):
        await log.caught_up(MISSIONS)
        # Not published yet, but already in the table.
        assert await records(log) == {("u1", f"m{n}"): {"title": "new"} for n in range(count - 20)}
        await log.publish(again)
        await log.caught_up(MISSIONS)
        assert await agree(log, MISSIONS) == [count - 20]


async def test_a_truncation_in_the_middle_of_a_batch_parts_what_came_before_from_what_came_after(log):
    for turn in range(3):
        await log.write([row("insert", f"m{turn}", turn, {"title": str(turn)})])
        await log.poison(b"[]")
        await log.write([row("update", "m0", 10 + turn, {"turn": turn})])
        await log.truncate()
    kept = row("update", "m2", 20, {"note": "n"})
    await log.write([kept])
    await log.poison(b"{}")
    async with running(log.settings):
        await log.caught_up()
        assert await records(log) == {("u1", "m2"): {"note": "n"}}
        letters = await log.admin.execute("select view, reason, value from mana_ai.dead_letters order by 1")
        assert await letters.fetchall() == [(view, "missing-column", b"{}") for view in ("iterations", "missions")]
        assert await agree(log, MISSIONS) == [1]


async def test_other_partitions_and_apps_keep_what_they_hold(log):
    """Each partition answers for itself, whenever it reads of the truncation."""
    width = log.settings.topic_partitions
    mine = next(f"u{n}" for n in range(100) if partition_of(f"u{n}".encode(), width) == 0)
    other = next(f"u{n}" for n in range(100) if partition_of(f"u{n}".encode(), width) == 1)
    await log.write([row("insert", "m1", 1, {"title": "t"}, user_id=user) for user in (mine, other)])
    await log.write([row("insert", "n1", 1, {"text": "n"}, app_id="notes", table="notes", user_id=mine)])
    await log.write([row("insert", "g1", 1, {"text": "g"}, table="goals", user_id=mine)])
    async with running(log.settings):
        await log.caught_up()
        await log.admin.execute("truncate sync_changes")
        await log.say_truncated(app_id="ai", partition=0)
        await log.caught_up()
        assert set(await records(log)) == {(other, "m1")}
        kept = await log.admin.execute("select app_id, record_id from mana_ai.record_snapshots")
        assert await kept.fetchall() == [("notes", "n1")]


async def test_a_log_truncated_again_and_again_under_load_ends_without_a_difference(log, monkeypatch):
    monkeypatch.setattr(truncate, "USERS_AT_ONCE", 3)
    async with running(log.settings):
        for burst in range(12):
            await log.write(
                [row("update", f"m{n % 9}", burst * 60 + n, {"n": n}, user_id=f"u{n % 13}") for n in range(60)]
            )
            if burst in (2, 5, 6, 9):
                await log.truncate()
            await asyncio.sleep(0.02)
        await log.caught_up()
        assert await agree(log, MISSIONS, RECORDS) == [60, 0]


async def test_a_truncation_that_comes_twice_takes_nothing_away(log):
    await log.truncate()
    await log.write([row("insert", "m1", 3, {"title": "new"})])
    async with running(log.settings):
        await log.caught_up(MISSIONS)
        lsn = await source_lsn(log)
        log.lsn -= 0x200
        await log.say_truncated()
        await log.caught_up(MISSIONS)
        assert await records(log) == {("u1", "m1"): {"title": "new"}}
        assert await source_lsn(log) == lsn


async def test_a_row_whose_own_op_has_the_name_of_a_truncation_is_no_truncation(log):
    await log.publish([row("insert", "m1", 1, {"title": "t"}), row("insert", "m1", 2, {}) | {"op": "truncated"}])
    async with running(log.settings):
        await log.caught_up(MISSIONS)
        assert await records(log) == {("u1", "m1"): {"title": "t"}}


async def test_a_change_that_comes_out_of_the_table_and_through_the_stream_counts_once(log):
    first, second = row("insert", "m1", 1, {"title": "t"}), row("update", "m1", 2, {"title": "u"})
    await log.store([first, second])
    await log.fill([second, first])
    async with running(log.settings):
        await log.caught_up(MISSIONS)
        filled_at = await source_lsn(log)
        assert await records(log) == {("u1", "m1"): {"title": "u"}}
        await log.publish([first, second])
        await log.caught_up(MISSIONS)
        streamed_at = await source_lsn(log)
        await log.fill([first])
        log.lsn -= 0x10000
        await log.fill([second])
        await log.caught_up(MISSIONS)
        assert await records(log) == {("u1", "m1"): {"title": "u"}}
        assert filled_at < streamed_at
        assert await source_lsn(log) == streamed_at
        assert await agree(log, MISSIONS) == [1]


async def source_lsn(log):
    found = await log.admin.execute("select source_lsn - '0/0'::pg_lsn from mana_ai.mission_snapshots")
    [(lsn,)] = await found.fetchall()
    return lsn


async def test_rows_put_back_after_a_truncation_with_the_ids_that_they_had_are_folded_again(log):
    rows = [row("insert", f"m{n}", 1, {"title": "old", "n": n}) for n in range(20)]
    rows += [row("update", f"m{n}", 2, {"title": "new"}) for n in range(20)]
    await log.write(rows)
    async with running(log.settings):
        await log.caught_up(MISSIONS)
        before = await records(log)
        await log.truncate()
        await log.caught_up(MISSIONS)
        assert await records(log) == {}
        await log.write(rows)
        await log.caught_up(MISSIONS)
        assert await records(log) == before
        assert await agree(log, MISSIONS) == [20]
