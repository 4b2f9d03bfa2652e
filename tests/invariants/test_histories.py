"""The recorded histories travel the real data plane: committed, decoded, published, folded, compared with devices."""

from __future__ import annotations

import asyncio
import gzip

import orjson
import psycopg
import pytest

from projector.config import Settings
from projector.devices import comparable
from projector.views.declared import VIEWS
from projector.views.verify import verify
from streams import cdc, views
from tests.fold.histories import DATA, HISTORIES, devices_show
from tests.views.log import COLUMNS, JSON_COLUMNS
from tests.views.test_histories import RECORDS, SNAPSHOTS

LIMIT_S = 30.0


@pytest.mark.parametrize("history", HISTORIES)
async def test_a_recorded_history_ends_as_the_devices_show_it(settings: Settings, history: str) -> None:
    rows = [
        orjson.loads(line) for line in gzip.decompress((DATA / f"log-{history}.jsonl.gz").read_bytes()).splitlines()
    ]
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as streams:
        streams.create_task(cdc.run(settings, stop))
        streams.create_task(views.run(settings, stop))
        try:
            async with await psycopg.AsyncConnection.connect(settings.admin_url, autocommit=True) as admin:
                await _wait_for_slot(admin, settings)
                for row in rows:  # one transaction each, as the sync server stores them
                    await _insert(admin, row)
                await _wait_for_rows(admin, rows)
                for view in VIEWS.values():  # waits for what is still on its way
                    report = await verify(settings, view)
                    assert report.examples == ()
                different = []
                shown = list(devices_show(history))
                for user, key, device in shown:
                    if await _row(admin, user, key) != comparable(device):
                        different.append((user, key))
            assert len(shown) == RECORDS[history]
            assert different == []
        finally:
            stop.set()


async def _insert(admin: psycopg.AsyncConnection, row: dict) -> None:
    values = [
        orjson.dumps(row[name]).decode() if name in JSON_COLUMNS and row[name] is not None else row[name]
        for name in COLUMNS
    ]
    names, marks = ", ".join(COLUMNS), ", ".join(["%s"] * len(COLUMNS))
    await admin.execute(f"insert into sync_changes ({names}) values ({marks})", values)  # noqa: S608 - our own names


async def _row(admin: psycopg.AsyncConnection, user: str, key) -> dict | None:
    record, deleted = await (await admin.execute(SNAPSHOTS[key.table], [user, key.record_id])).fetchone()
    return None if deleted else comparable(record)


async def _wait_for_slot(admin: psycopg.AsyncConnection, settings: Settings) -> None:
    async with asyncio.timeout(LIMIT_S):
        question = "select active from pg_replication_slots where slot_name = %s"
        while await (await admin.execute(question, [settings.slot_name])).fetchone() != (True,):
            await asyncio.sleep(0.05)


async def _wait_for_rows(admin: psycopg.AsyncConnection, rows: list[dict]) -> None:
    """Until every record has a row."""
    records = {(row["user_id"], row["app_id"], row["table_name"], row["record_id"]) for row in rows}
    question = (
        "select (select count(*) from mana_ai.mission_snapshots) + (select count(*) from mana_ai.agent_snapshots)"
        " + (select count(*) from mana_ai.record_snapshots),"
        " (select count(*) from mana_ai.record_snapshots where app_id <> 'notes')"
    )
    async with asyncio.timeout(LIMIT_S):
        while await (await admin.execute(question)).fetchone() != (len(records), 0):
            await asyncio.sleep(0.05)
