"""The write-back: a stored plan becomes one change of its mission, made as the user it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from projector import crash, metrics
from projector.errors import PlanVersionError
from projector.fold import Record, State, derive, following_stamp, format_instant, parse_instant
from projector.log.actor import MISSION_RUNNER, Actor, agent, origin_from_actor
from projector.log.clock import from_datetime, to_datetime
from projector.log.ids import iteration_change_id
from projector.logging import get
from projector.planner.backoff import rest_s, rewrite_s
from projector.planner.cadence import InvalidCadence, next_run
from projector.planner.foreground import ran_in_foreground, runs_in_foreground
from projector.planner.history import capped
from projector.planner.iteration import iteration_of
from projector.planner.ledger import Connection
from projector.planner.mission import mission_of
from projector.planner.mission_state import MissionNow, ask_now, become, enter_user, expect_row_security, read_now
from projector.planner.pace import Pace
from projector.planner.versions import refusal_of_plan
from projector.planner.zones import zone_of
from projector.sql import query

Result = Literal["written", "refused", "postponed", "nothing-to-do"]

SWEEP_BATCH = 100
_TOLD = {"written": "written", "refused": "plan refused", "postponed": "plan postponed"}

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

    @property
    def failed(self) -> bool:
        return "error" in self.plan


@dataclass(frozen=True, slots=True)
class Following:
    """When the mission runs next, as the log says it; without a time the reason may say why."""

    at: str | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a plan is not forced into its mission any more."""

    decision: str
    reason: str


_ERASED = Refusal("mission-gone", "the log holds nothing of the mission any more")


@dataclass(slots=True)
class _Writing:
    """A plan on its way: locked, with its mission as it is now; then how it ends."""

    run_id: UUID
    user_id: str
    run: StoredPlan
    now: MissionNow
    decision: str = ""
    result: Result = "written"


async def write_back(
    conn: Connection, plans: Sequence[tuple[UUID, str]], *, zone: ZoneInfo, pace: Pace
) -> list[Result | PlanVersionError]:
    """Writes plans, given as run and user, into the log, each once: whoever comes second finds nothing to do.

    All of them or none, in one transaction, each read and written as its own user: the user changes with every plan.
    One of an unknown version is left to a program that knows it, and is no other's fault.

    `zone` is that of users who have none of their own. `conn` is an autocommit connection of projector_sink. Raises
    RowSecurityError when that role is not held to one user's rows, psycopg.Error when the database refuses.
    """
    async with conn.pipeline(), conn.transaction():
        # In order, so that two who lock several do not wait for each other in a circle; each once.
        locked = await _lock(conn, sorted(set(plans)))
        crash.point("sink.plan_locked")
        unknown = {one[:2]: refusal for one in locked if (refusal := refusal_of_plan(one[2].plan)) is not None}
        writing = await _read(conn, [one for one in locked if one[:2] not in unknown], alone=len(plans) == 1)
        for one in writing:
            if len(plans) > 1:
                await become(conn, one.user_id)
            await _write(conn, one, zone, pace)
        crash.point("sink.before_commit")
    crash.point("sink.after_commit")
    results: dict[tuple[UUID, str], Result | PlanVersionError] = {}
    for plan, refusal in unknown.items():
        results[plan] = PlanVersionError(refusal)
    for one in writing:
        metrics.AGENT_DECISIONS.labels(decision=one.decision).inc()
        if one.decision == "ran":
            metrics.PLANS_WRITTEN_BACK.inc()
        log.info(_TOLD[one.result], run=str(one.run_id), decision=one.decision)
        results[one.run_id, one.user_id] = one.result
    return [results.get(plan, "nothing-to-do") for plan in plans]


async def _lock(conn: Connection, plans: Sequence[tuple[UUID, str]]) -> list[tuple[UUID, str, StoredPlan]]:
    """Those that wait to be written, locked with their missions."""
    asked = []
    for run_id, user_id in plans:
        entered = await become(conn, user_id)
        cursor = conn.cursor(row_factory=class_row(StoredPlan))
        await cursor.execute(query("planner/lock_plan"), {"run_id": run_id, "user_id": user_id})
        asked.append((run_id, user_id, entered, cursor))
    locked = []
    for run_id, user_id, entered, cursor in asked:
        await expect_row_security(entered)
        if (run := await cursor.fetchone()) is not None:
            locked.append((run_id, user_id, run))
    return locked


async def _read(conn: Connection, locked: Sequence[tuple[UUID, str, StoredPlan]], *, alone: bool) -> list[_Writing]:
    asked = []
    for run_id, user_id, run in locked:
        if not alone:
            await become(conn, user_id)
        mission = {"user_id": user_id, "mission_id": run.mission_id}
        asked.append((run_id, run, mission, await ask_now(conn, mission)))
    return [
        _Writing(run_id, mission["user_id"], run, await read_now(conn, mission, cursor))
        for run_id, run, mission, cursor in asked
    ]


