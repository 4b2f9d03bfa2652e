"""In whose zone a cadence is meant: a user's own, else that of the setting.

A zone takes effect when a mission's next time is computed; times that stand in the log already are instants.
"""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from projector.config import time_zone
from projector.logging import get
from projector.planner.ledger import Connection
from projector.sql import query

log = get("sink")


def zone_of(name: str | None, default: ZoneInfo) -> ZoneInfo:
    """The zone of a user who has one of that name, or none of their own."""
    if name is None:
        return default
    try:
        return time_zone(name)
    except ValueError:
        # It was known where it was set: the zones of this machine are older.
        log.warning("a user's time zone is unknown here, and the setting's is taken", zone=name, taken=default.key)
        return default


async def own_zone(conn: Connection, user_id: str) -> str | None:
    """The name of the user's own zone; None without one."""
    row = await (await conn.execute(query("planner/owner_zone"), {"user_id": user_id})).fetchone()
    return None if row is None else str(row[0])


async def set_zone(conn: Connection, user_id: str, zone: ZoneInfo) -> str | None:
    """Gives the user a zone of their own, and returns the name of the one before."""
    row = await (await conn.execute(query("planner/set_zone"), {"user_id": user_id, "zone": zone.key})).fetchone()
    assert row is not None, "the query always gives one row"
    return None if row[0] is None else str(row[0])


async def unset_zone(conn: Connection, user_id: str) -> str | None:
    """Takes the user's own zone away, and returns its name; None when there was none."""
    row = await (await conn.execute(query("planner/unset_zone"), {"user_id": user_id})).fetchone()
    return None if row is None else str(row[0])


async def zones(conn: Connection) -> list[tuple[str, str, datetime]]:
    """Every user with a zone of their own: id, name of the zone, when it was set."""
    return [(user, zone, at) for user, zone, at in await (await conn.execute(query("planner/zones"))).fetchall()]
