from __future__ import annotations

import pytest
from psycopg import sql

from projector.views.declared import MISSIONS, VIEWS
from projector.views.rebuild import rebuild_and_compare
from projector.views.verify import Difference, first_difference, verify
from tests.views.log import row, running

IDENTITY = ("u1", "ai", "aiMissions", "m1")


@pytest.fixture
async def served(log):
    """A log with two missions, and views that have applied it and are stopped."""
    data = {"title": "t", "state": "active", "cadence": {"kind": "daily", "atHour": 8}}
    await log.write(
        [
            row("insert", "m1", 1, data),
            row("update", "m1", 2, {"cadence.atHour": 7, "title": "renamed"}),
            row("insert", "m2", 3, data),
            row("delete", "m2", 4, {}),
        ]
    )
    async with running(log.settings):
        await log.caught_up()
    assert (await verify(log.settings, MISSIONS, settle_s=0)).examples == ()
    return log


def update(path, value):
    statement = "update mana_ai.mission_snapshots_1 set record = jsonb_set(record, {}, {}) where mission_id = 'm1'"
    return sql.SQL(statement).format(path, value)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (update("{cadence,atHour}", "9"), Difference(IDENTITY, "record.cadence.atHour", "9", "7")),
        (update("{extra}", "null"), Difference(IDENTITY, "record.extra", "null", "(absent)")),
        (
            "update mana_ai.mission_snapshots_1 set complete = false where mission_id = 'm1'",
            Difference(IDENTITY, "complete", "false", "true"),
        ),
        (
            "update mana_ai.mission_snapshots_1 set deleted = false where mission_id = 'm2'",
            Difference((*IDENTITY[:3], "m2"), "deleted", "false", "true"),
        ),
        (
            "update mana_ai.mission_snapshots_1 set state = jsonb_set(state, '{w,0,3}', '5') where mission_id = 'm1'",
            Difference(IDENTITY, "writes[0][3]", "5", "1780308001000000"),
        ),
        (
            "delete from mana_ai.mission_snapshots_1 where mission_id = 'm1'",
            Difference(IDENTITY, "complete", "(absent)", "true"),
        ),
    ],
)
async def test_a_corrupted_row_is_found_and_named(served, fault, expected):
    await served.admin.execute(fault)
    report = await verify(served.settings, MISSIONS, settle_s=0)
    assert (report.rows, report.differences, report.examples) == (2, 1, (expected,))


async def test_a_change_that_the_view_never_saw_is_found(served):
    await served.store([row("update", "m1", 9, {"title": "dropped"})])
    report = await verify(served.settings, MISSIONS, settle_s=0.3)
    assert report.examples == (Difference(IDENTITY, "record.title", '"renamed"', '"dropped"'),)


async def test_a_row_of_a_record_that_the_log_does_not_know_is_found(served):
    await served.admin.execute("delete from sync_changes where record_id = 'm1'")
    report = await verify(served.settings, MISSIONS, settle_s=0)
    assert report.examples == (Difference(IDENTITY, "complete", "true", "(absent)"),)
    assert (await verify(served.settings, MISSIONS, users=["u2"], settle_s=0)).rows == 0


async def test_a_change_that_is_still_on_its_way_is_no_difference(served):
    late = row("update", "m1", 9, {"title": "late"})
    await served.store([late])
    async with running(served.settings):
        await served.publish([late])
        report = await verify(served.settings, MISSIONS)
    assert report.differences == 0


async def test_a_rebuild_finds_a_corrupted_column_and_leaves_nothing_behind(served):
    before = await tables(served)
    seen = []
    clean = await rebuild_and_compare(served.settings, VIEWS.values(), seen.append)
    assert [(one.view, one.rows, one.differences) for one in clean] == [
        ("missions", 2, 0),
        ("agents", 0, 0),
        ("records", 0, 0),
    ]
    assert seen[-1].eta_s in (0.0, None)
    assert {one.view: (one.events, one.total) for one in seen}["missions"] == (4, 4)
    await served.admin.execute("update mana_ai.mission_snapshots_1 set status = 'paused' where mission_id = 'm1'")
    [found] = await rebuild_and_compare(served.settings, [MISSIONS])
    assert (found.rows, found.differences) == (2, 1)
    assert found.examples[0].key == ("u1", "m1")
    assert found.examples[0].columns == {"status": ("paused", "active")}
    assert await tables(served) == before


async def tables(log):
    names = await log.admin.execute("select tablename from pg_tables where schemaname = 'mana_ai' order by 1")
    views = await log.admin.execute("select distinct view from mana_ai.stream_positions order by 1")
    return await names.fetchall(), await views.fetchall()


async def test_a_rebuild_while_changes_go_on_compares_at_equal_positions(log):
    async with running(log.settings):
        for burst in range(10):
            await log.write([row("update", f"m{n % 7}", burst * 60 + n, {"n": n}) for n in range(60)])
            if burst == 5:
                [found] = await rebuild_and_compare(log.settings, [MISSIONS])
                assert found.examples == ()
        await log.caught_up(MISSIONS)
        [found] = await rebuild_and_compare(log.settings, [MISSIONS])
        assert (found.rows, found.examples) == (7, ())


def test_numbers_are_compared_as_devices_hold_them():
    assert first_difference({"a": 1.0, "b": [1e22]}, {"a": 1, "b": [10000000000000000000000]}) is None
    assert first_difference({"a": True}, {"a": 1}) == ("a", "true", "1")
    assert first_difference({"a": [1, 2]}, {"a": [1]}) == ("a[1]", "2 items", "1 items")
