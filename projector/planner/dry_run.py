"""Works out what a mission would plan now, and leaves nothing behind but what that cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import uuid4

from projector.errors import ChatError, EffectsStoppedError, NothingPlannedError
from projector.planner.brief import asked, brief_of
from projector.planner.catalogue import PLANNABLE
from projector.planner.effects import read_effects
from projector.planner.gates import Verdict, judge_mission
from projector.planner.guardrails import judge_input
from projector.planner.inputs.resolve import Inputs
from projector.planner.ledger import ClaimedRun, Pool
from projector.planner.plan import plan_of
from projector.planner.planning import Planning
from projector.planner.policy import allowed_tools
from projector.planner.steps import Step
from projector.planner.subagent import TASK
from projector.sql import query


async def plan_only(planning: Planning, pool: Pool, user_id: str, mission_id: str, *, day_cap: int) -> dict[str, Any]:
    """The plan, whether the mission is due or not. No run and no step is stored, no research is begun; the tokens count
    as spent by the mission's agent.

    It spends no more than the largest run may, and asks no more once effects are stopped. Raises EffectsStoppedError,
    NothingPlannedError with what stands against it, and ChatError. Without research: that would have to be written down
    before it is paid for.
    """
    if (stopped := await _stopped(pool, day_cap)) is not None:
        raise EffectsStoppedError(stopped.reason)
    now = datetime.now(UTC)
    run = ClaimedRun(uuid4(), user_id, mission_id, "", now, 1, uuid4(), now, now, None, None)
    situation = replace((await planning.ledger.look(run)).situation, next_run_at=now)
    verdict = judge_mission(situation, now, now)
    if verdict is not None:
        raise NothingPlannedError(verdict.reason)
    mission, agent = situation.mission, situation.agent
    assert mission is not None and agent is not None, "judge_mission speaks up otherwise"  # noqa: PT018
    inputs = await planning.gathering.gather(run, mission) if mission.inputs else Inputs()
    if not isinstance(inputs, Inputs):
        raise NothingPlannedError(inputs.reason)
    allowed = allowed_tools((*PLANNABLE, TASK), agent.policy)
    brief = brief_of(mission, agent, allowed, inputs, planning) | {"spentBefore": 0}
    if (finding := judge_input(brief["user"])) is not None:
        raise NothingPlannedError(finding.reason)
    spending = _Spending(pool, replace(run, agent_id=agent.id))

    async def may_ask(needed: int) -> Verdict | None:
        return await _stopped(pool, day_cap) or planning.budget.judge_size(spending.spent, needed)

    try:
        outcome = await asked(brief).lead(
            planning.model,
            allowed,
            spending,
            run_id=str(run.run_id),
            max_s=planning.max_s,
            judge=partial(planning.guard.judge, user_id, agent.policy),
            may_ask=may_ask,
        )
    except ChatError as error:
        await spending.count(error.prompt_tokens + error.completion_tokens)
        raise
    if outcome.stopped is not None and not outcome.calls:
        raise NothingPlannedError(outcome.stopped.reason)
    return plan_of(outcome, {"id": agent.id, "name": agent.name})


async def _stopped(pool: Pool, day_cap: int) -> Verdict | None:
    async with pool.connection() as conn:
        return (await read_effects(conn, day_cap)).verdict


class _Spending:
    """Steps that end with the process, and whose tokens count; `spent` is their sum."""

    def __init__(self, pool: Pool, run: ClaimedRun) -> None:
        self._pool = pool
        self._run = run
        self.spent = 0

    async def stored(self) -> Sequence[Step]:
        return ()

    async def store(self, step: Step) -> None:
        await self.count(step.prompt_tokens + step.completion_tokens)

    async def count(self, tokens: int) -> None:
        self.spent += tokens
        if not tokens:
            return
        async with self._pool.connection() as conn:
            await conn.execute(
                query("planner/count_tokens"),
                {
                    "user_id": self._run.user_id,
                    "agent_id": self._run.agent_id,
                    "mission_id": self._run.mission_id,
                    "run_id": self._run.run_id,
                    "tokens": tokens,
                },
            )
