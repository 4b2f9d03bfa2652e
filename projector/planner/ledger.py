"""The run ledger: every change of a run's state, each in one transaction and only while its lease holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from psycopg import AsyncConnection, AsyncCursor, errors, sql
from psycopg.rows import class_row
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from projector import crash
from projector.config import Settings
from projector.errors import ChatError, LeaseLostError, NotMigratedError
from projector.planner.agent import agent_of
from projector.planner.backoff import Failures
from projector.planner.gates import Situation
from projector.planner.mission import DEFAULT_AGENT, MAX_AGENT_ID, mission_of
from projector.planner.steps import Step, StepKind, evidence_of_failure
from projector.planner.together import Together
from projector.sql import query
from projector.sql.connection import connect
from projector.sql.migrate import migrations

Connection = AsyncConnection[tuple[Any, ...]]
FAILURES = sql.SQL(query("planner/failures"))
"""The failures of the mission `wanted`, for the `{failures}` of a query."""
CHANGED_AT = sql.SQL(query("planner/changed_at"))
"""When others last changed the mission `m`, for the `{changed_at}` of a query."""
SITUATION = sql.SQL(query("planner/situation")).format(failures=FAILURES, changed_at=CHANGED_AT)
CLAIM = sql.SQL(query("planner/claim")).format(changed_at=CHANGED_AT)
MINE = sql.SQL(query("planner/mine"))
"""The runs named that the worker holds, for the `{mine}` of a query."""
LOCK_USERS = query("planner/lock_users")
"""Before whatever takes a place of an agent, waits for one or frees one; `users` names whose."""
_WOKEN = sql.SQL(query("planner/woken"))
WAKE_HELD = sql.SQL(query("planner/wake_held")).format(woken=_WOKEN)
_RENEW = sql.SQL(query("planner/renew")).format(mine=MINE)
_STORE_STEP = sql.SQL(query("planner/store_step")).format(mine=MINE)
_STORE_PLAN = sql.SQL(query("planner/store_plan")).format(mine=MINE, woken=_WOKEN)
_SETTLE = sql.SQL(query("planner/settle")).format(mine=MINE, woken=_WOKEN)

Cursor = AsyncCursor[tuple[Any, ...]]
Pool = AsyncConnectionPool[Connection]


@dataclass(frozen=True, slots=True)
class ClaimedRun:
    """A run that this worker holds the lease of. `attempts` counts this one; `brief` is set if it was asked before,
    `decision` is what was said of it last.
    """

    run_id: UUID
    user_id: str
    mission_id: str
    agent_id: str
    due_at: datetime
    attempts: int
    iteration_id: UUID
    started_at: datetime
    created_at: datetime
    brief: dict[str, Any] | None
    decision: str | None


async def check_ledger(settings: Settings) -> None:
    """Raises DatabaseUnavailableError or NotMigratedError when there is no ledger to work with."""
    newest = migrations()[-1]
    async with await connect(settings, "projector_planner") as conn:
        try:
            row = await (await conn.execute(query("planner/migrated_to"))).fetchone()
        except (errors.UndefinedTable, errors.InsufficientPrivilege):
            row = None  # older than the grant that this needs
    if row is None or (row[0] or 0) < newest.number:
        raise NotMigratedError(f"this database lacks migration {newest}, or has no run ledger at all")


@dataclass(frozen=True, slots=True)
class Known:
    """What views and ledger say of a claimed run; `steps` are those that were stored for it before."""

    situation: Situation
    failures: Failures
    steps: Sequence[Step]


@dataclass(frozen=True, slots=True)
class _Ended:
    """A run whose attempt ends, and what its row becomes."""

    run: ClaimedRun
    row: dict[str, Any]


class Ledger:
    """What one worker may do in the ledger. `owner` names it: unique among all that ever run.

    What many runs ask of it at the same moment becomes one statement.
    """

    def __init__(self, pool: Pool, owner: str, lease_s: float) -> None:
        self._pool = pool
        self.owner = owner
        self._lease_s = lease_s
        self._looks = Together(self._look_all)
        # What was paid for is stored also for a run whose worker stops meanwhile: the statement asks for the lease.
        self._steps = Together(self._store_steps, always=True)
        self._plans = Together(self._store_plans, always=True)
        self._ends = Together(self._settle_all)

    async def claim(self, limit: int, *, per_user: int, at_hand: Iterable[UUID] = ()) -> list[ClaimedRun]:
        """Leases up to `limit` runs, none of a user who has `per_user` at work already, and none that is `at_hand`."""
        async with self._pool.connection() as conn, conn.cursor(row_factory=class_row(ClaimedRun)) as cursor:
            await cursor.execute(
                CLAIM,
                {
                    "limit": limit,
                    "per_user": per_user,
                    "at_hand": list(at_hand),
                    "owner": self.owner,
                    "lease_s": self._lease_s,
                    "default_agent": DEFAULT_AGENT,
                    "longest_agent": MAX_AGENT_ID,
                },
            )
            return await cursor.fetchall()

    async def renew(self, run_ids: Iterable[UUID]) -> set[UUID]:
        """Prolongs the leases, and returns those that were still held."""
        async with self._pool.connection() as conn:
            cursor = await conn.execute(
                _RENEW,
                {"run_ids": list(run_ids), "owner": self.owner, "lease_s": self._lease_s},
            )
            return {run_id for (run_id,) in await cursor.fetchall()}

    async def hand_back(self) -> int:
        """Returns every run of this worker to the others, once what is under way for them is done."""
        for together in (self._looks, self._steps, self._plans, self._ends):
            await together.settled()
        async with self._pool.connection() as conn:
            return (await conn.execute(query("planner/hand_back"), {"owner": self.owner})).rowcount

    async def look(self, run: ClaimedRun) -> Known:
        """The run's mission and agent as the views show them now, and what there is of it in the ledger."""
        return await self._looks.ask(run)

    def steps(self, run: ClaimedRun, stored: Sequence[Step] = ()) -> LedgerSteps:
        """The step log of one run, of which `stored` are there."""
        return LedgerSteps(self._steps, run.run_id, stored)

    async def store_plan(self, run: ClaimedRun, plan: dict[str, Any], *, sweep_after_s: float) -> None:
        """Stores the plan, announces it and frees the agent's place.

        One with an `error` says that the run failed, and has a `reason` for the ledger.
        """
        decision = "failed" if "error" in plan else "planned"
        row = {"plan": plan, "decision": decision, "reason": plan.get("reason"), "sweep_after_s": sweep_after_s}
        crash.point("planner.before_plan_stored")
        await self._plans.ask(_Ended(run, row))

    async def settle(
        self,
        run: ClaimedRun,
        state: Literal["due", "held", "cancelled"],
        *,
        decision: str,
        reason: str,
        wait_s: float | None,
        counts: bool,
    ) -> None:
        """Ends the attempt without a plan and frees the agent's place, for who waits for it. A run that is held waits
        for a change of its mission or of `run.agent_id`.

        `counts` says whether the attempt is one of those that may be used up. `wait_s` None means that the run is
        never looked at again by itself.
        """
        row = {
            "state": state,
            "agent_id": run.agent_id,
            "decision": decision,
            "reason": reason,
            "wait_s": wait_s,
            "counts": counts,
        }
        crash.point("planner.before_settle")
        await self._ends.ask(_Ended(run, row))
        crash.point("planner.after_settle")

    async def _look_all(self, runs: Sequence[ClaimedRun]) -> list[Known]:
        async with self._pool.connection() as conn:
            cursor = await conn.execute(
                SITUATION,
                {
                    "run_ids": [run.run_id for run in runs],
                    "users": [run.user_id for run in runs],
                    "missions": [run.mission_id for run in runs],
                    "default_agent": DEFAULT_AGENT,
                },
            )
            return [
                Known(_situation(*row[:6]), failures_of(*row[6:9]), [_step(*step) for step in row[9] or ()])
                for row in await cursor.fetchall()
            ]

    async def _store_steps(self, asked: Sequence[tuple[UUID, dict[str, Any]]]) -> list[LeaseLostError | None]:
        ids = [run_id for run_id, _ in asked]
        steps = [{"run_id": str(run_id)} | step for run_id, step in asked]
        async with self._pool.connection() as conn:
            cursor = await conn.execute(_STORE_STEP, {"steps": Jsonb(steps), "run_ids": ids, "owner": self.owner})
            return leases_lost(ids, await cursor.fetchall())

    async def _store_plans(self, asked: Sequence[_Ended]) -> list[LeaseLostError | None]:
        return await self._end(_STORE_PLAN, "plans", asked)

    async def _settle_all(self, asked: Sequence[_Ended]) -> list[LeaseLostError | None]:
        return await self._end(_SETTLE, "ends", asked)

    async def _end(
        self, statement: sql.Composed, parameter: str, asked: Sequence[_Ended]
    ) -> list[LeaseLostError | None]:
        ids = [end.run.run_id for end in asked]
        rows = [{"run_id": str(end.run.run_id)} | end.row for end in asked]
        # All of it in one round trip and the commit: nobody waits for the lock while this program thinks.
        async with self._pool.connection() as conn, conn.pipeline(), conn.transaction():
            await conn.execute(LOCK_USERS, {"users": [end.run.user_id for end in asked]})
            cursor = await conn.execute(statement, {parameter: Jsonb(rows), "run_ids": ids, "owner": self.owner})
            return leases_lost(ids, await cursor.fetchall())


