"""What a writer reads of a mission: all that the log holds, without reading every array of iterations in it."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from psycopg.types.json import Jsonb

from projector.fold import derive, dump, fold
from projector.fold.stamps import format_instant
from projector.log.change import Change
from projector.planner import mission_state
from projector.planner.mission_state import MissionNow, enter_user, lock_mission, mission_now
from projector.sql.connection import connect
from projector.views.reload import changes_of
from tests.fold.histories import HISTORIES, changes_by_record
from tests.planner.world import World

MISSION = {"user_id": "u1", "mission_id": "m1"}
IDENTITY = ("u1", "ai", "aiMissions", "m1")
MANY = """
    insert into sync_changes (app_id, table_name, record_id, user_id, op, data, field_meta, client_id, created_at)
    select 'ai', 'aiMissions', 'm1', 'u1', 'update', %(data)s || jsonb_build_object('title', 'T' || n),
           (select jsonb_object_agg(key, %(stamp)s || to_char(n, 'FM000') || 'Z')
            from unnest(array['title', 'iterations']) as key),
           'device-1', clock_timestamp() - n * interval '1 second'
    from generate_series(1, 300) n
"""


async def now_of(world: World) -> MissionNow:
    async with await connect(world.settings, "projector_sink") as conn, conn.transaction():
        await enter_user(conn, "u1")
        await lock_mission(conn, MISSION)
        return await mission_now(conn, MISSION)


async def all_of(world: World) -> dict[str, Any]:
    """The state by all that the log holds."""
    async with await connect(world.settings, "projector_engine") as conn:
        return as_stored(fold(await changes_of(conn, IDENTITY)))


def as_stored(state: Any) -> dict[str, Any]:
    stored: dict[str, Any] = orjson.loads(orjson.dumps(dump(state)))
    return stored


@pytest.mark.parametrize("seen", [True, False])
async def test_memory_does_not_follow_the_number_of_rows(world: World, seen: bool):
    await world.mission()
    iterations = [{"id": f"i{number}", "summary": "x" * 1_200} for number in range(100)]
    world.admin.execute(MANY, {"data": Jsonb({"iterations": iterations}), "stamp": "2026-01-01T00:00:00."})
    if seen:
        await world.catch_up()
    tracemalloc.start()
    try:
        now = await now_of(world)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert as_stored(now.state) == await all_of(world)
    assert peak < 30 * 120_000, "of 300 rows with 120,000 bytes of iterations each"


async def test_pages_are_read_to_the_end_and_dead_letters_left_out(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mission_state, "ROWS", 3)
    monkeypatch.setattr(mission_state, "WHOLE", 2)
    deep: Any = []
    for _ in range(99):
        deep = [deep]
    await world.mission(iterations=[{"id": "a"}])
    for number in range(8):
        await world.edit(seen=number == 3, title=f"T{number}", iterations=[{"id": f"i{number}"}])
    # Committed late: what the dead letter says must not keep the row behind it from telling something.
    dead, late = datetime.now(UTC), datetime.now(UTC) - timedelta(hours=1)
    moment = timedelta(milliseconds=1)
    data = {"title": "dead", "iterations": deep}
    world.change("u1", "aiMissions", "m1", "update", data, stamp=dead, created=late)
    world.change("u1", "aiMissions", "m1", "update", {"title": "alive"}, stamp=dead - moment, created=late + moment)
    await world.edit(seen=False, iterations=None)
    world.change("u1", "aiMissions", "m1", "delete", {})
    now = await now_of(world)
    assert as_stored(now.state) == await all_of(world)
    assert derive(now.state).fields["title"] == "alive"
    assert now.in_log


@pytest.mark.parametrize("history", HISTORIES)
def test_what_is_no_news_without_its_iterations_is_none_with_them(history: str):
    chance = random.Random(7)
    known_ones = 0
    for (_, key), changes in changes_by_record(history).items():
        if key.table != "aiMissions":
            continue
        stored = chance.sample(changes, len(changes) // 2)
        state = fold(stored)
        news = mission_state._news(state, [without_iterations(change) for change in changes])
        known_ones += len(changes) - len(news)
        assert not {change.id for change in stored} & set(news)
        assert as_stored(fold(told(changes, news) + stored)) == as_stored(fold(changes))
    assert known_ones > 100


def told(changes: Sequence[Change], ids: Sequence[str]) -> list[Change]:
    return [change for change in changes if change.id in ids]


def without_iterations(change: Change) -> str:
    data = change.data | {"iterations": None} if "iterations" in change.data else change.data
    row = {name: getattr(change, name) for name in ("id", "app_id", "record_id", "user_id", "op", "field_meta")}
    row |= {name: getattr(change, name) for name in ("client_id", "schema_version", "actor", "origin", "space_id")}
    created_at = format_instant(change.created_at_us)[:-4] + f"{change.created_at_us % 1_000_000:06}Z"
    row |= {"table_name": change.table, "created_at": created_at, "data": None if change.data_is_null else data}
    return orjson.dumps(row).decode()
