"""A mission as the log has it at this moment, for a writer who acts as its user in one transaction."""

from __future__ import annotations

from datetime import timedelta

from projector.errors import RowSecurityError
from projector.fold import State, apply, load
from projector.log.clock import to_datetime
from projector.planner.ledger import Connection
from projector.sql import query
from projector.views.declared import IDENTITY, MISSIONS, Identity
from projector.views.reload import BEGINNING, changes_of

# A row may commit long after its created_at was taken; a transaction older than this is not waited for.
LATEST_COMMIT = timedelta(days=1)


async def enter_user(conn: Connection, user_id: str) -> None:
    """Holds the rest of the transaction to one user's rows; raises RowSecurityError when the role is not held."""
    cursor = await conn.execute(query("planner/enter_user"), {"user_id": user_id})
    row = await cursor.fetchone()
    if row is None or row[1] is not True:
        raise RowSecurityError("row-level security does not hold for the role projector_sink")


async def lock_mission(conn: Connection, mission: dict[str, str]) -> None:
    """Waits for other writers of the mission; `mission` names `user_id` and `mission_id`, here and below."""
    await conn.execute(query("planner/lock_mission"), mission)


async def in_log(conn: Connection, mission: dict[str, str]) -> bool:
    """False once the mission was erased: a write from what the view has not let go of yet would bring it back."""
    identity = dict(zip(IDENTITY, _identity(mission), strict=True))
    row = await (await conn.execute(query("planner/in_log"), identity)).fetchone()
    return row == (True,)


async def newest_state(conn: Connection, mission: dict[str, str]) -> State:
    """What the view stored, and on top what the log holds beyond it. Taking a row in twice is harmless."""
    row = await (await conn.execute(query("planner/stored_mission"), mission)).fetchone()
    state = load(row[0]) if row is not None else State()
    since = BEGINNING if state.newest_us is None else to_datetime(state.newest_us) - LATEST_COMMIT
    for change in await changes_of(conn, _identity(mission), since):
        apply(state, change)
    return state


async def server_clock(conn: Connection) -> int:
    """Microseconds since the Unix epoch, as the database has them."""
    row = await (await conn.execute(query("planner/server_clock"))).fetchone()
    assert row is not None, "a clock always answers"
    return int(row[0])


def _identity(mission: dict[str, str]) -> Identity:
    return (mission["user_id"], *MISSIONS.sources[0], mission["mission_id"])