class LedgerSteps:
    """Keeps the steps of one run in `run_steps`."""

    def __init__(
        self,
        together: Together[tuple[UUID, dict[str, Any]], None],
        run_id: UUID,
        stored: Sequence[Step],
    ) -> None:
        self._together = together
        self._run_id = run_id
        self._stored = stored

    async def stored(self) -> Sequence[Step]:
        return self._stored

    async def store(self, step: Step) -> None:
        await self._spend(
            step.prompt_tokens,
            step.completion_tokens,
            seq=step.seq,
            kind=step.kind,
            request_digest=f"\\x{step.request_digest.hex()}",
            response=step.response,
            evidence=step.evidence,
        )

    async def store_failure(self, error: ChatError) -> None:
        """Keeps how a call ended that the run does not go on with, and counts what it cost. Raises LeaseLostError."""
        await self._spend(error.prompt_tokens, error.completion_tokens, failed=evidence_of_failure(error))

    async def _spend(self, prompt_tokens: int, completion_tokens: int, **step: Any) -> None:
        spent = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
        await self._together.ask((self._run_id, spent | step))


def expect_lease(rows: int, run_id: UUID) -> None:
    """Raises LeaseLostError when a statement that asks for the lease found no row."""
    if rows == 0:
        raise _lost(run_id)


