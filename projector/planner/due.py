"""The scheduler: missions that are due become runs, each with its announcement in the same transaction."""

from __future__ import annotations

from psycopg import sql

from projector import crash
from projector.log.clock import from_datetime
from projector.log.ids import iteration_id, run_id
from projector.planner.ledger import CHANGED_AT, Connection
from projector.planner.mission import DEFAULT_AGENT, MAX_AGENT_ID
from projector.sql import query

_WAKE_CHANGED = sql.SQL(query("planner/wake_changed")).format(changed_at=CHANGED_AT)
BATCH = 500
ANNOUNCED_AGAIN = 100


async def open_due_runs(conn: Connection, *, limit: int = BATCH) -> int:
    """Opens a run for up to `limit` due missions and returns how many it opened.

    Any number of schedulers may do this at once: each due time gets one run, opened and announced by one of them.
    `conn` is an autocommit connection of projector_planner.
    """
    async with conn.transaction():
        cursor = await conn.execute(
            query("planner/find_due"), {"limit": limit, "default_agent": DEFAULT_AGENT, "longest_agent": MAX_AGENT_ID}
        )
        due = await cursor.fetchall()
        if not due:
            return 0
        runs = [run_id(user, mission, from_datetime(due_at)) for user, mission, _, due_at in due]
        cursor = await conn.execute(
            query("planner/open_runs"),
            {
                "run_ids": runs,
                "iteration_ids": [iteration_id(run) for run in runs],
                "users": [user for user, _, _, _ in due],
                "missions": [mission for _, mission, _, _ in due],
                "agents": [agent for _, _, agent, _ in due],
                "due": [due_at for _, _, _, due_at in due],
            },
        )
        opened = cursor.rowcount
        crash.point("timers.before_commit")
    crash.point("timers.after_commit")
    return opened


async def until_next_due(conn: Connection) -> float | None:
    """Seconds until the next mission is due that is not due yet; None when there is none."""
    row = await (await conn.execute(query("planner/until_next_due"))).fetchone()
    assert row is not None, "the view has its tables"
    seconds: float | None = row[0]
    return seconds


async def reannounce(conn: Connection, *, late_s: float, limit: int = ANNOUNCED_AGAIN) -> int:
    """Announces again what has waited for `late_s` seconds without a worker, or as a plan without a row."""
    cursor = await conn.execute(query("planner/reannounce"), {"late_s": late_s, "limit": limit})
    return cursor.rowcount


async def wake_changed(conn: Connection) -> int:
    """Lets held runs whose mission or agent others than ourselves have changed be looked at again now."""
    return (await conn.execute(_WAKE_CHANGED)).rowcount
