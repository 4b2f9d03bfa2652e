"""The calls of one answer: how they are sent back, what they are answered, and which of them join the plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from projector import crash, metrics
from projector.llm.chat import Message, ToolCall
from projector.planner.guardrails import judge_step
from projector.planner.outcome import PlannedStep
from projector.planner.steps import Journal, digest_of
from projector.planner.subagent import Kind, refusal
from projector.planner.tools import (
    RECORDED,
    RejectedCall,
    Tool,
    check_call,
    function_schema,
    sendable_name,
    without_nulls,
)

Judge = Callable[[Tool, dict[str, Any]], str]
"""Asked of a call that holds: a reminder to go along with the answer, or ''; raises RejectedCall."""

MAX_CALLS_PER_ROUND = 50
MAX_CALL_ID = 256


@dataclass(frozen=True, slots=True)
class Offer:
    """The tools of one conversation; `kind` is that of the sub-agent that leads it."""

    tools: Mapping[str, Tool]
    schemas: list[dict[str, Any]]
    kind: Kind | None = None


def offer_of(tools: Sequence[Tool], kind: Kind | None = None) -> Offer:
    return Offer({tool.name: tool for tool in tools}, [function_schema(tool) for tool in tools], kind)


class ToolCalls:
    """Answers the calls of a run. Tools change nothing here: a call that holds becomes a step of the plan."""

    def __init__(self, journal: Journal, judge: Judge) -> None:
        self._journal = journal
        self._judge = judge

    async def carry_out(
        self, call: ToolCall, offer: Offer, plan: list[PlannedStep], *, summary: str = "", rationale: str = ""
    ) -> dict[str, Any]:
        """The answer to one call, which joins `plan` if it holds."""
        digest = digest_of([call.name, call.raw, list(offer.tools)])
        step = self._journal.take("tool", digest)
        if step is None:
            step = await self._journal.store("tool", digest, self._judged(call, offer, plan))
            crash.point("planner.after_tool_stored")
        if step.response["success"]:
            plan.append(PlannedStep(call.name, without_nulls(call.arguments or {}), summary, rationale))
        return step.response

    async def keep(self, call: ToolCall, offer: Offer, result: dict[str, Any]) -> dict[str, Any]:
        """The answer to a call that was carried out elsewhere."""
        digest = digest_of([call.name, call.raw, list(offer.tools)])
        step = self._journal.take("tool", digest)
        if step is None:
            outcome = "done" if result["success"] else "rejected"
            metrics.TOOL_CALLS.labels(tool=call.name, outcome=outcome).inc()
            step = await self._journal.store("tool", digest, result)
        return step.response

    def _judged(self, call: ToolCall, offer: Offer, plan: Sequence[PlannedStep]) -> dict[str, Any]:
        # The model may invent any name, and a metric's labels are kept for ever.
        label = call.name if call.name in offer.tools else "unknown"
        try:
            if offer.kind is not None and call.name not in offer.tools:
                raise RejectedCall(refusal(offer.kind, call.name))
            arguments = check_call(offer.tools, call.name, call.arguments)
            tool = offer.tools[call.name]
            notes = [RECORDED, judge_step(tool, arguments, plan), self._judge(tool, arguments)]
        except RejectedCall as rejection:
            metrics.TOOL_CALLS.labels(tool=label, outcome="rejected").inc()
            return failed(str(rejection))
        metrics.TOOL_CALLS.labels(tool=label, outcome="planned").inc()
        return {"success": True, "message": ". ".join(filter(None, notes))}


def failed(message: str) -> dict[str, Any]:
    return {"success": False, "message": message}


def with_ids(calls: Sequence[ToolCall], round_number: int, used: set[str]) -> list[ToolCall]:
    """Repairs ids that are empty or were given before, which endpoints refuse when they come back.

    `used` holds those of the conversation, and gets these.
    """
    repaired = []
    for index, call in enumerate(calls[:MAX_CALLS_PER_ROUND]):
        name = call.id
        while not 0 < len(name) <= MAX_CALL_ID or name in used:
            name = f"call_{round_number}_{index}" if name == call.id else f"{name}_"
        used.add(name)
        repaired.append(ToolCall(name, call.name, call.arguments, call.raw))
    return repaired


def assistant_message(content: str | None, calls: Sequence[ToolCall]) -> Message:
    message: Message = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": sendable_name(call.name), "arguments": _arguments_text(call)},
            }
            for call in calls
        ]
    return message


def tool_message(call: ToolCall, result: Mapping[str, Any]) -> Message:
    # `jsonb` does not keep the order of keys, and the model must see the same bytes again.
    told = {"success": result["success"], "message": result["message"]}
    if "data" in result:
        told["data"] = orjson.Fragment(orjson.dumps(result["data"], option=orjson.OPT_SORT_KEYS))
    return {"role": "tool", "tool_call_id": call.id, "content": orjson.dumps(told).decode()}


def _arguments_text(call: ToolCall) -> str:
    # Arguments that are no JSON, or beyond the limits, are not sent back: endpoints refuse a history that holds such.
    # The model's own text: numbers and the order of keys may change on their way through `jsonb`.
    return call.raw if call.arguments is not None and call.raw else "{}"
