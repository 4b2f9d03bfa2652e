"""The first time of missions with a cron expression: devices store them without one, and would never run them."""

from __future__ import annotations

from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from psycopg.types.json import Jsonb

from projector.fold import Record, derive, following_stamp, format_instant
from projector.log.actor import MISSION_RUNNER, origin_from_actor
from projector.log.clock import from_datetime, to_datetime
from projector.log.ids import first_time_change_id
from projector.planner.cadence import InvalidCadence, next_run
from projector.planner.ledger import Connection
from projector.planner.mission_state import MissionNow, enter_user, lock_mission, mission_now
from projector.planner.zones import zone_of
from projector.sql import query

PAGE = 500


class Timeless(NamedTuple):
    """An active mission that has no time. `unusable`: its nextRunAt is something else; no cron expression is needed."""

    user_id: str
    mission_id: str
    cadence: Any
    unusable: bool


async def timeless(conn: Connection, after: tuple[str, str] = ("", ""), *, limit: int = PAGE) -> list[Timeless]:
    """Active missions that should have a time and have none: those that follow the user and mission `after`.

    `conn` is one of projector_planner.
    """
    cursor = await conn.execute(
        query("planner/timeless"), {"after_user": after[0], "after_mission": after[1], "limit": limit}
    )
    return [Timeless(*row) for row in await cursor.fetchall()]


async def write_first_time(conn: Connection, user_id: str, mission_id: str, *, zone: ZoneInfo) -> bool:
    """Writes when the mission runs first into the log; False where it has a time by now, or can have none.

    `zone` is that of users who have none of their own. `conn` is an autocommit connection of projector_sink. Raises
    RowSecurityError and psycopg.Error as the write-back does.
    """
    async with conn.transaction():
        await enter_user(conn, user_id)
        mission = {"user_id": user_id, "mission_id": mission_id}
        await lock_mission(conn, mission)
        now = await mission_now(conn, mission)
        record = derive(now.state)
        if not _wants_one(record) or not now.in_log:
            return False
        try:
            first = next_run(record.fields.get("cadence"), to_datetime(now.clock_us), zone_of(now.zone, zone))
        except InvalidCadence:
            return False
        assert first is not None, "a cron expression that is valid names times"
        await conn.execute(query("planner/write_mission"), _row(mission, now, record, from_datetime(first)))
    return True


def _wants_one(record: Record) -> bool:
    cadence = record.fields.get("cadence")
    return (
        record.complete
        and not record.deleted
        and record.fields.get("state") == "active"
        and record.fields.get("nextRunAt") is None
        and isinstance(cadence, dict)
        and cadence.get("kind") == "cron"
    )


def _row(mission: dict[str, str], now: MissionNow, record: Record, first_us: int) -> dict[str, Any]:
    stamp_us = following_stamp(now.clock_us, now.state.newest_instant([("nextRunAt",)]))
    stamp = format_instant(stamp_us)
    return {
        "id": first_time_change_id(mission["user_id"], mission["mission_id"], stamp_us),
        **mission,
        "data": Jsonb({"nextRunAt": format_instant(first_us)}),
        "field_meta": Jsonb({"nextRunAt": stamp}),
        "actor": Jsonb(MISSION_RUNNER.to_json()),
        "origin": origin_from_actor(MISSION_RUNNER),
        "space_id": record.space_id,
    }
