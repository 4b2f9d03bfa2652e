"""Deep research jobs in the ledger: one for each mission, changed only by who holds the lease of its run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from projector.planner.ledger import ClaimedRun, Pool, expect_lease
from projector.planner.storable import storable
from projector.sql import query

State = Literal["intended", "submitted", "completed", "failed"]


@dataclass(frozen=True, slots=True)
class Job:
    """`run_id`: who intended it, and the key under which it is submitted. `age_s` since then.

    `polls` and `failures` count requests: all of them, and those without a usable answer since the last that had one.
    """

    run_id: UUID
    provider_id: str
    query: str
    state: State
    task_id: str | None
    polls: int
    failures: int
    answer: dict[str, Any] | None
    reason: str | None
    age_s: float


class Jobs:
    """What the worker `owner` may do with them. Every change raises LeaseLostError when the run is no longer held."""

    def __init__(self, pool: Pool, owner: str) -> None:
        self._pool = pool
        self._owner = owner

    async def find(self, run: ClaimedRun) -> Job | None:
        """That of the run's mission, be it of an earlier run."""
        async with self._pool.connection() as conn, conn.cursor(row_factory=class_row(Job)) as cursor:
            await cursor.execute(query("planner/research_job"), {"user_id": run.user_id, "mission_id": run.mission_id})
            return await cursor.fetchone()

    async def intend(self, run: ClaimedRun, provider: str, asked: str) -> Job:
        """A job that is about to be submitted, in place of any that the mission had."""
        async with self._pool.connection() as conn:
            cursor = await conn.execute(
                query("planner/intend_research"),
                {"run_id": run.run_id, "owner": self._owner, "provider": provider, "query": asked},
            )
            expect_lease(cursor.rowcount, run.run_id)
        return Job(run.run_id, provider, asked, "intended", None, 0, 0, None, None, 0.0)

    async def note(
        self,
        run: ClaimedRun,
        state: State,
        *,
        answered: bool = True,
        task_id: str | None = None,
        answer: dict[str, Any] | None = None,
        reason: str | None = None,
    ) -> None:
        """What a request led to; `answered` false: it had no usable answer."""
        async with self._pool.connection() as conn:
            cursor = await conn.execute(
                query("planner/note_research"),
                {
                    "run_id": run.run_id,
                    "owner": self._owner,
                    "state": state,
                    "answered": answered,
                    "task_id": storable(task_id),
                    "answer": None if answer is None else Jsonb(storable(answer)),
                    "reason": reason,
                },
            )
            expect_lease(cursor.rowcount, run.run_id)