async def _write(conn: Connection, one: _Writing, zone: ZoneInfo, pace: Pace) -> None:
    run, now = one.run, one.now
    record = derive(now.state)
    refusal = _refusal(record, run) if now.in_log else _ERASED
    if refusal is not None:
        one.decision, one.result = refusal.decision, "refused"
        await conn.execute(
            query("planner/refuse_plan"),
            {
                "run_id": one.run_id,
                "decision": refusal.decision,
                "reason": refusal.reason,
                "wait_s": pace.cancelled_rest_s,
            },
        )
        return
    if runs_in_foreground(mission_of(record.fields), to_datetime(now.clock_us)):
        # It may carry out what was due: how it ends decides.
        one.decision, one.result = "skipped-foreground", "postponed"
        await conn.execute(query("planner/postpone_plan"), {"run_id": one.run_id, "wait_s": pace.hold_for_place_s})
        return
    one.decision = "failed" if run.failed else "ran"
    change_id = iteration_change_id(run.iteration_id)
    rest = timedelta(seconds=rest_s(now.failures.in_row + 1, pace)) if run.failed else timedelta(0)
    following = _following(record, run.due_at, to_datetime(now.clock_us), zone_of(now.zone, zone), rest=rest)
    await conn.execute(
        query("planner/write_mission"),
        _row(run, one.user_id, change_id, now.state, record, now.clock_us, following.at),
    )
    crash.point("sink.before_mark")
    await conn.execute(
        query("planner/mark_written"),
        {
            "run_id": one.run_id,
            "change_id": change_id,
            "decision": one.decision,
            "reason": run.plan["reason"] if run.failed else following.reason,
        },
    )


async def postpone(conn: Connection, run_id: UUID, user_id: str, *, reason: str, pace: Pace) -> None:
    """Lets a plan that the database refused wait, longer each time, so that others come first."""
    async with conn.transaction():
        await enter_user(conn, user_id)
        cursor = await conn.execute(query("planner/count_refused_write"), {"run_id": run_id, "reason": reason})
        row = await cursor.fetchone()
        if row is not None:
            wait_s = rewrite_s(row[0], pace)
            await conn.execute(query("planner/postpone_plan"), {"run_id": run_id, "wait_s": wait_s})


async def unwritten(conn: Connection, *, limit: int = SWEEP_BATCH) -> list[tuple[UUID, str]]:
    """Runs, with their users, whose plan waits although its announcement should have arrived.

    `conn` is one of projector_planner: the writer itself sees a single user at a time.
    """
    cursor = await conn.execute(query("planner/unwritten"), {"limit": limit})
    return [(run_id, user_id) for run_id, user_id in await cursor.fetchall()]


def _refusal(record: Record, run: StoredPlan) -> Refusal | None:
    mission = mission_of(record.fields)
    if record.deleted or not record.complete:
        return Refusal("mission-gone", "the mission was deleted while it was planned")
    if mission.state != "active":
        return Refusal(
            "mission-inactive", f"the mission became {mission.state[:40] or 'stateless'} while it was planned"
        )
    if mission.agent_id != run.agent_id:
        return Refusal("mission-reassigned", "the mission was given to another agent while it was planned")
    if ran_in_foreground(mission, run.due_at, _shown_time(record)):
        return Refusal("mission-rescheduled", "a device ran the mission itself while it was planned")
    return None


def _shown_time(record: Record) -> datetime | None:
    shown = record.fields.get("nextRunAt")
    shown_us = parse_instant(shown) if isinstance(shown, str) else None
    return None if shown_us is None else to_datetime(shown_us)


def _row(
    run: StoredPlan, user_id: str, change_id: UUID, state: State, record: Record, now_us: int, next_run_at: str | None
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
        "data": Jsonb({"iterations": capped([*kept, iteration], stamp), "nextRunAt": next_run_at}),
        "field_meta": Jsonb({"iterations": stamp, "nextRunAt": stamp}),
        "actor": Jsonb(actor.to_json()),
        "origin": origin_from_actor(actor),
        "space_id": record.space_id,
    }


def _actor(run: StoredPlan) -> Actor:
    """The agent that planned; that a run failed is no agent's work.

    The rationale stays empty: clients put the objective there, in the clear, on a row that every service reads.
    """
    if run.failed:
        return MISSION_RUNNER
    planner = run.plan["agent"]
    return agent(planner["id"], planner["name"], mission_id=run.mission_id, iteration_id=str(run.iteration_id))


def _is(iteration: object, iteration_id: UUID) -> bool:
    return isinstance(iteration, dict) and iteration.get("id") == str(iteration_id)


def _following(record: Record, due_at: datetime, now: datetime, zone: ZoneInfo, *, rest: timedelta) -> Following:
    """The mission's next time, `rest` away at least unless a device has chosen it since this one was due."""
    shown = _shown_time(record)
    if shown is not None and shown > due_at:
        # Also one that has passed by now: whoever sets a mission to run at once wants what they have edited to count.
        return Following(format_instant(from_datetime(shown)))
    try:
        following = next_run(record.fields.get("cadence"), max(now, due_at) + rest, zone, slot=due_at)
    except InvalidCadence as error:
        log.warning("mission has no next run", reason=str(error))
        return Following(None, f"it has no next run: {error}")
    return Following(None if following is None else format_instant(from_datetime(following)))
