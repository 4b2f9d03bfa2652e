"""A mission as the log has it at this moment, for a writer who acts as its user in one transaction."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from projector.errors import RowSecurityError
from projector.fold import State, apply, load
from projector.log.change import BadChange, decode
from projector.logging import get
from projector.planner.backoff import Failures
from projector.planner.ledger import FAILURES, Connection, Cursor, failures_of
from projector.sql import query
from projector.views.declared import MISSIONS
from projector.views.reload import LOG_VALUE

NOW = sql.SQL(query("planner/mission_now")).format(value=LOG_VALUE, failures=FAILURES)
SOURCE = dict(zip(("app_id", "table_name"), MISSIONS.sources[0], strict=True))

log = get("sink")


@dataclass(frozen=True, slots=True)
class MissionNow:
    """`state`: what the view stored, and on top what the log holds beyond it. `zone`: the name of its user's own.

    Without `in_log` the mission was erased: a write from what the view has not let go of yet would bring it back.
    """

    state: State
    in_log: bool
    clock_us: int
    zone: str | None
    failures: Failures


async def enter_user(conn: Connection, user_id: str) -> None:
    """Holds the rest of the transaction to one user's rows; raises RowSecurityError when the role is not held."""
    await expect_row_security(await become(conn, user_id))


async def become(conn: Connection, user_id: str) -> Cursor:
    """Begins to hold what follows to the user's rows; `expect_row_security` says whether that is so."""
    return await conn.execute(query("planner/enter_user"), {"user_id": user_id})


async def expect_row_security(cursor: Cursor) -> None:
    """Raises RowSecurityError when the role is not held to one user's rows."""
    row = await cursor.fetchone()
    if row is None or row[1] is not True:
        raise RowSecurityError("row-level security does not hold for the role projector_sink")


async def lock_mission(conn: Connection, mission: dict[str, str]) -> None:
    """Waits for other writers of the mission; `mission` names `user_id` and `mission_id`, here and below."""
    await conn.execute(query("planner/lock_mission"), mission)


async def mission_now(conn: Connection, mission: dict[str, str]) -> MissionNow:
    """What there is of the mission; asked for after it was locked."""
    return await read_now(await ask_now(conn, mission))


async def ask_now(conn: Connection, mission: dict[str, str]) -> Cursor:
    """Asks for it; `read_now` gives it."""
    return await conn.execute(NOW, mission | SOURCE)


async def read_now(cursor: Cursor) -> MissionNow:
    row = await cursor.fetchone()
    assert row is not None, "the query always gives one row"
    stored, in_log, clock_us, zone, *failed, changes = row
    state = load(stored) if stored is not None else State()
    for value in changes:
        try:
            # Taking a row in twice is harmless.
            apply(state, decode(value.encode()))
        except BadChange as bad:
            # The views keep such a row as a dead letter; it says nothing about the mission.
            log.warning("unusable change of a mission", code=bad.code)
    return MissionNow(state, in_log, clock_us, zone, failures_of(*failed))
