"""Deep research jobs in the ledger: one for each mission, changed only by who holds the lease of its run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from projector.planner.ledger import ClaimedRun, Connection, Pool, expect_lease
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

    async def intend(self, run: ClaimedRun, provider: str, asked: str, *, most_a_day: int = 0) -> Job | None:
        """A job that is about to be submitted, in place of any that the mission had.

        None when `most_a_day` of them (0: any number) were begun since midnight UTC, whosever they are.
        """
        async with self._pool.connection() as conn, conn.transaction():
            if most_a_day and await _begun_today(conn) >= most_a_day:
                return None
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
        price: float | None = None,
        answer: dict[str, Any] | None = None,
        reason: str | None = None,
    ) -> None:
        """What a request led to; `answered` false: it had no usable answer. `price` in credits, if known."""
        async with self._pool.connection() as conn:
            cursor = await conn.execute(
                query("planner/note_research"),
                {
                    "run_id": run.run_id,
                    "owner": self._owner,
                    "state": state,
                    "answered": answered,
                    "task_id": storable(task_id),
                    "credits": price,
                    "answer": None if answer is None else Jsonb(storable(answer)),
                    "reason": reason,
                },
            )
            expect_lease(cursor.rowcount, run.run_id)


async def _begun_today(conn: Connection) -> int:
    await conn.execute(query("planner/lock_research"))
    # A statement of its own: what others began while this one waited for the lock counts too.
    row = await (await conn.execute(query("planner/research_today"))).fetchone()
    assert row is not None, "a query without groups gives one row"
    return int(row[0])
