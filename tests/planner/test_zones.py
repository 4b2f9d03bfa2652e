"""Whose clock a cadence is read on."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from projector.config import time_zone
from projector.planner.pace import Pace
from projector.planner.zones import own_zone, set_zone, unset_zone, zones
from projector.sql.connection import connect
from tests.planner.test_writeback import PLAN
from tests.planner.world import World
from tests.planner.writing import write_back

NINE = {"kind": "daily", "atHour": 9, "atMinute": 0}
KOLKATA, NEW_YORK = ZoneInfo("Asia/Kolkata"), ZoneInfo("America/New_York")


async def next_of(world: World, user: str) -> datetime:
    """Plans and writes the due mission of the user, and returns when it runs next."""
    await world.open()
    (run,) = await world.ledger().claim(1, per_user=1)
    await world.ledger().store_plan(run, PLAN, sweep_after_s=0)
    async with await connect(world.settings, "projector_sink") as conn:
        await write_back(conn, run.run_id, user, zone=KOLKATA, pace=Pace())
    return datetime.fromisoformat(world.ours()[-1]["data"]["nextRunAt"])


async def test_a_users_own_zone_counts_for_that_user_and_the_settings_for_the_others(world: World):
    async with world.pool.connection() as conn:
        assert await set_zone(conn, "u1", NEW_YORK) is None
    for user, zone in (("u1", NEW_YORK), ("u2", KOLKATA)):
        await world.mission(user, cadence=NINE)
        following = await next_of(world, user)
        assert following.astimezone(zone).strftime("%H:%M") == "09:00"


async def test_a_zone_that_this_machine_does_not_know_leaves_the_settings(world: World):
    world.admin.execute("insert into mana_ai.user_zones (user_id, zone) values ('u1', 'Mars/Olympus')")
    await world.mission(cadence=NINE)
    assert (await next_of(world, "u1")).astimezone(KOLKATA).strftime("%H:%M") == "09:00"


async def test_a_zone_is_kept_replaced_and_taken_away(world: World):
    async with world.pool.connection() as conn:
        assert await own_zone(conn, "u1") is None
        assert await set_zone(conn, "u1", KOLKATA) is None
        assert await set_zone(conn, "u1", NEW_YORK) == "Asia/Kolkata"
        assert [(user, zone) for user, zone, _ in await zones(conn)] == [("u1", "America/New_York")]
        assert await unset_zone(conn, "u1") == "America/New_York"
        assert await unset_zone(conn, "u1") is None
        assert await zones(conn) == []


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Mars/Olympus",
        "Europe",
        "../Berlin",
        "/etc/localtime",
        "localtime",
        "right/Europe/Berlin",
        "Europe/Berlin\0",
    ],
)
def test_a_name_that_is_no_zone_or_another_on_each_machine_is_refused(name):
    with pytest.raises(ValueError, match="no time zone"):
        time_zone(name)
    assert time_zone("Europe/Berlin").key == "Europe/Berlin"
