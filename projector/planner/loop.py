"""The conversation of one run: the model calls tools, round by round, until it has no more to call.

Every answer and every tool result is stored before anything follows from it. A run that is taken up again gets
the stored ones, as long as the request that led to them is the same, and asks only for what is missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import orjson

from projector import crash, metrics
from projector.llm.chat import ChatModel, Completion, Message, ToolCall
from projector.planner.ciphertext import scrub
from projector.planner.gates import Verdict
from projector.planner.prompt import Prompt
from projector.planner.storable import storable
from projector.planner.tools import (
    RECORDED,
    RejectedCall,
    Tool,
    check_call,
    function_schema,
    is_usable,
    sendable_name,
    without_nulls,
)

StopReason = Literal["assistant-stop", "no-tool-calls", "max-rounds", "budget"]
StepKind = Literal["llm", "tool"]
Judge = Callable[[Tool, dict[str, Any]], str]
"""Asked of a call that holds: a reminder to go along with the answer, or ''; raises RejectedCall."""
MayAsk = Callable[[int], Awaitable[Verdict | None]]
"""Asked before each call that has to be paid for: what stands against one of at least so many tokens."""

MAX_STEPS = 25
MAX_CALLS_PER_ROUND = 50
MAX_CALL_ID = 256


@dataclass(frozen=True, slots=True)
class Step:
    """One stored answer of a run: `seq` counts from 1, `request_digest` is the SHA-256 of what led to it."""

    seq: int
    kind: StepKind
    request_digest: bytes
    response: dict[str, Any]
    prompt_tokens: int = 0
    completion_tokens: int = 0


class StepLog(Protocol):
    """Where the steps of one run are kept."""

    async def stored(self) -> Sequence[Step]: ...

    async def store(self, step: Step) -> None:
        """Durable once this returns; a step of the same number is replaced. Raises LeaseLostError."""


@dataclass(slots=True)
class Outcome:
    """What the conversation led to: the calls taken into the plan, in order, as (tool, arguments)."""

    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    summary: str = ""
    stop_reason: StopReason = "max-rounds"
    rounds: int = 0
    rejected: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    stopped: Verdict | None = None
    """Why the model was not asked any more, if it was not for reasons of the conversation."""


class CallStopped(Exception):
    """The model may not be asked now."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


async def _always(needed: int) -> None:
    return None


async def converse(
    model: ChatModel,
    alias: str,
    prompt: Prompt,
    tools: Sequence[Tool],
    log: StepLog,
    *,
    run_id: str,
    max_rounds: int,
    judge: Judge = lambda tool, arguments: "",
    may_ask: MayAsk = _always,
) -> Outcome:
    """Leads the conversation to its end. Errors of the model and of the log pass through."""
    conversation = _Conversation(model, alias, tools, log, run_id, judge, may_ask)
    await conversation.load()
    outcome = Outcome()
    messages: list[Message] = [
        {"role": "system", "content": prompt.system},
        {"role": "user", "content": prompt.user},
    ]
    for outcome.rounds in range(1, max_rounds + 1):
        try:
            answer = await conversation.ask(messages)
        except CallStopped as stop:
            outcome.rounds -= 1
            outcome.stopped, outcome.stop_reason = stop.verdict, "budget"
            break
        outcome.prompt_tokens += answer.prompt_tokens
        outcome.completion_tokens += answer.completion_tokens
        calls = _with_ids(answer.tool_calls, outcome.rounds)
        messages.append(_assistant(answer.content, calls))
        if not calls:
            outcome.summary = answer.content or ""
            outcome.stop_reason = "assistant-stop" if answer.finish_reason == "stop" else "no-tool-calls"
            break
        for call in calls:
            result = await conversation.carry_out(call, outcome)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": _result_text(result)})
    return outcome


