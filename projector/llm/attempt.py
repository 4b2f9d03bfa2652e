"""What was tried for one call, in order, as callers, logs and metrics tell it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Outcome = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider reports them, 0 where it does not; `cost` in US dollars, 0 where no price is known."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost + other.cost,
        )


@dataclass(frozen=True, slots=True)
class Attempt:
    """One entry's turn. `kind`: of the error, or why it was skipped; `ms`: until the answer, or its first byte."""

    entry: str
    outcome: Outcome
    kind: str = ""
    status: int | None = None
    ms: float = 0.0
    usage: Usage = Usage()

    def fields(self) -> dict[str, Any]:
        """As it stands in the body of an error."""
        return {
            "entry": self.entry,
            "outcome": self.outcome,
            "kind": self.kind or None,
            "status": self.status,
            "ms": round(self.ms, 1),
        }

    def __str__(self) -> str:
        told = f"{self.kind} {self.status}" if self.status and self.kind else self.kind or self.outcome
        return f"{self.entry}={told}"


@dataclass(frozen=True, slots=True)
class Fallback:
    """`source` did not serve, and `target` was asked in its place; '' when nobody was."""

    source: str
    target: str
    reason: str
