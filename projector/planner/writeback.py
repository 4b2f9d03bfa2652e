"""The write-back: a stored plan becomes one change of its mission, made as the user it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

from psycopg import AsyncConnection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from projector import crash, metrics
from projector.fold import Record, State, derive, following_stamp, format_instant, parse_instant
from projector.log.actor import Actor, agent, origin_from_actor
from projector.log.clock import to_datetime
from projector.log.ids import iteration_change_id
from projector.logging import get
from projector.planner.cadence import InvalidCadence, next_run
from projector.planner.history import capped
from projector.planner.iteration import iteration_of
from projector.planner.mission import mission_of
from projector.planner.mission_state import enter_user, in_log, lock_mission, newest_state, server_clock
from projector.planner.pace import Pace
from projector.sql import query

Connection = AsyncConnection[tuple[Any, ...]]
Result = Literal["written", "refused", "nothing-to-do"]

SWEEP_BATCH = 100

log = get("sink")


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """A run as its plan left it."""

    mission_id: str
    agent_id: str
    due_at: datetime
    iteration_id: UUID
    plan: dict[str, Any]
    started_at: datetime
    planned_at: datetime


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a plan is not forced into its mission any more."""

    decision: str
    reason: str


_ERASED = Refusal("mission-gone", "the log holds nothing of the mission any more")


async def write_back(conn: Connection, run_id: UUID, user_id: str, *, zone: ZoneInfo, pace: Pace) -> Result:
    """Writes the plan of a run into the log, once: whoever comes second finds nothing to do.

    `conn` is an autocommit connection of projector_sink. Raises RowSecurityError when that role is not held to
    one user's rows, psycopg.Error when the database refuses.
    """
    async with conn.transaction():
        await enter_user(conn, user_id)
        cursor = conn.cursor(row_factory=class_row(StoredPlan))
        await cursor.execute(query("planner/lock_plan"), {"run_id": run_id, "user_id": user_id})
        run = await cursor.fetchone()
        if run is None:
            return "nothing-to-do"
        mission = {"user_id": user_id, "mission_id": run.mission_id}
        await lock_mission(conn, mission)
        state = await newest_state(conn, mission)
        record = derive(state)
        refusal = _refusal(record, run.agent_id) if await in_log(conn, mission) else _ERASED
        if refusal is None:
            change_id = iteration_change_id(run.iteration_id)
            now_us = await server_clock(conn)
            await conn.execute(
                query("planner/write_iteration"), _row(run, user_id, change_id, state, record, now_us, zone)
            )
            await conn.execute(query("planner/mark_written"), {"run_id": run_id, "change_id": change_id})
        else:
            await conn.execute(
                query("planner/refuse_plan"),
                {
                    "run_id": run_id,
                    "decision": refusal.decision,
                    "reason": refusal.reason,
                    "wait_s": pace.cancelled_rest_s,
                },
            )
        crash.point("sink.before_commit")
    crash.point("sink.after_commit")
    decision = "ran" if refusal is None else refusal.decision
    metrics.AGENT_DECISIONS.labels(decision=decision).inc()
    log.info("written" if refusal is None else "plan refused", run=str(run_id), decision=decision)
    return "written" if refusal is None else "refused"


async def postpone(conn: Connection, run_id: UUID, user_id: str, *, wait_s: float) -> None:
    """Lets a plan that could not be written wait, so that others come first."""
    async with conn.transaction():
        await enter_user(conn, user_id)
        await conn.execute(query("planner/postpone_plan"), {"run_id": run_id, "wait_s": wait_s})


async def unwritten(conn: Connection, *, limit: int = SWEEP_BATCH) -> list[tuple[UUID, str]]:
    """Runs, with their users, whose plan waits although its announcement should have arrived.

    `conn` is one of projector_planner: the writer itself sees a single user at a time.
    """
    cursor = await conn.execute(query("planner/unwritten"), {"limit": limit})
    return [(run_id, user_id) for run_id, user_id in await cursor.fetchall()]


def _refusal(record: Record, agent_id: str) -> Refusal | None:
    mission = mission_of(record.fields)
    if record.deleted or not record.complete:
        return Refusal("mission-gone", "the mission was deleted while it was planned")
    if mission.state != "active":
        return Refusal(
            "mission-inactive", f"the mission became {mission.state[:40] or 'stateless'} while it was planned"
        )
    if mission.agent_id != agent_id:
        return Refusal("mission-reassigned", "the mission was given to another agent while it was planned")
    return None


def _row(
    run: StoredPlan, user_id: str, change_id: UUID, state: State, record: Record, now_us: int, zone: ZoneInfo
) -> dict[str, Any]:
    """The change: the mission's iterations with the new one appended, and when it runs next, under one stamp."""
    stamp = format_instant(following_stamp(now_us, state.newest_instant([("iterations",), ("nextRunAt",)])))
    known = record.fields.get("iterations")
    kept = [i for i in known if not _is(i, run.iteration_id)] if isinstance(known, list) else []
    iteration = iteration_of(run.plan, run.iteration_id, started_at=run.started_at, finished_at=run.planned_at)
    actor = _actor(run)
    return {
        "id": change_id,
        "user_id": user_id,
        "mission_id": run.mission_id,
        "data": Jsonb(
            {
                "iterations": capped([*kept, iteration], stamp),
                "nextRunAt": _next_run_at(record, run.due_at, to_datetime(now_us), zone),
            }
        ),
        "field_meta": Jsonb({"iterations": stamp, "nextRunAt": stamp}),
        "actor": Jsonb(actor.to_json()),
        "origin": origin_from_actor(actor),
    }


def _actor(run: StoredPlan) -> Actor:
    """The agent that planned.

    The rationale stays empty: clients put the objective there, in the clear, on a row that every service reads.
    """
    planner = run.plan["agent"]
    return agent(planner["id"], planner["name"], mission_id=run.mission_id, iteration_id=str(run.iteration_id))


def _is(iteration: object, iteration_id: UUID) -> bool:
    return isinstance(iteration, dict) and iteration.get("id") == str(iteration_id)


def _next_run_at(record: Record, due_at: datetime, now: datetime, zone: ZoneInfo) -> str | None:
    shown = record.fields.get("nextRunAt")
    shown_us = parse_instant(shown) if isinstance(shown, str) else None
    if shown_us is not None and to_datetime(shown_us) > max(now, due_at):
        # A device has moved the mission on while it was planned.
        return format_instant(shown_us)
    try:
        following = next_run(record.fields.get("cadence"), max(now, due_at), zone, slot=due_at)
    except InvalidCadence as error:
        log.warning("mission has no next run", reason=str(error))
        return None
    return None if following is None else format_instant(round(following.timestamp() * 1000) * 1000)
