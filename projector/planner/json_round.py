"""A plan in one answer, for a model without function calls; what is wrong with it may be mended once."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from projector import metrics
from projector.llm.chat import Message, ToolCall
from projector.planner.asking import Asking, CallStopped
from projector.planner.gates import Verdict
from projector.planner.outcome import Ending, Outcome, PlannedStep
from projector.planner.plan_json import ParsedPlan, PlanUnreadable, parse_plan
from projector.planner.prompt import Prompt
from projector.planner.reminders import Quota, State, reminders_of, with_reminders
from projector.planner.tool_calls import ToolCalls, offer_of
from projector.planner.tools import Tool, is_usable

ROUNDS = 2
MAX_ECHO = 8_000
MAX_PROBLEMS = 20

REPAIR = """\
Mit deinem Plan stimmt etwas nicht:
{problems}
Antworte noch einmal mit dem ganzen Plan als genau einem JSON-Block, und nur damit."""


class JsonRound:
    """`outcome` gets the plan."""

    def __init__(
        self,
        asking: Asking,
        calls: ToolCalls,
        alias: str,
        tools: Sequence[Tool],
        outcome: Outcome,
        *,
        quota: Quota | None = None,
    ) -> None:
        self._asking = asking
        self._calls = calls
        self._alias = alias
        self._offer = offer_of(tools)
        self._outcome = outcome
        self._quota = quota
        self.rounds = 0

    async def lead(self, prompt: Prompt, max_rounds: int) -> Ending:
        """The good steps of the last answer that can be read. Raises CallStopped, also when there is none."""
        messages: list[Message] = [
            {"role": "system", "content": prompt.system},
            {"role": "user", "content": prompt.user},
        ]
        summary: str | None = None
        needed = 1
        problems: list[str] = []
        for number in range(1, min(max_rounds, ROUNDS) + 1):
            reminders = reminders_of(State(number, self._asking.spent), self._quota)
            answer, fresh = await self._asking.ask(self._alias, with_reminders(messages, reminders), [], needed=needed)
            for reminder in reminders if fresh else ():
                metrics.REMINDERS.labels(producer=reminder.producer, severity=reminder.severity).inc()
            needed = max(1, answer.prompt_tokens + answer.completion_tokens)
            self.rounds = number
            try:
                plan = parse_plan(answer.content or "", self._offer.tools)
            except PlanUnreadable as error:
                problems = [error.reason]
            else:
                summary = plan.summary
                problems = await self._take(plan)
            if not problems:
                break
            listed = "\n".join(f"- {problem}" for problem in problems[:MAX_PROBLEMS])
            messages += [
                {"role": "assistant", "content": (answer.content or "(leer)")[:MAX_ECHO]},
                {"role": "user", "content": REPAIR.format(problems=listed)},
            ]
        if summary is None:
            raise CallStopped(Verdict("fail", "no-plan", f"the model wrote no plan: {problems[0]}"))
        return Ending(summary, "assistant-stop")

    async def _take(self, plan: ParsedPlan) -> list[str]:
        """Lets this plan take the place of the one before, and says what is wrong with it."""
        steps: list[PlannedStep] = []
        problems = list(plan.errors)
        for step in plan.steps:
            params = step.params if isinstance(step.params, dict) and is_usable(step.params) else None
            raw = "" if params is None else orjson.dumps(params, option=orjson.OPT_SORT_KEYS).decode()
            result = await self._calls.carry_out(
                ToolCall("", step.tool, params, raw),
                self._offer,
                steps,
                summary=step.summary,
                rationale=step.rationale,
            )
            if not result["success"]:
                problems.append(f"step[{step.index}] {step.tool}: {result['message']}")
        self._outcome.steps = steps
        self._outcome.rejected = len(problems)
        return problems
