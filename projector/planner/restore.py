"""Iterations of ours that a device dropped: its array came from before them, and replaced the one that had them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any
from uuid import UUID

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from projector import crash, metrics
from projector.fold import derive, following_stamp, format_instant
from projector.log.actor import MISSION_RUNNER, origin_from_actor
from projector.log.clock import to_datetime
from projector.log.ids import restored_change_id
from projector.logging import get
from projector.planner.history import UNDECIDED_BYTES, capped, size_of
from projector.planner.ledger import Connection
from projector.planner.mission_state import enter_user, lock_mission, mission_now
from projector.sql import query

MOST_RESTORES = 3
"""Of one iteration: a device that drops it again and again has its reasons."""
BATCH = 100

log = get("sink")


@dataclass(frozen=True, slots=True)
class Dropped:
    """A written iteration that the mission's newest array lacks; as the view of iterations has it."""

    run_id: UUID
    restores: int
    iteration: dict[str, Any]


async def missions_with_dropped(
    conn: Connection, after: tuple[str, str] = ("", ""), *, rest_s: float, limit: int = BATCH
) -> list[tuple[str, str]]:
    """Users and missions whose record lacks iterations of ours since `rest_s`: those that follow `after`.

    `conn` is one of projector_planner.

    Its cost follows the number of missions that lack some: they are in a partial index.
    """
    parameters = {
        "after_user": after[0],
        "after_mission": after[1],
        "limit": limit,
        "most": MOST_RESTORES,
        "rest_s": rest_s,
    }
    cursor = await conn.execute(query("planner/missions_with_dropped"), parameters)
    return [(user_id, mission_id) for user_id, mission_id in await cursor.fetchall()]


async def restore(conn: Connection, user_id: str, mission_id: str, *, rest_s: float) -> int:
    """Puts a mission's dropped iterations back, with what people said of them meanwhile; returns how many.

    One change of the log, as `write_back`. `conn` is an autocommit connection of projector_sink.
    """
    mission = {"user_id": user_id, "mission_id": mission_id}
    async with conn.transaction():
        await enter_user(conn, user_id)
        await lock_mission(conn, mission)
        now = await mission_now(conn, mission)
        record = derive(now.state)
        shown = record.fields.get("iterations")
        if record.deleted or not record.complete or not isinstance(shown, list) or not now.in_log:
            return 0
        dropped = await _dropped(conn, mission, shown, rest_s)
        if not dropped:
            return 0
        stamp = format_instant(following_stamp(now.clock_us, now.state.newest_instant([("iterations",)])))
        run_ids = [d.run_id for d in dropped]
        restores = 1 + max(d.restores for d in dropped)
        cursor = await conn.execute(
            query("planner/write_mission"),
            {
                "id": restored_change_id(run_ids, restores),
                "user_id": user_id,
                "mission_id": mission_id,
                "data": Jsonb({"iterations": capped(merged(shown, [d.iteration for d in dropped]), stamp)}),
                "field_meta": Jsonb({"iterations": stamp}),
                "actor": Jsonb(MISSION_RUNNER.to_json()),
                "origin": origin_from_actor(MISSION_RUNNER),
                "space_id": record.space_id,
            },
        )
        row = await cursor.fetchone()
        await conn.execute(
            query("planner/count_restores"),
            {
                "run_ids": run_ids,
                # A ledger that is older than the log finds the change there.
                "restored_at": None if row is None else row[0],
                "over": None if now.state.newest_us is None else to_datetime(now.state.newest_us),
            },
        )
        crash.point("sink.restore_before_commit")
    crash.point("sink.restore_after_commit")
    metrics.ITERATIONS_RESTORED.inc(len(dropped))
    log.info("iterations restored that a device had dropped", count=len(dropped), restores=restores)
    return len(dropped)


def merged(shown: list[Any], dropped: list[dict[str, Any]]) -> list[Any]:
    """The array with the dropped ones where their beginning puts them; the others stay in their order."""
    out = list(shown)
    for iteration in sorted(dropped, key=_started):
        place = next((n for n, known in enumerate(out) if _started(known) > _started(iteration)), len(out))
        out.insert(place, iteration)
    return out


def _started(iteration: Any) -> str:
    started = iteration.get("startedAt") if isinstance(iteration, dict) else None
    return started if isinstance(started, str) else ""


async def _dropped(conn: Connection, mission: dict[str, str], shown: list[Any], rest_s: float) -> list[Dropped]:
    cursor = conn.cursor(row_factory=class_row(Dropped))
    await cursor.execute(query("planner/dropped"), mission | {"most": MOST_RESTORES, "rest_s": rest_s})
    # The view may be behind the log, which has the last word on what devices show.
    known = {key for iteration in shown if isinstance(iteration, dict) and isinstance(key := iteration.get("id"), str)}
    return _at_once([found for found in await cursor.fetchall() if found.iteration["id"] not in known])


def _at_once(dropped: list[Dropped]) -> list[Dropped]:
    """The newest of them, no more than a record keeps; the next pass finds the others."""
    newest = sorted(dropped, key=lambda found: _started(found.iteration), reverse=True)
    sizes = accumulate(size_of(found.iteration) for found in newest)
    return [
        found for n, (found, size) in enumerate(zip(newest, sizes, strict=True)) if n == 0 or size <= UNDECIDED_BYTES
    ]
