"""Works out what a mission would plan now, and leaves nothing behind but what the model costs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import uuid4

from projector.errors import EffectsStoppedError, NothingPlannedError
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


async def plan_only(planning: Planning, pool: Pool, user_id: str, mission_id: str, *, day_cap: int) -> dict[str, Any]:
    """The plan, whether the mission is due or not. No run, no step, no usage is stored, no research is begun.

    It spends no more than the largest run may, and asks no more once effects are stopped. Raises EffectsStoppedError,
    NothingPlannedError with what stands against it, and ChatError. Without research: that would have to be written down
    before it is paid for.
    """
    if (stopped := await _stopped(pool, day_cap)) is not None:
        raise EffectsStoppedError(stopped.reason)
    now = datetime.now(UTC)
    run = ClaimedRun(uuid4(), user_id, mission_id, "", now, 1, uuid4(), now, now, None, None)
    situation = (await planning.ledger.look(run)).situation
    verdict = judge_mission(situation, situation.next_run_at or now, now)
    if verdict is not None and verdict.decision != "mission-rescheduled":
        raise NothingPlannedError(verdict.reason)
    mission, agent = situation.mission, situation.agent
    assert mission is not None, "judge_mission speaks up otherwise"
    if agent is None:
        raise NothingPlannedError("the mission's agent is unknown or deleted")
    inputs = await planning.gathering.gather(run, mission) if mission.inputs else Inputs()
    if not isinstance(inputs, Inputs):
        raise NothingPlannedError(inputs.reason)
    allowed = allowed_tools((*PLANNABLE, TASK), agent.policy)
    brief = brief_of(mission, agent, allowed, inputs, planning) | {"spentBefore": 0}
    if (finding := judge_input(brief["user"])) is not None:
        raise NothingPlannedError(finding.reason)
    nowhere = _Nowhere()

    async def may_ask(needed: int) -> Verdict | None:
        return await _stopped(pool, day_cap) or planning.budget.judge_size(nowhere.spent, needed)

    outcome = await asked(brief).lead(
        planning.model,
        allowed,
        nowhere,
        run_id=str(run.run_id),
        max_s=planning.max_s,
        judge=partial(planning.guard.judge, user_id, agent.policy),
        may_ask=may_ask,
    )
    if outcome.stopped is not None and not outcome.calls:
        raise NothingPlannedError(outcome.stopped.reason)
    return plan_of(outcome, {"id": agent.id, "name": agent.name})


async def _stopped(pool: Pool, day_cap: int) -> Verdict | None:
    async with pool.connection() as conn:
        return (await read_effects(conn, day_cap)).verdict


class _Nowhere:
    """Steps that end with the process; `spent` counts their tokens."""

    def __init__(self) -> None:
        self.spent = 0

    async def stored(self) -> Sequence[Step]:
        return ()

    async def store(self, step: Step) -> None:
        self.spent += step.prompt_tokens + step.completion_tokens
