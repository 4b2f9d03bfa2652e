"""What a conversation leads to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from projector.planner.gates import Verdict

CUT_SHORT = "Cut short: "
"""Begins the summary of a conversation that was stopped, before the reason."""
StopReason = Literal["assistant-stop", "no-tool-calls", "max-rounds", "budget", "time", "no-plan"]


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A call taken into the plan. `summary` and `rationale` are the model's own words, '' where it gave none."""

    tool: str
    arguments: dict[str, Any]
    summary: str = ""
    rationale: str = ""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a conversation ended: its last text, and why."""

    summary: str
    stop_reason: StopReason


@dataclass(slots=True)
class Outcome:
    """The plan in the order of its steps, and what it cost: sub-agents and foldings included."""

    steps: list[PlannedStep] = field(default_factory=list)
    summary: str = ""
    stop_reason: StopReason = "max-rounds"
    rounds: int = 0
    rejected: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    stopped: Verdict | None = None
    """Why the model was not asked any more, if it was not for reasons of the conversation."""

    @property
    def calls(self) -> list[tuple[str, dict[str, Any]]]:
        return [(step.tool, step.arguments) for step in self.steps]
