"""What a run may spend: reserved when it is admitted, asked for before each round, and freed with its lease.

The tokens of every stored answer pass from the run's reservation to what its agent spent, in one statement, so that
no moment shows them in neither, and rounds of runs that fail later count like any other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from psycopg import sql
from psycopg.types.json import Jsonb

from projector import crash
from projector.errors import LeaseLostError
from projector.planner.agent import Agent
from projector.planner.effects import EFFECTS, effects_of
from projector.planner.gates import WAITING_FOR_OTHERS, Load, Verdict, judge_load, judge_round, passed, tokens_left
from projector.planner.ledger import LOCK_USERS, MINE, ClaimedRun, Connection, Pool, leases_lost
from projector.planner.together import Together
from projector.sql import query

_ADMIT = sql.SQL(query("planner/admit")).format(mine=MINE)
_HOLD = sql.SQL(query("planner/hold")).format(mine=MINE)
_AGENT_LOAD = sql.SQL(query("planner/agent_load")).format(effects=EFFECTS)


@dataclass(frozen=True, slots=True)
class _Admission:
    run: ClaimedRun
    agent: Agent
    brief: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class _Round:
    run: ClaimedRun
    agent: Agent
    needed: int


class Budget:
    """Asked by the worker `owner`. `run`: tokens of the largest run; `day`: of the installation in a day, 0: any.

    `hold_s`: when a run that waits for others of its agent is looked at again, if nothing wakes it.
    """

    def __init__(self, pool: Pool, owner: str, *, run: int, day: int, hold_s: float) -> None:
        self._pool = pool
        self._owner = owner
        self._run = run
        self._day = day
        self._hold_s = hold_s
        self._admissions = Together(self._admit_all)
        self._rounds = Together(self._judge_rounds)

    async def admit(self, run: ClaimedRun, agent: Agent, brief: dict[str, Any] | None) -> Verdict:
        """Asks the gates that depend on what the agent has in hand, for one worker at a time per user.

        When they agree, the run counts against the agent's limits from here on, with what it may spend at most, and
        `brief` is what will be asked; it gets what the gates found, and what the agent had spent, unless it says so
        already. None while that has to be gathered yet: then it is asked for once more.

        When they say that it has to wait for others of its agent, the run is held by now: it misses no end of theirs.
        Raises LeaseLostError.
        """
        return await self._admissions.ask(_Admission(run, agent, brief))

    async def may_ask(self, run: ClaimedRun, agent: Agent, needed: int) -> Verdict | None:
        """What stands against a call of the model that costs at least `needed` tokens. Raises LeaseLostError."""
        return await self._rounds.ask(_Round(run, agent, needed))

    def judge_size(self, spent: int, needed: int) -> Verdict | None:
        """What stands against such a call in a run that spent so much, whatever its agent has in hand."""
        if spent + needed <= self._run:
            return None
        reason = f"it spent {spent} tokens and needs {needed} more, and a run may spend {self._run}"
        return Verdict("hold", "stopped-budget", reason)

    async def settled(self) -> None:
        """Waits until nothing is under way."""
        await self._admissions.settled()
        await self._rounds.settled()

    async def _admit_all(self, asked: Sequence[_Admission]) -> list[Verdict | LeaseLostError]:
        async with self._pool.connection() as conn, conn.transaction():
            await conn.execute(LOCK_USERS, {"users": [one.run.user_id for one in asked]})
            stopped, loads = await self._loads(conn, asked)
            if stopped is not None:
                return [stopped] * len(asked)
            verdicts, admitted = self._judge(asked, loads)
            waiting = [pair for pair in zip(asked, verdicts, strict=True) if pair[1].decision in WAITING_FOR_OTHERS]
            if admitted and waiting:
                # Each of the two locks its runs in order; both together would not.
                changed = [one.run.run_id for one, _ in (*admitted, *waiting)]
                await conn.execute(MINE, {"run_ids": changed, "owner": self._owner})
            lost = await self._admit(conn, admitted) | await self._hold(conn, waiting)
            crash.point("planner.before_admit_commit")
        return [lost.get(admission.run.run_id) or verdict for admission, verdict in zip(asked, verdicts, strict=True)]

    def _judge(
        self, asked: Sequence[_Admission], loads: Iterable[tuple[int | None, Load]]
    ) -> tuple[list[Verdict], list[tuple[_Admission, int]]]:
        """A verdict for each, and the admitted ones with what they reserve. Each counts for those after it."""
        verdicts = []
        admitted: list[tuple[_Admission, int]] = []
        # What each adds to its agent's load: one that was admitted before, to gather, is in that already.
        added: defaultdict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        for one, (held, load) in zip(asked, loads, strict=True):
            mine = added[one.run.user_id, one.agent.id]
            load = replace(
                load,
                running=load.running + sum(runs for runs, _ in mine),
                reserved=load.reserved + sum(tokens for _, tokens in mine),
            )
            verdict = judge_load(one.agent, load)
            if verdict.action == "admit":
                if one.brief is not None:
                    one.brief.setdefault("spentBefore", load.tokens)
                    one.brief["gates"] = passed(one.agent, load)
                left = tokens_left(one.agent, load)
                reserved = self._run if left is None else min(self._run, left)
                admitted.append((one, reserved))
                mine.append((held is None, reserved - (held or 0)))
            verdicts.append(verdict)
        return verdicts, admitted

    async def _admit(
        self, conn: Connection, admitted: Sequence[tuple[_Admission, int]]
    ) -> dict[UUID, LeaseLostError | None]:
        rows = [
            {"run_id": str(one.run.run_id), "agent_id": one.agent.id, "reserved": reserved, "brief": one.brief}
            for one, reserved in admitted
        ]
        return await self._change(conn, _ADMIT, "runs", rows)

    async def _hold(
        self, conn: Connection, waiting: Sequence[tuple[_Admission, Verdict]]
    ) -> dict[UUID, LeaseLostError | None]:
        rows = [
            {
                "run_id": str(one.run.run_id),
                "agent_id": one.agent.id,
                "decision": verdict.decision,
                "reason": verdict.reason,
                "wait_s": self._hold_s,
            }
            for one, verdict in waiting
        ]
        return await self._change(conn, _HOLD, "waiting", rows)

    async def _change(
        self, conn: Connection, statement: sql.Composed, parameter: str, rows: Sequence[dict[str, Any]]
    ) -> dict[UUID, LeaseLostError | None]:
        """Gives `rows`, one for each run, to the statement; which runs are no longer this worker's."""
        if not rows:
            return {}
        ids = [UUID(row["run_id"]) for row in rows]
        cursor = await conn.execute(statement, {parameter: Jsonb(rows), "run_ids": ids, "owner": self._owner})
        return dict(zip(ids, leases_lost(ids, await cursor.fetchall()), strict=True))

    async def _judge_rounds(self, asked: Sequence[_Round]) -> list[Verdict | LeaseLostError | None]:
        async with self._pool.connection() as conn:
            stopped, loads = await self._loads(conn, asked)
        if stopped is not None:
            return [stopped] * len(asked)
        ids = [one.run.run_id for one in asked]
        lost = leases_lost(ids, [(i,) for i, (reserved, _) in zip(ids, loads, strict=True) if reserved is not None])
        return [
            error or judge_round(one.agent, load, reserved or 0, one.needed, most=self._run)
            for one, (reserved, load), error in zip(asked, loads, lost, strict=True)
        ]

    async def _loads(
        self, conn: Connection, asked: Sequence[_Admission | _Round]
    ) -> tuple[Verdict | None, list[tuple[int | None, Load]]]:
        """What stands against all of them; and for each what it has left of its reservation, None unless it is admitted
        here, with what its agent has in hand.
        """
        cursor = await conn.execute(
            _AGENT_LOAD,
            {
                "run_ids": [one.run.run_id for one in asked],
                "users": [one.run.user_id for one in asked],
                "agents": [one.agent.id for one in asked],
                "owner": self._owner,
            },
        )
        rows = await cursor.fetchall()
        stopped = effects_of(*rows[0][4:], cap=self._day).verdict
        return stopped, [(reserved, Load(*load)) for reserved, *load in (row[:4] for row in rows)]
