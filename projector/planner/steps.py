"""The stored steps of a run: every answer that was paid for, and every result that the model was told.

A run that is taken up again walks through them in their order, as long as each answers the same request.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import orjson

from projector.errors import ChatError
from projector.llm.chat import Completion
from projector.planner.storable import storable

StepKind = Literal["llm", "tool", "compact"]
"""An answer of the model, the result of a call, or an answer that a part of the conversation is folded into."""


@dataclass(frozen=True, slots=True)
class Step:
    """One stored answer of a run: `seq` counts from 1, `request_digest` is the SHA-256 of what led to it."""

    seq: int
    kind: StepKind
    request_digest: bytes
    response: dict[str, Any]
    prompt_tokens: int = 0
    completion_tokens: int = 0
    evidence: dict[str, Any] | None = None
    """Who answered a call of the model, how long that took and what it cost: `evidence_of`. Nothing follows from it."""


def evidence_of(answer: Completion, seconds: float) -> dict[str, Any]:
    """`cost` in US dollars, None where no price is known; nothing in it was written by people."""
    return {
        "model": storable(answer.model),
        "ms": round(seconds * 1000),
        "cost": answer.cost or None,
        "route": [storable(attempt) for attempt in answer.route],
    }


def evidence_of_failure(error: ChatError) -> dict[str, Any]:
    """The same of a call that failed; `error` names its kind, without a word of the provider's."""
    return {
        "error": type(error).__name__,
        "ms": round(error.seconds * 1000),
        "cost": error.cost or None,
        "route": [storable(attempt) for attempt in error.route],
    }


class StepLog(Protocol):
    """Where the steps of one run are kept."""

    async def stored(self) -> Sequence[Step]: ...

    async def store(self, step: Step) -> None:
        """Durable once this returns; a step of the same number is replaced. Raises LeaseLostError."""


class Journal:
    """The steps of one run in their order, those of its sub-agents between the call and its result."""

    def __init__(self, log: StepLog) -> None:
        self._log = log
        self._seq = 0
        self._stored: dict[int, Step] = {}

    @property
    def at_beginning(self) -> bool:
        """Whether the step that `take` was asked for last is the first one."""
        return self._seq == 1

    async def load(self) -> None:
        self._stored = {step.seq: step for step in await self._log.stored()}

    def take(self, kind: StepKind, digest: bytes) -> Step | None:
        """The next step, if it is stored and answers this request; None: it has to be made, and stored."""
        self._seq += 1
        step = self._stored.get(self._seq)
        if step is not None and step.kind == kind and step.request_digest == digest:
            return step
        # From here on the conversation is another one.
        self._stored.clear()
        return None

    async def store(
        self,
        kind: StepKind,
        digest: bytes,
        response: dict[str, Any],
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
        evidence: dict[str, Any] | None = None,
    ) -> Step:
        """Stores the step that `take` did not find."""
        step = Step(self._seq, kind, digest, response, prompt_tokens, completion_tokens, evidence)
        await self._log.store(step)
        return step


def digest_of(value: Any) -> bytes:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).digest()
