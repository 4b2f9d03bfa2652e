from __future__ import annotations

import gzip
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from projector.devices import comparable
from projector.views.declared import VIEWS
from projector.views.rebuild import rebuild_and_compare
from projector.views.verify import verify
from tests.devices.fleet import SEEDS, drive
from tests.devices.kinds import KINDS, differences
from tests.fold.histories import DATA, HISTORIES, devices_show
from tests.views.log import COLUMNS, running

RECORDS = {"tame": 98, "rough": 103}
SNAPSHOTS = {
    "aiMissions": "select record, deleted from mana_ai.mission_snapshots where user_id = %s and mission_id = %s",
    "agents": "select record, deleted from mana_ai.agent_snapshots where user_id = %s and agent_id = %s",
}


@pytest.mark.parametrize("history", HISTORIES)
async def test_a_recorded_history_ends_as_the_devices_show_it_and_as_sql_and_a_rebuild_fold_it(log, history):
    rows = [
        orjson.loads(line) for line in gzip.decompress((DATA / f"log-{history}.jsonl.gz").read_bytes()).splitlines()
    ]
    async with running(log.settings):
        await log.write(rows)
        await log.caught_up()
        different = []
        shown = list(devices_show(history))
        for user, key, device in shown:
            row = await (await log.admin.execute(SNAPSHOTS[key.table], [user, key.record_id])).fetchone()
            assert row is not None
            record, deleted = row
            if (None if deleted else comparable(record)) != comparable(device):
                different.append((user, key))
        assert len(shown) == RECORDS[history]
        assert different == []
        reports = [await verify(log.settings, view) for view in VIEWS.values()]
        assert {report.view: report.examples for report in reports} == dict.fromkeys(VIEWS, ())
        rows_of = {report.view: report.rows for report in reports}
        assert rows_of["missions"] + rows_of["agents"] == RECORDS[history]
        assert rows_of["iterations"] == rows_of["missions"]
        rebuilt = await rebuild_and_compare(log.settings, VIEWS.values())
        assert [(one.differences, one.rows) for one in rebuilt] == [(0, report.rows) for report in reports]


async def test_generated_histories_end_as_a_new_device_shows_them_but_for_the_listed_kinds(log):
    histories = [drive(seed, rough=True, user_id=f"u{seed}") for seed in range(SEEDS)]
    async with running(log.settings):
        for history in histories:
            await log.write([_row(change) for change in history.changes])
        await log.caught_up()
        for view in VIEWS.values():
            assert (await verify(log.settings, view)).examples == ()
        rebuilt = await rebuild_and_compare(log.settings, VIEWS.values())
        assert {one.view: one.examples for one in rebuilt} == dict.fromkeys(VIEWS, ())
        assert {one.view for one in rebuilt if one.rows} == {"missions", "agents", "iterations"}
    shown = {}
    for table, (view, key) in {"aiMissions": ("mission", "mission_id"), "agents": ("agent", "agent_id")}.items():
        rows = await log.admin.execute(f"select user_id, {key}, record, deleted from mana_ai.{view}_snapshots")  # noqa: S608
        async for user, record_id, record, deleted in rows:
            shown[user, table, record_id] = None if deleted else record
    counts = Counter()
    for history in histories:
        counts += differences(history, lambda key, user=history.user_id: shown[user, key.table, key.record_id])
    print(dict(counts))  # noqa: T201 - the figures of a long session
    assert set(counts) == set(KINDS)


def _row(change):
    created_at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=change.created_at_us)
    columns = asdict(change) | {
        "table_name": change.table,
        "created_at": f"{created_at:%Y-%m-%dT%H:%M:%S.%f}Z",
    }
    return {name: columns[name] for name in COLUMNS}
