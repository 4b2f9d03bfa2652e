"""Leads the conversation of a finished run again, from what the ledger keeps of it, and asks nobody.

What is not stored is an input no more: a plan that comes out otherwise shows that this program leads conversations
in another way than the one that made it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from projector.errors import NotReplayableError
from projector.llm.chat import TEMPERATURE, Completion, Message
from projector.planner import versions
from projector.planner.brief import asked
from projector.planner.catalogue import PLANNABLE
from projector.planner.gates import Decision, Verdict
from projector.planner.outcome import CUT_SHORT
from projector.planner.plan import plan_of
from projector.planner.pruned import is_pruned
from projector.planner.runs import StoredStep, Whole
from projector.planner.steps import Step
from projector.planner.subagent import TASK

_TOOLS = (*PLANNABLE, TASK)


async def replay(whole: Whole, steps: Sequence[StoredStep]) -> dict[str, Any]:
    """The plan that the stored steps lead to. Raises NotReplayableError when they lead to none."""
    brief, plan = whole.brief, whole.plan
    if brief is None or plan is None:
        raise NotReplayableError("the run has no plan")
    if "error" in plan:
        raise NotReplayableError(f"the run failed: {plan['error']['name']}")
    if is_pruned(brief):
        raise NotReplayableError("its prompts and answers are pruned: their digests, tokens and the plan are left")
    if brief["version"] not in versions.CONTINUED:
        raise NotReplayableError(f"its steps are of version {brief['version']}, which this program does not go on with")
    told = asked(brief)
    if unknown := set(told.tools) - {tool.name for tool in _TOOLS}:
        raise NotReplayableError(f"it was offered tools that this program does not know: {', '.join(sorted(unknown))}")
    outcome = await told.lead(_Nobody(), _TOOLS, _Stored(steps), run_id="", may_ask=_Limit(plan).may_ask)
    # Who planned and how tools were described are inputs, which the plan alone keeps.
    return plan_of(outcome, plan["agent"]) | {"catalogue": plan["catalogue"]}


class _Nobody:
    """A model that may not be asked."""

    async def complete(
        self,
        alias: str,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        *,
        run_id: str,
        temperature: float = TEMPERATURE,
    ) -> Completion:
        raise NotReplayableError("the stored answers do not reach: this program would ask the model for another one")


class _Stored:
    def __init__(self, steps: Sequence[StoredStep]) -> None:
        self._steps = [
            Step(one.seq, one.kind, one.request_digest, one.response, one.prompt_tokens, one.completion_tokens)
            for one in steps
            if one.response is not None
        ]

    async def stored(self) -> Sequence[Step]:
        return self._steps

    async def store(self, step: Step) -> None:
        raise NotReplayableError(f"this program makes step {step.seq} otherwise than it is stored")


class _Limit:
    """Stops the conversation where its budget or its time did."""

    def __init__(self, plan: dict[str, Any]) -> None:
        reason = plan["summary"].removeprefix(CUT_SHORT)
        stopped: dict[str, Decision] = {"budget": "stopped-budget", "time": "stopped-time"}
        decision = stopped.get(plan["stopReason"])
        self._verdict = None if decision is None else Verdict("hold", decision, reason)

    async def may_ask(self, needed: int) -> Verdict | None:
        return self._verdict
