"""Asks the model for one run: each request once, within what the run may spend, and never with ciphertext in it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from projector import crash
from projector.errors import ChatError
from projector.llm.chat import TEMPERATURE, ChatModel, Completion, Message, ToolCall
from projector.planner.ciphertext import scrub
from projector.planner.gates import Verdict
from projector.planner.steps import Journal, Step, StepKind, digest_of, evidence_of, evidence_of_failure
from projector.planner.storable import storable
from projector.planner.tools import is_usable

MayAsk = Callable[[int], Awaitable[Verdict | None]]
"""Asked before each call that has to be paid for: what stands against one of at least so many tokens."""
Keeps = Callable[[ChatError], bool]


class CallStopped(Exception):
    """The model may not be asked now."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


class FailureKept(Exception):
    """The model failed, and the run goes on without its answer, also when it is taken up again."""


class Answer(NamedTuple):
    """`fresh` false: it was stored before."""

    completion: Completion
    fresh: bool


class Asking:
    """What all conversations of one run ask through. `max_s`: how long it may go on, from now."""

    def __init__(
        self,
        model: ChatModel,
        journal: Journal,
        *,
        run_id: str,
        may_ask: MayAsk,
        max_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._journal = journal
        self._run_id = run_id
        self._may_ask = may_ask
        self._max_s = max_s
        self._clock = clock
        self._began = clock()
        self.prompt_tokens = 0
        self.completion_tokens = 0

    @property
    def spent(self) -> int:
        """Tokens of all answers so far, the stored ones included."""
        return self.prompt_tokens + self.completion_tokens

    async def ask(
        self,
        alias: str,
        messages: Sequence[Message],
        schemas: Sequence[dict[str, Any]],
        *,
        needed: int,
        kind: StepKind = "llm",
        keeps: Keeps = lambda error: False,
        temperature: float = TEMPERATURE,
    ) -> Answer:
        """Raises CallStopped, and FailureKept for a failure that `keeps` makes a step; other ChatErrors pass."""
        # What the model wrote itself goes back to it, so the rule on ciphertext holds for the whole request.
        request: list[Message] = scrub(storable(list(messages)))
        # How another version describes the same tools is no reason to pay again.
        digest = digest_of([alias, request, [schema["function"]["name"] for schema in schemas]])
        step = self._journal.take(kind, digest)
        fresh = step is None
        if step is None:
            verdict = self._late() or await self._may_ask(needed)
            if verdict is not None:
                raise CallStopped(verdict)
            crash.point("planner.before_first_ask" if self._journal.at_beginning else "planner.before_next_ask")
            step = await self._answered(kind, digest, alias, request, schemas, keeps, temperature)
            crash.point("planner.after_step_stored")
        self.prompt_tokens += step.prompt_tokens
        self.completion_tokens += step.completion_tokens
        if "error" in step.response:
            raise FailureKept(step.response["error"])
        return Answer(_completion(step), fresh)

    async def _answered(
        self,
        kind: StepKind,
        digest: bytes,
        alias: str,
        request: Sequence[Message],
        schemas: Sequence[dict[str, Any]],
        keeps: Keeps,
        temperature: float,
    ) -> Step:
        """Asks, and stores what was answered."""
        began = time.perf_counter()
        try:
            answer = await self._model.complete(alias, request, schemas, run_id=self._run_id, temperature=temperature)
        except ChatError as error:
            error.seconds = time.perf_counter() - began
            if not keeps(error):
                raise
            return await self._journal.store(
                kind,
                digest,
                {"error": storable(f"{error.message}: {error.detail}" if error.detail else error.message)},
                error.prompt_tokens,
                error.completion_tokens,
                evidence_of_failure(error),
            )
        crash.point("planner.after_llm_before_store")
        return await self._journal.store(
            kind,
            digest,
            _stored_completion(answer),
            answer.prompt_tokens,
            answer.completion_tokens,
            evidence_of(answer, time.perf_counter() - began),
        )

    def _late(self) -> Verdict | None:
        # Never in the middle of a call, which would be paid for and lost: its own timeout bounds that.
        took_s = self._clock() - self._began
        if took_s < self._max_s:
            return None
        return Verdict("hold", "stopped-time", f"the run took {took_s:.0f} s, and may take {self._max_s:g}")


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
