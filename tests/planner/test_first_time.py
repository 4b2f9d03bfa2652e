"""Missions with a cron expression, which devices store without a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from prometheus_client import REGISTRY
from psycopg.types.json import Jsonb

from projector.config import Settings
from projector.log.actor import MISSION_RUNNER, normalize_actor
from projector.planner import cadence
from projector.planner.first_time import PAGE, timeless
from projector.planner.never_due import CAUSES, read_never_due
from projector.planner.pace import Pace
from projector.planner.writer import Writer
from projector.planner.zones import set_zone
from projector.sql import query
from projector.sql.connection import connect_sync, pool
from tests.planner.world import World
from tests.views.test_reads import Scan, scans

NINE = {"kind": "cron", "expression": "0 9 * * *"}
MANY = """
    insert into mana_ai.mission_snapshots_1
        (user_id, mission_id, status, deleted, complete, source, source_lsn, last_applied_at, record, state)
    select 'u' || n % 1000, 'm' || n, 'active', false, true, 1, '0/1', now(),
           case n when 500 then '{"cadence": {"kind": "cron", "expression": "0 9 31 2 *"}}'::jsonb
                  when 700 then '{"cadence": {"kind": "cron"}}'
                  when 900 then '{"cadence": {"kind": "daily"}, "nextRunAt": "soon"}'
                  else '{"cadence": {"kind": "manual"}, "nextRunAt": null}' end,
           '{"w": []}'
    from generate_series(1, 100000) n
