"""The run ledger: every change of a run's state, each in one transaction and only while its lease holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from projector import crash
from projector.config import Settings
from projector.errors import LeaseLostError, NotMigratedError
from projector.planner.agent import agent_of
from projector.planner.backoff import Failures
from projector.planner.gates import WAITING_FOR_OTHERS, Situation
from projector.planner.mission import DEFAULT_AGENT, mission_of
from projector.planner.steps import Step
from projector.sql import query
from projector.sql.connection import connect

Connection = AsyncConnection[tuple[Any, ...]]
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
    conn = await connect(settings, "projector_planner")
    async with conn:
        # What the newest migration made.
        newest = "select exists (select from pg_constraint where conname = 'only_answers_cost')"
        row = await (await conn.execute(newest)).fetchone()
    if row != (True,):
        raise NotMigratedError("this database has no run ledger, or an older one")


async def failures_of(conn: Connection, user_id: str, mission_id: str) -> Failures:
    """How often the mission's runs failed since one last went well.

    `conn` is one of projector_planner, or of projector_sink in a transaction of this user.
    """
    cursor = await conn.execute(query("planner/failures"), {"user_id": user_id, "mission_id": mission_id})
    row = await cursor.fetchone()
    assert row is not None, "an aggregate always gives one row"
    return Failures(row[0], row[1], row[2] or "")


class Ledger:
    """What one worker may do in the ledger. `owner` names it: unique among all that ever run."""

    def __init__(self, pool: Pool, owner: str, lease_s: float) -> None:
        self._pool = pool
        self.owner = owner
        self._lease_s = lease_s

    async def claim(self, limit: int, *, per_user: int, at_hand: Iterable[UUID] = ()) -> list[ClaimedRun]:
        """Leases up to `limit` runs, none of a user who has `per_user` at work already, and none that is `at_hand`."""
        async with self._pool.connection() as conn, conn.cursor(row_factory=class_row(ClaimedRun)) as cursor:
            await cursor.execute(
                query("planner/claim"),
                {
                    "limit": limit,
                    "per_user": per_user,
                    "at_hand": list(at_hand),
                    "owner": self.owner,
                    "lease_s": self._lease_s,
                },
            )
            return await cursor.fetchall()

    async def renew(self, run_ids: Iterable[UUID]) -> set[UUID]:
        """Prolongs the leases, and returns those that were still held."""
        async with self._pool.connection() as conn:
            cursor = await conn.execute(
                query("planner/renew"),
                {"run_ids": list(run_ids), "owner": self.owner, "lease_s": self._lease_s},
            )
            return {run_id for (run_id,) in await cursor.fetchall()}

    async def hand_back(self) -> int:
        """Returns every run of this worker to the others."""
        async with self._pool.connection() as conn:
            return (await conn.execute(query("planner/hand_back"), {"owner": self.owner})).rowcount

    async def situation(self, run: ClaimedRun) -> Situation:
        """The run's mission and agent as the views show them now."""
        async with self._pool.connection() as conn:
            cursor = await conn.execute(
                query("planner/situation"),
                {"user_id": run.user_id, "mission_id": run.mission_id, "default_agent": DEFAULT_AGENT},
            )
            row = await cursor.fetchone()
        assert row is not None, "the query always gives one row"
        record, present, next_run_at, agent_record, agent_present, changed_at = row
        mission = mission_of(record) if present else None
        agent = agent_of(mission.agent_id, agent_record) if mission is not None and agent_present else None
        return Situation(mission, next_run_at, agent, changed_at)

    async def failures(self, run: ClaimedRun) -> Failures:
        """Those of the run's mission."""
        async with self._pool.connection() as conn:
            return await failures_of(conn, run.user_id, run.mission_id)

    def steps(self, run: ClaimedRun) -> LedgerSteps:
        """The step log of one run."""
        return LedgerSteps(self._pool, self.owner, run.run_id)

    async def store_plan(self, run: ClaimedRun, plan: dict[str, Any], *, sweep_after_s: float) -> None:
        """Stores the plan, announces it and frees the agent's place.

        One with an `error` says that the run failed, and has a `reason` for the ledger.
        """
        async with self._pool.connection() as conn, conn.transaction():
            cursor = await conn.execute(
                query("planner/store_plan"),
                {
                    "run_id": run.run_id,
                    "owner": self.owner,
                    "plan": Jsonb(plan),
                    "decision": "failed" if "error" in plan else "planned",
                    "reason": plan.get("reason"),
                    "sweep_after_s": sweep_after_s,
                },
            )
            expect_lease(cursor.rowcount, run.run_id)
            await self._wake_held(conn, run)
            crash.point("planner.before_plan_commit")

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
        """Ends the attempt without a plan; `counts` says whether it is one of those that may be used up.

        `wait_s` None means that the run is never looked at again by itself.
        """
        async with self._pool.connection() as conn, conn.transaction():
            cursor = await conn.execute(
                query("planner/settle"),
                {
                    "run_id": run.run_id,
                    "owner": self.owner,
                    "state": state,
                    "decision": decision,
                    "reason": reason,
                    "wait_s": wait_s,
                    "counts": counts,
                },
            )
            expect_lease(cursor.rowcount, run.run_id)
            if decision not in WAITING_FOR_OTHERS:
                await self._wake_held(conn, run)
            crash.point("planner.before_settle_commit")
        crash.point("planner.after_settle")

    @staticmethod
    async def _wake_held(conn: Connection, run: ClaimedRun) -> None:
        await conn.execute(query("planner/wake_held"), {"user_id": run.user_id, "agent_id": run.agent_id})


class LedgerSteps:
    """Keeps the steps of one run in `run_steps`."""

    def __init__(self, pool: Pool, owner: str, run_id: UUID) -> None:
        self._pool = pool
        self._owner = owner
        self._run_id = run_id

    async def stored(self) -> Sequence[Step]:
        async with self._pool.connection() as conn:
            cursor = await conn.execute(query("planner/steps"), {"run_id": self._run_id})
            return [Step(*row) for row in await cursor.fetchall()]

    async def store(self, step: Step) -> None:
        async with self._pool.connection() as conn:
            cursor = await conn.execute(
                query("planner/store_step"),
                {
                    "run_id": self._run_id,
                    "owner": self._owner,
                    "seq": step.seq,
                    "kind": step.kind,
                    "request_digest": step.request_digest,
                    "response": Jsonb(step.response),
                    "prompt_tokens": step.prompt_tokens,
                    "completion_tokens": step.completion_tokens,
                },
            )
            expect_lease(cursor.rowcount, self._run_id)


def expect_lease(rows: int, run_id: UUID) -> None:
    """Raises LeaseLostError when a statement that asks for the lease found no row."""
    if rows == 0:
        raise LeaseLostError(f"the lease of run {run_id} is no longer held here")