def leases_lost(run_ids: Sequence[UUID], held: Iterable[tuple[Any, ...]]) -> list[LeaseLostError | None]:
    """An error for each run that a statement which asks for the lease gave no row for; a row begins with its run."""
    kept = {row[0] for row in held}
    return [None if run_id in kept else _lost(run_id) for run_id in run_ids]


def failures_of(in_row: int, latest_at: datetime | None, reason: str | None) -> Failures:
    """The columns of `FAILURES`."""
    return Failures(in_row, latest_at, reason or "")


def _step(
    seq: int, kind: StepKind, digest: str, response: dict[str, Any], prompt_tokens: int, completion_tokens: int
) -> Step:
    return Step(seq, kind, bytes.fromhex(digest), response, prompt_tokens, completion_tokens)


def _lost(run_id: UUID) -> LeaseLostError:
    return LeaseLostError(f"the lease of run {run_id} is no longer held here")


def _situation(
    record: Any, present: bool | None, next_run_at: datetime | None, agent: Any, shown: bool | None, changed_at: Any
) -> Situation:
    mission = mission_of(record) if present else None
    named = mission is not None and shown and len(mission.agent_id) <= MAX_AGENT_ID
    found = agent_of(mission.agent_id, agent) if mission is not None and named else None
    return Situation(mission, next_run_at, found, changed_at)
