"""One claimed run, from its gates to its stored plan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

from projector import crash, metrics
from projector.errors import ChatError, ChatUnavailableError
from projector.logging import get
from projector.planner import versions
from projector.planner.agent import Agent
from projector.planner.backoff import held, retry_s
from projector.planner.brief import asked, brief_of, may_go_on
from projector.planner.catalogue import PLANNABLE
from projector.planner.gates import LOOKED_AT_SOON, WAITING_FOR_OTHERS, Verdict, judge_mission
from projector.planner.gathering import gathered_before
from projector.planner.guardrails import judge_input
from projector.planner.inputs.resolve import Inputs
from projector.planner.ledger import ClaimedRun
from projector.planner.mission import MAX_AGENT_ID, Mission
from projector.planner.plan import plan_of
from projector.planner.planning import Planning
from projector.planner.policy import allowed_tools
from projector.planner.research.seek import Pending
from projector.planner.storable import storable
from projector.planner.subagent import TASK

Result = Literal["planned", "held", "cancelled", "retried", "failed"]

RETRIED = "retried-by-hand"
"""Decision of a run that an operator has let be tried again."""
PASSED = (RETRIED, "admitted", "retry", "research-pending", *WAITING_FOR_OTHERS)
"""Decisions of runs that the failures of earlier ones no longer stand against: they had passed that gate."""

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
_TOO_LONG = Told("TooLong", "there is more to tell of the mission than the model is told")
_NO_PLAN = Told("NoPlan", "the model's answer holds no plan")
_VANISHED = Told("WorkersVanished", "its workers vanished, time and again")


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
    if situation.mission is not None:
        run = replace(run, agent_id=situation.mission.agent_id[:MAX_AGENT_ID])  # as a due mission's is cut
    verdict = judge_mission(situation, run.due_at, datetime.now(UTC))
    if verdict is not None:
        return await _turn_away(run, planning, verdict)
    rest = held(known.failures, datetime.now(UTC), planning.pace, changed_at=situation.changed_at)
    if rest is not None and run.decision not in PASSED:
        return await _turn_away(run, planning, Verdict("hold", "skipped-failing", rest.reason), wait_s=rest.wait_s)
    mission, agent = situation.mission, situation.agent
    assert mission is not None and agent is not None, "judge_mission speaks up otherwise"  # noqa: PT018
    steps = planning.ledger.steps(run, known.steps)
    asked_before = run.brief if known.steps else None
    verdict = versions.judge_steps(asked_before)
    if verdict is not None:
        return await _turn_away(run, planning, verdict)
    allowed = allowed_tools((*PLANNABLE, TASK), agent.policy)
    if asked_before is not None and may_go_on(asked_before, agent, allowed):
        brief = asked_before
    else:
        inputs = await _gather(run, planning, mission, agent)
        if not isinstance(inputs, Inputs):
            return inputs
        brief = brief_of(mission, agent, allowed, inputs, planning)
    verdict = await planning.budget.admit(run, agent, brief)
    if verdict.action != "admit":
        return await _turn_away(run, planning, verdict)
    crash.point("planner.after_admit")
    # The brief is stored by now: it shows which of its inputs are so long.
    if (finding := judge_input(brief["user"])) is not None:
        return await _fail(run, planning, _TOO_LONG, f"Guardrail: {finding.reason}")
    try:
        outcome = await asked(brief).lead(
            planning.model,
            allowed,
            steps,
            run_id=str(run.run_id),
            max_s=planning.max_s,
            judge=partial(planning.guard.judge, run.user_id, agent.policy),
            may_ask=partial(planning.budget.may_ask, run, agent),
        )
    except ChatError as error:
        await steps.store_failure(error)
        crash.point("planner.after_failure_stored")
        metrics.PARSE_FAILURES.inc()
        if not error.transient:
            return await _fail(run, planning, _REFUSED, error.message, error)
        asked_s = error.retry_after_s if isinstance(error, ChatUnavailableError) else None
        return await _try_later(run, planning, _UNAVAILABLE, error.message, error, asked_s)
    if outcome.stopped is not None:
        if outcome.stopped.action == "fail" and not outcome.calls:
            metrics.PARSE_FAILURES.inc()
            cause = _NO_PLAN if outcome.stopped.decision == "no-plan" else _TOO_LARGE
            return await _fail(run, planning, cause, outcome.stopped.reason)
        if outcome.stopped.decision not in ("stopped-budget", "stopped-time") or not outcome.calls:
            # What was answered so far is stored: the run goes on from there.
            return await _turn_away(run, planning, outcome.stopped)
        metrics.AGENT_DECISIONS.labels(decision=outcome.stopped.decision).inc()
    plan = plan_of(outcome, {"id": agent.id, "name": agent.name})
    await planning.ledger.store_plan(run, plan, sweep_after_s=planning.pace.sweep_after_s)
    crash.point("planner.after_plan_stored")
    metrics.PLANS_PRODUCED.inc()
    metrics.PLANNER_ROUNDS.observe(outcome.rounds)
    log.info("planned", run=str(run.run_id), steps=len(outcome.calls), stop=outcome.stop_reason)
    return "planned"


async def give_up_attempt(run: ClaimedRun, planning: Planning, error: Exception) -> Result:
    """Settles an attempt that ended in a fault of ours: tried again like any other, and counted."""
    metrics.MISSION_ERRORS.inc()
    return await _try_later(run, planning, _FAULT, f"internal fault: {type(error).__name__}", error)


async def _gather(run: ClaimedRun, planning: Planning, mission: Mission, agent: Agent) -> Inputs | Result:
    """What the mission links and research gives, once for each run; or how the run was settled without asking."""
    if not planning.gathering.is_needed(mission):
        return Inputs()
    before = gathered_before(run.brief, mission)
    if before is not None:
        return before
    # Nothing is read or paid for unless the agent could go on with it now.
    verdict = await planning.budget.admit(run, agent, run.brief)
    if verdict.action != "admit":
        return await _turn_away(run, planning, verdict)
    gathered = await planning.gathering.gather(run, mission)
    if isinstance(gathered, Pending):
        verdict = Verdict("hold", "research-pending", gathered.reason)
        return await _turn_away(run, planning, verdict, wait_s=gathered.wait_s)
    if isinstance(gathered, Verdict):
        return await _turn_away(run, planning, gathered)
    return gathered


async def _turn_away(run: ClaimedRun, planning: Planning, verdict: Verdict, *, wait_s: float | None = None) -> Result:
    pace = planning.pace
    metrics.AGENT_DECISIONS.labels(decision=verdict.decision).inc()
    log.info("turned away", run=str(run.run_id), decision=verdict.decision)
    if verdict.decision in WAITING_FOR_OTHERS:
        return "held"  # where that was judged
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
        wait_s = pace.hold_for_place_s if verdict.decision in LOOKED_AT_SOON else pace.hold_s
    await planning.ledger.settle(
        run, "held", decision=verdict.decision, reason=verdict.reason, wait_s=wait_s, counts=False
    )
    return "held"


async def _try_later(
    run: ClaimedRun, planning: Planning, told: Told, reason: str, error: Exception, asked_s: float | None = None
) -> Result:
    wait_s = retry_s(run.attempts, planning.pace, asked_s=asked_s)
    if wait_s is None:
        return await _fail(run, planning, told, reason, error)
    await planning.ledger.settle(run, "due", decision="retry", reason=storable(reason), wait_s=wait_s, counts=True)
    log.warning("attempt failed", run=str(run.run_id), attempt=run.attempts, wait_s=wait_s, **_logged(told, error))
    return "retried"


async def _fail(run: ClaimedRun, planning: Planning, told: Told, reason: str, error: Exception | None = None) -> Result:
    """Ends the run as one that failed: its mission hears of it, and moves on to a later time."""
    plan = {
        "version": versions.PLAN,
        "summary": f"Planner failed: {told.message}",
        "steps": [],
        "error": {"name": told.name, "message": told.message},
        "reason": storable(reason),
        **_words_of(error),
    }
    await planning.ledger.store_plan(run, plan, sweep_after_s=planning.pace.sweep_after_s)
    log.error("run failed", run=str(run.run_id), attempts=run.attempts, **_logged(told, error))
    return "failed"


def _words_of(error: Exception | None) -> dict[str, Any]:
    """What the endpoint said, which may quote the prompt: a plan is content, as that is; a reason is shown to all."""
    return {"detail": storable(error.detail)} if isinstance(error, ChatError) and error.detail else {}


def _logged(told: Told, error: Exception | None) -> dict[str, Any]:
    """What a log line says of a failure."""
    if not isinstance(error, ChatError):
        return {"cause": told.name}
    return {"cause": told.name, "kind": error.kind, "status": error.status}