"""
"""Missions that are started by hand, and three that are not."""


def never_due() -> dict[str, float | None]:
    return {cause: REGISTRY.get_sample_value("mana_ai_missions_without_times", {"cause": cause}) for cause in CAUSES}


@pytest.fixture
async def writer(world: World, settings: Settings) -> AsyncIterator[Writer]:
    async with pool(settings, "projector_sink", size=2) as connections:
        yield Writer(settings, connections, world.pool)


async def test_a_cron_mission_gets_its_first_time_in_its_owners_zone_and_is_due_then(world: World, writer: Writer):
    async with world.pool.connection() as conn:
        await set_zone(conn, "u1", ZoneInfo("Asia/Kolkata"))
    await world.mission(cadence=NINE, nextRunAt=None)
    assert await writer.give_first_times() == 1
    (row,) = world.ours()
    first = datetime.fromisoformat(row["data"]["nextRunAt"])
    assert first.astimezone(ZoneInfo("Asia/Kolkata")).strftime("%H:%M") == "09:00"
    assert timedelta(0) < first - datetime.now(UTC) <= timedelta(days=1)
    assert row["data"].keys() == row["field_meta"].keys() == {"nextRunAt"}
    assert (normalize_actor(row["actor"]), row["origin"]) == (MISSION_RUNNER, "system")
    await world.catch_up()
    shown = world.admin.execute("select next_run_at from mana_ai.mission_snapshots").fetchone()
    assert shown == (first,)


async def test_it_is_given_once_by_any_number_of_writers_and_before_the_view_shows_it(world: World, writer: Writer):
    await world.mission(cadence=NINE, nextRunAt=None)
    given = await asyncio.gather(*(writer.give_first_times() for _ in range(4)))
    assert sorted(given) == [0, 0, 0, 1]
    assert await writer.give_first_times() == 0
    assert len(world.ours()) == 1


async def test_it_is_given_again_when_a_device_takes_it_away(world: World, writer: Writer):
    await world.mission(cadence=NINE, nextRunAt=None)
    await writer.give_first_times()
    await world.edit(nextRunAt=None, **{"cadence.expression": "0 10 * * *"})
    assert await writer.give_first_times() == 1
    berlin = [
        datetime.fromisoformat(row["data"]["nextRunAt"]).astimezone(ZoneInfo("Europe/Berlin")) for row in world.ours()
    ]
    assert [time.hour for time in berlin] == [9, 10]


@pytest.mark.parametrize(
    "fields",
    [
        {"cadence": {"kind": "cron", "expression": ""}},
        {"cadence": {"kind": "cron", "expression": "0 0 30 2 *"}},
        {"cadence": {"kind": "manual"}},
        {"cadence": {"kind": "daily", "atHour": 9, "atMinute": 0}},
        {"cadence": NINE, "state": "paused"},
        {"cadence": NINE, "deletedAt": "2026-01-01T00:00:00.000Z"},
    ],
)
async def test_nothing_is_given_to_others_nor_to_an_expression_that_never_fires(world: World, writer: Writer, fields):
    await world.mission(nextRunAt=None, **fields)
    assert await writer.give_first_times() == 0
    assert world.ours() == []
    never_fires = fields["cadence"]["kind"] == "cron" and fields["cadence"] != NINE
    assert never_due() == {"next-run-at": 0, "cron": never_fires}


@pytest.mark.parametrize("shown", ["soon", "", "2026-13-01T00:00:00.000Z", 1_790_000_000, {"at": "9"}, [], False])
@pytest.mark.parametrize("cadence", [NINE, {"kind": "interval", "everyMinutes": 5}])
async def test_a_time_that_is_none_is_counted_and_left_to_its_owner(world: World, writer: Writer, shown, cadence):
    await world.mission(mission="bad", cadence=cadence, nextRunAt=shown)
    await world.mission(mission="paused", cadence=cadence, nextRunAt=shown, state="paused")
    await world.mission(mission="good")
    assert await writer.give_first_times() == 0
    assert never_due() == {"next-run-at": 1, "cron": 0}
    async with world.pool.connection() as conn:
        assert (await read_never_due(conn)).examples == [("u1", "bad", "next-run-at")]
    assert await world.open() == 1
    assert world.run()["mission_id"] == "good"
    await world.edit(mission="bad", nextRunAt="2099-01-01T00:00:00.000Z")
    await writer.give_first_times()
    assert never_due() == {"next-run-at": 0, "cron": 0}


async def test_the_sink_looks_for_them_by_itself(world: World, settings: Settings):
    await world.mission(cadence=NINE, nextRunAt=None)
    stop = asyncio.Event()
    async with pool(settings, "projector_sink", size=1) as connections:
        writer = Writer(settings, connections, world.pool, Pace(first_times_s=0))
        sweeping = asyncio.create_task(writer.sweep_for_ever(stop))
        async with asyncio.timeout(10):
            while not world.ours():
                await asyncio.sleep(0.02)
        stop.set()
        await sweeping


async def test_one_that_the_database_refuses_keeps_no_other_from_its_time(world: World, writer: Writer):
    for mission in ("m1", "m2", "m3"):
        await world.mission(mission=mission, cadence=NINE, nextRunAt=None)
    world.admin.execute(
        "alter table sync_changes add check (record_id <> 'm2' or client_id <> 'mana-ai-runner') not valid"
    )
    assert await writer.give_first_times() == 2
    assert {row["record_id"] for row in world.ours()} == {"m1", "m3"}


async def test_one_whose_row_cannot_be_read_keeps_no_other_from_its_time(world: World, writer: Writer):
    for mission in ("m1", "m2", "m3"):
        await world.mission(mission=mission, cadence=NINE, nextRunAt=None)
    world.admin.execute("update mana_ai.mission_snapshots_1 set state = '{}' where mission_id = 'm2'")
    before = REGISTRY.get_sample_value("mana_ai_writeback_refused_total") or 0.0
    assert await writer.give_first_times() == 2
    assert REGISTRY.get_sample_value("mana_ai_writeback_refused_total") == before + 1
    assert {row["record_id"] for row in world.ours()} == {"m1", "m3"}


async def test_what_changed_before_the_view_shows_it_counts(world: World, writer: Writer):
    await world.mission(cadence=NINE, nextRunAt=None)
    await world.edit(state="paused", seen=False)
    assert await writer.give_first_times() == 0
    assert world.ours() == []


async def test_all_of_them_are_found_page_by_page(world: World):
    for number in range(5):
        await world.mission(f"u{number % 2}", f"m{number}", seen=False, cadence=NINE, nextRunAt=None)
    await world.catch_up()
    async with world.pool.connection() as conn:
        found: list[tuple[str, str]] = []
        while page := await timeless(conn, found[-1] if found else ("", ""), limit=2):
            found += [mission[:2] for mission in page]
    assert found == sorted((f"u{number % 2}", f"m{number}") for number in range(5))


async def test_looking_for_them_costs_what_they_are_and_not_what_has_no_time_for_good_reason(world: World):
    world.admin.execute(MANY)
    world.admin.execute("vacuum analyze mana_ai.mission_snapshots_1")
    with connect_sync(world.settings, "projector_planner") as conn:
        page = {"after_user": "", "after_mission": "", "limit": PAGE}
        assert scans(conn, query("planner/timeless"), page) == [Scan("mission_snapshots_1_timeless", 3)]
    async with world.pool.connection() as planner:
        assert (await read_never_due(planner)).counts == {"cron": 2, "next-run-at": 1}


async def test_expressions_that_name_no_time_are_looked_through_once_and_keep_nobody_waiting(
    world: World, writer: Writer, monkeypatch: pytest.MonkeyPatch
):
    turns = 0
    looked: list[int] = []

    class Counted(CronSim):
        def __init__(self, expression: str, after: datetime) -> None:
            looked.append(turns)
            super().__init__(expression, after)

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(cadence, "CronSim", Counted)
    for number in range(5):
        never = {"kind": "cron", "expression": f"{number} 0 */30 * MON#2"}
        await world.mission(mission=f"m{number}", seen=False, cadence=never, nextRunAt=None)
    await world.catch_up()
    waiting = asyncio.create_task(others())
    for _ in range(2):
        assert await writer.give_first_times() == 0
        assert never_due() == {"next-run-at": 0, "cron": 5}
    waiting.cancel()
    assert len(looked) == len(set(looked)) == 5


async def test_the_generation_that_serves_is_asked(world: World):
    await world.mission(mission="old", nextRunAt="soon")
    world.admin.execute(
        "insert into mana_ai.mission_snapshots_2 (user_id, mission_id, status, deleted, complete, source, source_lsn,"
        " last_applied_at, record, state) values ('u1', 'new', 'active', false, true, 1, '0/1', now(), %s, '{}')",
        [Jsonb({"nextRunAt": "soon"})],
    )
    async with world.pool.connection() as conn:
        assert [mission.mission_id for mission in await timeless(conn)] == ["old"]
        world.admin.execute("update mana_ai.view_generations set serving = 2 where view = 'missions'")
        assert [mission.mission_id for mission in await timeless(conn)] == ["new"]


async def test_an_edit_of_one_that_stays_what_it_is_writes_no_index(world: World):
    await world.mission(nextRunAt=None, cadence=NINE)
    edit = "update mana_ai.mission_snapshots_1 set record = record || %s, state = state || %s"
    in_place = "select n_tup_hot_upd from pg_stat_xact_user_tables where relname = 'mission_snapshots_1'"
    with world.admin.transaction():
        world.admin.execute(edit, [Jsonb({"title": "Kakteen"})] * 2)
        assert world.admin.execute(in_place).fetchone() == (1,)
