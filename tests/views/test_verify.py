from __future__ import annotations

import pytest

from projector.views.declared import MISSIONS, VIEWS
from projector.views.rebuild import rebuild_and_compare
from projector.views.verify import verify
from tests.views.log import row, running


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


async def test_a_rebuild_finds_a_corrupted_column_and_leaves_nothing_behind(served, monkeypatch):
    monkeypatch.setattr("projector.views.rebuild.SETTLE_PAUSES_S", (0.05,))
    before = await tables(served)
    seen = []
    clean = await rebuild_and_compare(served.settings, VIEWS.values(), seen.append)
    assert [(one.view, one.rows, one.differences) for one in clean] == [
        ("missions", 2, 0),
        ("agents", 0, 0),
        ("iterations", 2, 0),
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