class _Conversation:
    def __init__(
        self,
        model: ChatModel,
        alias: str,
        tools: Sequence[Tool],
        log: StepLog,
        run_id: str,
        judge: Judge,
        may_ask: MayAsk,
    ) -> None:
        self._model = model
        self._alias = alias
        self._offered: Mapping[str, Tool] = {tool.name: tool for tool in tools}
        self._schemas = [function_schema(tool) for tool in tools]
        # What tells requests apart: how another version describes the same tools is no reason to pay again.
        self._names = list(self._offered)
        self._log = log
        self._run_id = run_id
        self._asked = judge
        self._may_ask = may_ask
        # A round sends all that the one before sent, and its answer: it costs no less.
        self._needed = 1
        self._seq = 0
        self._stored: dict[int, Step] = {}

    async def load(self) -> None:
        self._stored = {step.seq: step for step in await self._log.stored()}

    async def ask(self, messages: Sequence[Message]) -> Completion:
        # What the model wrote itself goes back to it, so the rule on ciphertext holds for the whole request.
        request: list[Message] = scrub(storable(list(messages)))
        digest = _digest([self._alias, request, self._names])
        kept = self._take("llm", digest)
        if kept is None:
            verdict = await self._may_ask(self._needed)
            if verdict is not None:
                raise CallStopped(verdict)
            crash.point("planner.before_first_ask" if self._seq == 1 else "planner.before_next_ask")
            answer = await self._model.complete(self._alias, request, self._schemas, run_id=self._run_id)
            crash.point("planner.after_llm_before_store")
            kept = Step(
                self._seq,
                "llm",
                digest,
                _stored_completion(answer),
                answer.prompt_tokens,
                answer.completion_tokens,
            )
            await self._log.store(kept)
            crash.point("planner.after_step_stored")
        self._needed = max(1, kept.prompt_tokens + kept.completion_tokens)
        return _completion(kept)

    async def carry_out(self, call: ToolCall, outcome: Outcome) -> dict[str, Any]:
        """The answer to one call. Tools change nothing here: a call that holds becomes a step of the plan."""
        digest = _digest([call.name, call.raw, self._names])
        kept = self._take("tool", digest)
        if kept is None:
            kept = Step(self._seq, "tool", digest, self._judge(call, outcome.calls))
            await self._log.store(kept)
            crash.point("planner.after_tool_stored")
        if kept.response["success"]:
            outcome.calls.append((call.name, without_nulls(call.arguments or {})))
        else:
            outcome.rejected += 1
        return kept.response

    def _judge(self, call: ToolCall, planned: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
        try:
            arguments = check_call(self._offered, call.name, call.arguments)
            tool = self._offered[call.name]
            if len(planned) >= MAX_STEPS:
                raise RejectedCall(f"The plan is full: {MAX_STEPS} steps at most")
            if tool.effect == "destructive" and (call.name, arguments) in planned:
                raise RejectedCall(
                    f"{call.name} with these arguments is planned already, and destroys more if repeated"
                )
            reminder = self._asked(tool, arguments)
        except RejectedCall as rejection:
            metrics.TOOL_CALLS.labels(tool=self._label(call), outcome="rejected").inc()
            return {"success": False, "message": str(rejection)}
        metrics.TOOL_CALLS.labels(tool=self._label(call), outcome="planned").inc()
        return {"success": True, "message": f"{RECORDED}. {reminder}" if reminder else RECORDED}

    def _label(self, call: ToolCall) -> str:
        # The model may invent any name, and a metric's labels are kept for ever.
        return call.name if call.name in self._offered else "unknown"

    def _take(self, kind: StepKind, digest: bytes) -> Step | None:
        self._seq += 1
        step = self._stored.get(self._seq)
        if step is not None and step.kind == kind and step.request_digest == digest:
            return step
        # From here on the conversation is another one.
        self._stored.clear()
        return None


def _with_ids(calls: Sequence[ToolCall], round_number: int) -> list[ToolCall]:
    """Repairs ids that are empty or given twice, which endpoints refuse when they come back."""
    seen: set[str] = set()
    repaired = []
    for index, call in enumerate(calls[:MAX_CALLS_PER_ROUND]):
        usable = 0 < len(call.id) <= MAX_CALL_ID and call.id not in seen
        name = call.id if usable else f"call_{round_number}_{index}"
        seen.add(name)
        repaired.append(ToolCall(name, call.name, call.arguments, call.raw))
    return repaired


def _assistant(content: str | None, calls: Sequence[ToolCall]) -> Message:
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


def _result_text(result: Mapping[str, Any]) -> str:
    # `jsonb` does not keep the order of keys, and the model must see the same bytes again.
    return orjson.dumps({"success": result["success"], "message": result["message"]}).decode()


def _arguments_text(call: ToolCall) -> str:
    # Arguments that are no JSON, or beyond the limits, are not sent back: endpoints refuse a history that holds such.
    # The model's own text: numbers and the order of keys may change on their way through `jsonb`.
    return call.raw if call.arguments is not None and call.raw else "{}"


def _stored_completion(answer: Completion) -> dict[str, Any]:
    stored: dict[str, Any] = storable(
        {
            "content": answer.content,
            "toolCalls": [
                {
                    "id": call.id,
                    "name": call.name,
                    # What is nested too deep would not even pass through `storable`.
                    "arguments": call.arguments if is_usable(call.arguments) else None,
                    "raw": call.raw,
                }
                for call in answer.tool_calls
            ],
            "finishReason": answer.finish_reason,
            "model": answer.model,
        }
    )
    return stored


def _completion(step: Step) -> Completion:
    """Always read back from its stored form, so that a resumed run sees exactly what the first one saw."""
    response = step.response
    return Completion(
        content=response["content"],
        tool_calls=tuple(ToolCall(c["id"], c["name"], c["arguments"], c["raw"]) for c in response["toolCalls"]),
        finish_reason=response["finishReason"],
        prompt_tokens=step.prompt_tokens,
        completion_tokens=step.completion_tokens,
        model=response["model"],
    )


def _digest(value: Any) -> bytes:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).digest()
