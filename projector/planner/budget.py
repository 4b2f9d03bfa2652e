"""What a run may spend: reserved when it is admitted, asked for before each round, and freed with its lease.

The tokens of every stored answer pass from the run's reservation to what its agent spent, in one statement, so that
no moment shows them in neither, and rounds of runs that fail later count like any other.
"""

from __future__ import annotations

from typing import Any

from psycopg.types.json import Jsonb

from projector import crash
from projector.planner.agent import Agent
from projector.planner.effects import read_effects
from projector.planner.gates import Load, Verdict, judge_load, judge_round, tokens_left
from projector.planner.ledger import ClaimedRun, Connection, Pool, expect_lease
from projector.sql import query


class Budget:
    """Asked by the worker `owner`. `run`: tokens of the largest run; `day`: of the installation in a day, 0: any."""

    def __init__(self, pool: Pool, owner: str, *, run: int, day: int) -> None:
        self._pool = pool
        self._owner = owner
        self._run = run
        self._day = day

    async def admit(self, run: ClaimedRun, agent: Agent, brief: dict[str, Any] | None) -> Verdict:
        """Asks the gates that depend on what the agent has in hand, one run of the agent at a time.

        When they agree, the run counts against the agent's limits from here on, with what it may spend at most, and
        `brief` is what will be asked; it gets what the agent had spent, unless it says so already. None while that has
        to be gathered yet: then it is asked for once more. Raises LeaseLostError.
        """
        async with self._pool.connection() as conn:
            stopped = (await read_effects(conn, self._day)).verdict
            if stopped is not None:
                return stopped
            async with conn.transaction():
                await conn.execute(query("planner/lock_agent"), {"user_id": run.user_id, "agent_id": agent.id})
                load = await _load(conn, run, agent)
                verdict = judge_load(agent, load)
                if verdict.action == "admit":
                    left = tokens_left(agent, load)
                    if brief is not None:
                        brief.setdefault("spentBefore", load.tokens)
                    cursor = await conn.execute(
                        query("planner/admit"),
                        {
                            "run_id": run.run_id,
                            "owner": self._owner,
                            "agent_id": agent.id,
                            "reserved": self._run if left is None else min(self._run, left),
                            "brief": None if brief is None else Jsonb(brief),
                        },
                    )
                    expect_lease(cursor.rowcount, run.run_id)
                    crash.point("planner.before_admit_commit")
                return verdict

    async def may_ask(self, run: ClaimedRun, agent: Agent, needed: int) -> Verdict | None:
        """What stands against a call of the model that costs at least `needed` tokens. Raises LeaseLostError."""
        async with self._pool.connection() as conn:
            stopped = (await read_effects(conn, self._day)).verdict
            if stopped is not None:
                return stopped
            cursor = await conn.execute(query("planner/reserved"), {"run_id": run.run_id, "owner": self._owner})
            row = await cursor.fetchone()
            expect_lease(cursor.rowcount, run.run_id)
            assert row is not None, "there is a lease"
            return judge_round(agent, await _load(conn, run, agent), row[0], needed, most=self._run)

    async def charge(self, run: ClaimedRun, prompt_tokens: int, completion_tokens: int) -> None:
        """Counts an answer that was paid for and is of no use. Raises LeaseLostError."""
        async with self._pool.connection() as conn:
            cursor = await conn.execute(
                query("planner/charge"),
                {
                    "run_id": run.run_id,
                    "owner": self._owner,
                    "prompt_tokens": prompt_tokens,
                    "completion_tokens": completion_tokens,
                },
            )
            expect_lease(cursor.rowcount, run.run_id)


async def _load(conn: Connection, run: ClaimedRun, agent: Agent) -> Load:
    cursor = await conn.execute(
        query("planner/agent_load"), {"user_id": run.user_id, "agent_id": agent.id, "run_id": run.run_id}
    )
    row = await cursor.fetchone()
    assert row is not None, "an aggregate always gives one row"
    return Load(*row)
