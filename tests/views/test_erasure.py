from __future__ import annotations

import pytest

from projector import metrics
from projector.views import reload
from projector.views.declared import MISSION_ITERATIONS, MISSIONS
from projector.views.rebuild import rebuild_and_compare
from projector.views.verify import verify
from tests.views.log import row, running

CAME_AGAIN = metrics.VIEW_CAME_AGAIN.labels(MISSIONS.name)


async def records(log):
    rows = await log.admin.execute("select mission_id, record from mana_ai.mission_snapshots order by 1")
    return dict(await rows.fetchall())


async def test_a_row_erased_from_the_log_is_folded_out_of_its_record(log):
    first = row("insert", "m1", 1, {"title": "t", "state": "active"})
    second = row("update", "m1", 2, {"title": "secret"})
    third = row("update", "m1", 3, {"note": "n"})
    await log.write([first, second, third])
    async with running(log.settings):
        await log.caught_up(MISSIONS)
        assert (await records(log))["m1"]["title"] == "secret"
        await log.erase(second)
        await log.write([row("update", "m1", 4, {"state": "paused"})])
        await log.caught_up(MISSIONS)
        assert await records(log) == {"m1": {"title": "t", "note": "n", "state": "paused"}}
        assert (await verify(log.settings, MISSIONS)).examples == ()
        [rebuilt] = await rebuild_and_compare(log.settings, [MISSIONS])
        assert (rebuilt.rows, rebuilt.examples) == (1, ())


async def test_a_record_without_any_row_left_has_none_in_the_view(log):
    only = row("insert", "m1", 1, {"title": "t"})
    await log.write([only, row("insert", "m2", 1, {"title": "u"})])
    async with running(log.settings):
        await log.caught_up(MISSIONS)
        await log.erase(only)
        await log.caught_up(MISSIONS)
        assert await records(log) == {"m2": {"title": "u"}}
        await log.write([row("update", "m1", 5, {"title": "again"})])
        await log.caught_up(MISSIONS)
        assert (await records(log))["m1"] == {"title": "again"}


async def test_the_dead_letter_of_an_erased_row_goes_with_it(log):
    bad = row("update", "m1", 1, {}) | {"data": "text"}
    await log.write([bad])
    async with running(log.settings):
        await log.caught_up()
        letters = "select view, change_id from mana_ai.dead_letters order by 1"
        stored = [(view, bad["id"]) for view in ("iterations", "missions")]
        assert await (await log.admin.execute(letters)).fetchall() == stored
        await log.erase(bad)
        await log.caught_up()
        assert await (await log.admin.execute(letters)).fetchall() == []


async def test_an_erasure_that_arrives_in_the_batch_of_what_it_erases(log):
    first, second = row("insert", "m1", 1, {"title": "t"}), row("update", "m1", 2, {"title": "secret"})
    await log.write([first, second])
    await log.erase(second)
    async with running(log.settings):
        await log.caught_up(MISSIONS)
        assert await records(log) == {"m1": {"title": "t"}}


async def test_the_dead_letter_of_a_row_that_is_erased_in_the_same_batch_is_not_kept(log):
    bad = row("update", "m1", 1, {}) | {"data": "secret"}
    await log.write([bad])
    await log.erase(bad)
    async with running(log.settings):
        await log.caught_up()
    assert await (await log.admin.execute("select value from mana_ai.dead_letters")).fetchall() == []


@pytest.mark.parametrize("seen", ["nothing", "the change", "its erasure"])
async def test_what_comes_again_after_its_erasure_stays_erased(log, seen):
    """As a paused writer brings it: with the place it had. Of what came before, another worker may have seen a part."""
    first, second = row("insert", "m1", 1, {"title": "t"}), row("update", "m1", 2, {"title": "secret"})
    only = row("insert", "m2", 3, {"title": "secret"})
    await log.write([first, second, only])
    if seen == "the change":
        await _seen(log)
    before = log.lsn
    await log.erase(second)
    await log.erase(only)
    if seen == "its erasure":
        await _seen(log)
    await log.publish_below(before, [second, only])
    async with running(log.settings):
        await log.caught_up(MISSIONS)
        assert await records(log) == {"m1": {"title": "t"}}
        [rebuilt] = await rebuild_and_compare(log.settings, [MISSIONS])
        assert (rebuilt.rows, rebuilt.examples) == (1, ())


@pytest.mark.parametrize("seen", [False, True])
async def test_of_a_dead_letter_that_comes_again_after_its_erasure_nothing_is_kept(log, seen):
    bad = row("update", "m1", 1, {}) | {"data": "secret"}
    kept = row("update", "m1", 2, {}) | {"data": "text"}
    await log.write([bad, kept])
    before = log.lsn
    await log.erase(bad)
    if seen:
        await _seen(log)
    await log.publish_below(before, [bad, kept])
    await _seen(log)
    letters = "select change_id, value is not null from mana_ai.dead_letters where view = 'missions' order by id"
    emptied = [(bad["id"], False)] if seen else []
    assert await (await log.admin.execute(letters)).fetchall() == [(kept["id"], True), *emptied, (kept["id"], True)]


async def test_a_change_that_comes_out_of_order_is_not_lost(log):
    """The stream never does that. Should anybody else, the log decides."""
    late = row("update", "m1", 1, {"note": "late"})
    await log.write([row("insert", "m1", 2, {"title": "t"})])
    await log.store([late])
    await log.publish_below(log.lsn - 0x100, [late])
    async with running(log.settings):
        await log.caught_up(MISSIONS)
        assert await records(log) == {"m1": {"title": "t", "note": "late"}}


async def _seen(log):
    async with running(log.settings):
        await log.caught_up(MISSIONS)


async def test_a_record_that_loses_many_rows_at_once_is_read_from_the_log_once(log, monkeypatch):
    read = []

    async def counted(conn, identity, *since):
        read.append(identity)
        return await changes_of(conn, identity, *since)

    changes_of = reload.changes_of
    monkeypatch.setattr(reload, "changes_of", counted)
    rows = [row("update", "m1", number, {f"f{number}": number}) for number in range(1, 41)]
    again = CAME_AGAIN._value.get()
    await log.write(rows)
    for one in rows[:-2]:
        await log.erase(one)
    await log.publish_below(log.lsn, [rows[-1]])
    async with running(log.settings):
        await log.caught_up(MISSIONS)
        assert await records(log) == {"m1": {"f39": 39, "f40": 40}}
        assert read.count(("u1", "ai", "aiMissions", "m1")) <= 2 * len([MISSIONS, MISSION_ITERATIONS])
    assert CAME_AGAIN._value.get() == again + 1
