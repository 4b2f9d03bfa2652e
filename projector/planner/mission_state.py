"""A mission as the log has it at this moment, for a writer who acts as its user in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from psycopg import sql

from projector.errors import RowSecurityError
from projector.fold import State, apply, load, merge
from projector.log.change import BadChange, Change, decode
from projector.logging import get
from projector.planner.backoff import Failures
from projector.planner.ledger import FAILURES, Connection, Cursor, failures_of
from projector.sql import query
from projector.views.declared import MISSIONS
from projector.views.reload import LOG_VALUE

_ROWS = sql.SQL(query("planner/mission_rows"))
NOW = sql.SQL(query("planner/mission_now")).format(
    rows=_ROWS.format(value=LOG_VALUE, after_at=sql.SQL("since.at")), failures=FAILURES
)
MORE_ROWS = _ROWS.format(value=LOG_VALUE, after_at=sql.SQL("%(after_at)s"))
WHOLE_ROWS = sql.SQL(query("planner/mission_changes")).format(value=LOG_VALUE)
SOURCE = dict(zip(("app_id", "table_name"), MISSIONS.sources[0], strict=True))
ROWS = 250
"""Rows in a page, without their iterations."""
WHOLE = 8
"""Rows read at once with all that they hold, which may be a megabyte each."""
_BEFORE_ALL = UUID(int=0)

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
    return await read_now(conn, mission, await ask_now(conn, mission))


async def ask_now(conn: Connection, mission: dict[str, str]) -> Cursor:
    """Asks for it; `read_now` gives it."""
    return await conn.execute(NOW, mission | SOURCE | {"after_id": _BEFORE_ALL, "rows": ROWS})


async def read_now(conn: Connection, mission: dict[str, str], cursor: Cursor) -> MissionNow:
    """The rows that may be news to the view are many, and hold the mission's whole array each; nearly all of them it
    knows. So they are looked through without their arrays, and read whole where they tell something.

    Becomes the mission's user where it has to ask again.
    """
    row = await cursor.fetchone()
    assert row is not None, "the query always gives one row"
    stored, in_log, clock_us, zone, in_row, latest_at, reason, rows, last_at, last_id = row
    state = load(stored) if stored is not None else State()
    while True:
        if news := _news(state, rows):
            await _take_in(conn, mission, state, news)
        if len(rows) < ROWS:
            return MissionNow(state, in_log, clock_us, zone, failures_of(in_row, latest_at, reason))
        await become(conn, mission["user_id"])
        place = {"after_at": last_at, "after_id": last_id, "rows": ROWS}
        cursor = await conn.execute(MORE_ROWS, mission | SOURCE | place)
        row = await cursor.fetchone()
        assert row is not None, "the query always gives one row"
        rows, last_at, last_id = row


def _news(state: State, rows: Iterable[str]) -> list[str]:
    """The ids of rows that tell something beyond `state`, whatever the others tell.

    Which of a field's values counts is decided by its stamp, so a row need not have the value to show that.
    """
    news = []
    beyond = merge(state, State())
    for change in _decoded(rows):
        if apply(beyond, change):
            news.append(change.id)
            beyond = merge(state, State())
    return news


async def _take_in(conn: Connection, mission: dict[str, str], state: State, ids: Sequence[str]) -> None:
    await become(conn, mission["user_id"])
    for begin in range(0, len(ids), WHOLE):
        cursor = await conn.execute(WHOLE_ROWS, mission | SOURCE | {"ids": ids[begin : begin + WHOLE]})
        for change in _decoded(value for (value,) in await cursor.fetchall()):
            apply(state, change)


def _decoded(rows: Iterable[str]) -> Iterator[Change]:
    for value in rows:
        try:
            yield decode(value.encode())
        except BadChange as bad:
            # The views keep such a row as a dead letter; it says nothing about the mission.
            log.warning("unusable change of a mission", code=bad.code)
