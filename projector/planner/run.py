"""One claimed run, from its gates to its stored plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

from projector import crash, metrics
from projector.errors import ChatAnswerError, ChatError, ChatUnavailableError
from projector.llm.chat import ChatModel
from projector.logging import get
from projector.planner.agent import Agent
from projector.planner.backoff import held, retry_s
from projector.planner.budget import Budget
from projector.planner.catalogue import CATALOGUE_DIGEST, PLANNABLE
from projector.planner.gates import WAITING_FOR_OTHERS, Verdict, judge_mission
from projector.planner.guard import Guard
from projector.planner.ledger import ClaimedRun, Ledger
from projector.planner.loop import Outcome, converse
from projector.planner.mission import Mission
from projector.planner.pace import Pace
from projector.planner.policy import allowed_tools
from projector.planner.prompt import Prompt, prompt_of
from projector.planner.storable import storable
from projector.planner.tools import Tool

Result = Literal["planned", "held", "cancelled", "retried", "failed"]

RETRIED = "retried-by-hand"
"""Decision of a run that an operator has let be tried again."""
BRIEF_VERSION = 1
PLAN_VERSION = 1

log = get("planner")


@dataclass(frozen=True, slots=True)
class Told:
    """What a mission's owner reads of a failure. The ledger's reason may name what is the operator's alone."""

    name: str
    message: str


_UNAVAILABLE = Told("ModelUnavailable", "the model did not answer")
_REFUSED = Told("ModelRefused", "the model does not take this mission")
_FAULT = Told("InternalFault", "the planner has a fault")
_TOO_LARGE = Told("TooLarge", "one round with the model takes more than its agent may spend")
_VANISHED = Told("WorkersVanished", "its workers vanished, time and again")


@dataclass(frozen=True, slots=True)
class Planning:
    """What every run of a worker needs."""

    ledger: Ledger
    budget: Budget
    model: ChatModel
    alias: str
    max_rounds: int
    pace: Pace
    guard: Guard


async def carry_out(run: ClaimedRun, planning: Planning) -> Result:
    """Brings the run to a stored plan, or settles why there is none.

    Raises LeaseLostError when another worker has taken it over, and psycopg.Error when the database is away: the
    lease then runs out, and the run continues elsewhere.
    """
    crash.point("planner.after_claim")
    if run.attempts > planning.pace.max_attempts:
        return await _fail(run, planning, _VANISHED, _VANISHED.message)
    known = await planning.ledger.look(run)
    situation = known.situation
    verdict = judge_mission(situation, run.due_at)
    if verdict is not None:
        return await _turn_away(run, planning, verdict)
    rest = held(known.failures, datetime.now(UTC), planning.pace, changed_at=situation.changed_at)
    if rest is not None and run.decision != RETRIED:
        return await _turn_away(run, planning, Verdict("hold", "skipped-failing", rest.reason), wait_s=rest.wait_s)
    mission, agent = situation.mission, situation.agent
    assert mission is not None and agent is not None, "judge_mission speaks up otherwise"  # noqa: PT018
    tools = allowed_tools(PLANNABLE, agent.policy)
    steps = planning.ledger.steps(run, known.steps)
    brief = _brief(run.brief if known.steps else None, mission, agent, tools, planning)
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
            judge=partial(planning.guard.judge, run.user_id, agent.policy),
            may_ask=partial(planning.budget.may_ask, run, agent),
        )
    except ChatError as error:
        if isinstance(error, ChatAnswerError):
            await steps.charge(error.prompt_tokens, error.completion_tokens)
        if not error.transient:
            return await _fail(run, planning, _REFUSED, error.message)
        asked_s = error.retry_after_s if isinstance(error, ChatUnavailableError) else None
        return await _try_later(run, planning, _UNAVAILABLE, error.message, asked_s)
    if outcome.stopped is not None:
        if outcome.stopped.action == "fail" and not outcome.calls:
            return await _fail(run, planning, _TOO_LARGE, outcome.stopped.reason)
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
    return await _try_later(run, planning, _FAULT, f"internal fault: {type(error).__name__}")


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
    if prompt.marker is not None:
        metrics.INJECTION_MARKERS.labels(source="prompt", marker=prompt.marker).inc()
        log.warning("injection marker in what the prompt tells", agent=agent.id, marker=prompt.marker)
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
            "catalogue": CATALOGUE_DIGEST,
        }
    )
    return plan


async def _turn_away(run: ClaimedRun, planning: Planning, verdict: Verdict, *, wait_s: float | None = None) -> Result:
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
    if wait_s is None:
        wait_s = pace.hold_for_place_s if verdict.decision in WAITING_FOR_OTHERS else pace.hold_s
    await planning.ledger.settle(
        run, "held", decision=verdict.decision, reason=verdict.reason, wait_s=wait_s, counts=False
    )
    return "held"


async def _try_later(
    run: ClaimedRun, planning: Planning, told: Told, reason: str, asked_s: float | None = None
) -> Result:
    wait_s = retry_s(run.attempts, planning.pace, asked_s=asked_s)
    if wait_s is None:
        return await _fail(run, planning, told, reason)
    await planning.ledger.settle(run, "due", decision="retry", reason=storable(reason), wait_s=wait_s, counts=True)
    log.warning("attempt failed", run=str(run.run_id), attempt=run.attempts, wait_s=wait_s, reason=reason)
    return "retried"


async def _fail(run: ClaimedRun, planning: Planning, told: Told, reason: str) -> Result:
    """Ends the run as one that failed: its mission hears of it, and moves on to a later time."""
    plan = {
        "version": PLAN_VERSION,
        "summary": f"Planner failed: {told.message}",
        "steps": [],
        "error": {"name": told.name, "message": told.message},
        "reason": storable(reason),
    }
    await planning.ledger.store_plan(run, plan, sweep_after_s=planning.pace.sweep_after_s)
    log.error("run failed", run=str(run.run_id), attempts=run.attempts, reason=reason)
    return "failed"
