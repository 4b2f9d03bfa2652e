from __future__ import annotations

import gzip

import orjson
import pytest

from projector.devices import comparable
from projector.views.declared import VIEWS
from projector.views.rebuild import rebuild_and_compare
from projector.views.verify import verify
from tests.fold.histories import DATA, HISTORIES, devices_show
from tests.views.log import running

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
        assert [report.examples for report in reports] == [(), (), ()]
        assert sum(report.rows for report in reports[:2]) == RECORDS[history]
        rebuilt = await rebuild_and_compare(log.settings, VIEWS.values())
        assert [(one.differences, one.rows) for one in rebuilt] == [(0, report.rows) for report in reports]
