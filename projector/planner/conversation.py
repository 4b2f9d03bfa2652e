"""One conversation: the model calls tools, round by round, until it has no more to call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from projector import metrics
from projector.errors import ChatError
from projector.llm.chat import Completion, Message, ToolCall
from projector.logging import get
from projector.planner import compaction, subagent
from projector.planner.asking import Asking, FailureKept
from projector.planner.outcome import Ending, Outcome
from projector.planner.prompt import Prompt
from projector.planner.reminders import RECENT, Quota, State, reminders_of, with_reminders
from projector.planner.storable import storable
from projector.planner.tool_calls import (
    Offer,
    ToolCalls,
    assistant_message,
    failed,
    offer_of,
    tool_message,
    with_ids,
)
from projector.planner.tools import RejectedCall, Tool

TOKENS_PER_BYTE = 0.25
"""At least; what the endpoint reported of the latest request counts if it is more."""
BYTES_PER_TOOL = 500
"""What a tool's description takes on average: versions word it otherwise, and must fold at the same place."""

log = get("planner")


@dataclass(frozen=True, slots=True)
class Folding:
    """`window`: tokens that a request may have, 0: any; `alias` of the model that folds."""

    window: int
    alias: str


class Conversation:
    """`outcome` gets the plan; a sub-agent's conversation has its parent's."""

    def __init__(
        self,
        asking: Asking,
        calls: ToolCalls,
        alias: str,
        tools: Sequence[Tool],
        outcome: Outcome,
        *,
        folding: Folding | None = None,
        quota: Quota | None = None,
        kind: subagent.Kind | None = None,
    ) -> None:
        self._asking = asking
        self._calls = calls
        self._alias = alias
        self._tools = tools
        self._offer: Offer = offer_of(tools, kind)
        self._outcome = outcome
        self._folding = folding
        self._quota = quota
        # A round sends all that the one before sent, and its answer: it costs no less.
        self._needed = 1
        self._tokens_per_byte = TOKENS_PER_BYTE
        self._ids: set[str] = set()
        self._results: list[bool] = []
        self._folded = 0
        self._sub_agents = 0
        self.rounds = 0

    async def lead(self, prompt: Prompt, max_rounds: int) -> Ending:
        """Raises CallStopped; errors of the model and of the log pass through."""
        messages: list[Message] = [
            {"role": "system", "content": prompt.system},
            {"role": "user", "content": prompt.user},
        ]
        for number in range(1, max_rounds + 1):
            messages = await self._folded_if_due(messages)
            answer = await self._ask(messages, number)
            calls = with_ids(answer.tool_calls, number, self._ids)
            self.rounds = number
            messages.append(assistant_message(answer.content, calls))
            if not calls:
                return Ending(
                    answer.content or "", "assistant-stop" if answer.finish_reason == "stop" else "no-tool-calls"
                )
            for call in calls:
                result = await self._carry_out(call)
                self._results.append(result["success"])
                self._outcome.rejected += not result["success"]
                messages.append(tool_message(call, result))
        return Ending("", "max-rounds")

    async def _ask(self, messages: list[Message], number: int) -> Completion:
        state = State(number, self._asking.spent, self._results[-RECENT:], self._folded)
        reminders = reminders_of(state, self._quota)
        answer, fresh = await self._asking.ask(
            self._alias,
            with_reminders(messages, reminders),
            self._offer.schemas,
            needed=self._needed,
            # What a sub-agent asks in vain, its parent is told.
            keeps=lambda error: self._offer.kind is not None and not error.transient,
        )
        for reminder in reminders if fresh else ():
            metrics.REMINDERS.labels(producer=reminder.producer, severity=reminder.severity).inc()
        self._needed = max(1, answer.prompt_tokens + answer.completion_tokens)
        self._tokens_per_byte = max(TOKENS_PER_BYTE, answer.prompt_tokens / self._bytes(messages))
        return answer

    async def _carry_out(self, call: ToolCall) -> dict[str, Any]:
        if call.name == subagent.TASK.name and call.name in self._offer.tools:
            return await self._calls.keep(call, self._offer, await self._delegated(call))
        return await self._calls.carry_out(call, self._offer, self._outcome.steps)

    async def _delegated(self, call: ToolCall) -> dict[str, Any]:
        """What a sub-agent made of the call. Its steps are stored before the call's own."""
        self._sub_agents += 1
        try:
            order = subagent.order_of(call.arguments)
            if self._sub_agents > subagent.MAX_PER_RUN:
                raise RejectedCall(f"Enough: {subagent.MAX_PER_RUN} sub-agents at most")
        except RejectedCall as rejection:
            return failed(str(rejection))
        asking = self._asking
        before = asking.prompt_tokens, asking.completion_tokens
        child = Conversation(
            asking,
            self._calls,
            self._alias,
            subagent.tools_for(order.kind, self._tools),
            self._outcome,
            quota=self._quota,
            kind=order.kind,
        )
        try:
            ending = await child.lead(subagent.prompt_for(order), subagent.ROUNDS[order.kind])
        except FailureKept as failure:
            return failed(f"Sub-agent failed: {failure}")
        report = subagent.report_of(
            order,
            called=len(child._results),
            rounds=child.rounds,
            stop_reason=ending.stop_reason,
            usage=(asking.prompt_tokens - before[0], asking.completion_tokens - before[1]),
        )
        message = subagent.summary_of(order.kind, ending.summary, child.rounds)
        return {"success": True, "message": message, "data": report}

    async def _folded_if_due(self, messages: list[Message]) -> list[Message]:
        if self._folding is None or self._folded or not self._is_due(messages):
            return messages
        messages = compaction.shortened(messages)
        start = compaction.kept_from(messages)
        if start is None or not self._is_due(messages):
            return messages
        try:
            answer, fresh = await self._asking.ask(
                self._folding.alias,
                compaction.request_to_fold(messages, start),
                [],
                needed=self._needed,
                kind="compact",
                keeps=_any_failure,
                temperature=compaction.TEMPERATURE,
            )
        except FailureKept:
            # The step says why.
            log.warning("nothing folded")
            return messages
        summary = compaction.parse(answer.content or "")
        if summary == compaction.Summary():
            # What says nothing must not take the place of what happened.
            return messages
        if fresh:
            metrics.COMPACTIONS.inc()
            metrics.COMPACTED_TURNS.observe(start - 2)
        self._folded += 1
        self._needed = 1
        return compaction.folded(messages, start, summary)

    def _is_due(self, messages: list[Message]) -> bool:
        assert self._folding is not None
        return compaction.is_due(self._bytes(messages) * self._tokens_per_byte, self._folding.window)

    def _bytes(self, messages: list[Message]) -> int:
        return len(orjson.dumps(storable(messages))) + BYTES_PER_TOOL * len(self._tools)


def _any_failure(error: ChatError) -> bool:
    return True
