"""One claimed run, from its gates to its stored plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal
from zoneinfo import ZoneInfo

from projector import crash, metrics
from projector.errors import ChatAnswerError, ChatError, ChatUnavailableError
from projector.llm.chat import ChatModel
from projector.logging import get
from projector.planner.agent import Agent
from projector.planner.budget import Budget
from projector.planner.cadence import InvalidCadence, next_run
from projector.planner.catalogue import CATALOGUE
from projector.planner.gates import WAITING_FOR_OTHERS, Verdict, judge_mission
from projector.planner.ledger import ClaimedRun, Ledger
from projector.planner.loop import Outcome, converse
from projector.planner.mission import Mission
from projector.planner.pace import Pace
from projector.planner.policy import allowed_tools
from projector.planner.prompt import Prompt, prompt_of
from projector.planner.storable import storable
from projector.planner.tools import Tool

Result = Literal["planned", "held", "cancelled", "retried", "failed"]

BRIEF_VERSION = 1
PLAN_VERSION = 1

log = get("planner")


@dataclass(frozen=True, slots=True)
class Planning:
    """What every run of a worker needs."""

    ledger: Ledger
    budget: Budget
    model: ChatModel
    alias: str
    max_rounds: int
    zone: ZoneInfo
    pace: Pace


async def carry_out(run: ClaimedRun, planning: Planning) -> Result:
    """Brings the run to a stored plan, or settles why there is none.

    Raises LeaseLostError when another worker has taken it over, and psycopg.Error when the database is away: the
    lease then runs out, and the run continues elsewhere.
    """
    crash.point("planner.after_claim")
    if run.attempts > planning.pace.max_attempts:
        return await _fail(run, planning, None, "its workers vanished, time and again")
    situation = await planning.ledger.situation(run)
    verdict = judge_mission(situation, run.due_at)
    if verdict is not None:
        return await _turn_away(run, planning, verdict)
    mission, agent = situation.mission, situation.agent
    assert mission is not None and agent is not None, "judge_mission speaks up otherwise"  # noqa: PT018
    tools = allowed_tools(CATALOGUE, agent.policy)
    steps = planning.ledger.steps(run)
    asked_before = run.brief if await steps.stored() else None
    brief = _brief(asked_before, mission, agent, tools, planning)
    verdict = await planning.budget.admit(run, agent, brief)
    if verdict.action != "admit":
        return await _turn_away(run, planning, verdict)
    try:
        outcome = await converse(
            planning.model,
            brief["model"],
            Prompt(brief["system"], brief["user"]),
            tools,
            steps,
            run_id=str(run.run_id),
            max_rounds=brief["maxRounds"],
            may_ask=partial(planning.budget.may_ask, run, agent),
        )
    except ChatError as error:
        if isinstance(error, ChatAnswerError):
            await planning.budget.charge(run, error.prompt_tokens, error.completion_tokens)
        return await _try_later(run, planning, mission, error)
    if outcome.stopped is not None:
        if outcome.stopped.decision != "stopped-budget" or not outcome.calls:
            # What was answered so far is stored: the run goes on from there.
            return await _turn_away(run, planning, outcome.stopped)
        metrics.AGENT_DECISIONS.labels(decision=outcome.stopped.decision).inc()
        outcome.summary = f"Cut short: {outcome.stopped.reason}"
    await planning.ledger.store_plan(run, _plan(outcome, agent), sweep_after_s=planning.pace.sweep_after_s)
    crash.point("planner.after_plan_stored")
    metrics.PLANNER_ROUNDS.observe(outcome.rounds)
    log.info("planned", run=str(run.run_id), steps=len(outcome.calls), stop=outcome.stop_reason)
    return "planned"


async def give_up_attempt(run: ClaimedRun, planning: Planning, error: Exception) -> Result:
    """Settles an attempt that ended in a fault of ours: tried again like any other, and counted."""
    reason = f"internal fault: {type(error).__name__}"
    if run.attempts >= planning.pace.max_attempts:
        return await _fail(run, planning, None, reason)
    return await _retry(run, planning, reason, None)


def _brief(
    before: dict[str, Any] | None, mission: Mission, agent: Agent, tools: Sequence[Tool], planning: Planning
) -> dict[str, Any]:
    """What is asked. A run that paid for answers asks the same again, unless it may no longer."""
    names = [tool.name for tool in tools]
    if (
        before is not None
        and before["version"] == BRIEF_VERSION
        and before["agentId"] == agent.id
        and before["tools"] == names
    ):
        return before
    prompt = prompt_of(mission, agent, rounds=planning.max_rounds)
    return {
        "version": BRIEF_VERSION,
        "agentId": agent.id,
        "model": planning.alias,
        "maxRounds": planning.max_rounds,
        "tools": names,
        "system": prompt.system,
        "user": prompt.user,
    }


def _plan(outcome: Outcome, agent: Agent) -> dict[str, Any]:
    plan: dict[str, Any] = storable(
        {
            "version": PLAN_VERSION,
            "summary": outcome.summary,
            "steps": [
                {"summary": tool, "toolName": tool, "params": arguments, "rationale": ""}
                for tool, arguments in outcome.calls
            ],
            "stopReason": outcome.stop_reason,
            "rounds": outcome.rounds,
            "rejectedCalls": outcome.rejected,
            "agent": {"id": agent.id, "name": agent.name},
        }
    )
    return plan


async def _turn_away(run: ClaimedRun, planning: Planning, verdict: Verdict) -> Result:
    pace = planning.pace
    metrics.AGENT_DECISIONS.labels(decision=verdict.decision).inc()
    log.info("turned away", run=str(run.run_id), decision=verdict.decision)
    if verdict.action == "cancel":
        await planning.ledger.settle(
            run,
            "cancelled",
            decision=verdict.decision,
            reason=verdict.reason,
            wait_s=pace.cancelled_rest_s,
            counts=False,
        )
        return "cancelled"
    await planning.ledger.settle(
        run,
        "held",
        decision=verdict.decision,
        reason=verdict.reason,
        wait_s=pace.hold_for_place_s if verdict.decision in WAITING_FOR_OTHERS else pace.hold_s,
        counts=False,
    )
    return "held"


async def _try_later(run: ClaimedRun, planning: Planning, mission: Mission, error: ChatError) -> Result:
    if not error.transient or run.attempts >= planning.pace.max_attempts:
        return await _fail(run, planning, mission, error.message)
    asked_s = error.retry_after_s if isinstance(error, ChatUnavailableError) else None
    return await _retry(run, planning, error.message, asked_s)


async def _retry(run: ClaimedRun, planning: Planning, reason: str, asked_s: float | None) -> Result:
    wait_s = planning.pace.retry_s(run.attempts, asked_s=asked_s)
    await planning.ledger.settle(run, "due", decision="retry", reason=storable(reason), wait_s=wait_s, counts=True)
    log.warning("attempt failed", run=str(run.run_id), attempt=run.attempts, wait_s=wait_s, reason=reason)
    return "retried"


async def _fail(run: ClaimedRun, planning: Planning, mission: Mission | None, reason: str) -> Result:
    """The mission stays due, so it is tried again at its next regular time, as a fresh run."""
    rest_s = planning.pace.shortest_rest_s
    if mission is not None:
        rest_s = max(rest_s, _until_next_s(mission, run.due_at, planning.zone))
    await planning.ledger.settle(run, "failed", decision="failed", reason=storable(reason), wait_s=rest_s, counts=True)
    log.error("run failed", run=str(run.run_id), attempts=run.attempts, reason=reason)
    return "failed"


def _until_next_s(mission: Mission, due_at: datetime, zone: ZoneInfo) -> float:
    now = datetime.now(UTC)
    try:
        following = next_run(mission.cadence, now, zone, slot=due_at)
    except InvalidCadence:
        following = None
    return ((following or now + timedelta(days=1)) - now).total_seconds()
