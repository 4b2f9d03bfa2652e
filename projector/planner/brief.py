"""What a run asks, stored before the model is asked: a run that is taken up again, or replayed, asks the same."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from projector.planner.conversation import Folding
from projector.planner.loop import Format
from projector.planner.prompt import Prompt
from projector.planner.reminders import Quota


@dataclass(frozen=True, slots=True)
class Asked:
    """A stored brief, brought to the types that a conversation takes."""

    alias: str
    prompt: Prompt
    tools: tuple[str, ...]
    max_rounds: int
    form: Format
    folding: Folding
    quota: Quota


def asked(brief: dict[str, Any]) -> Asked:
    """Raises KeyError for a brief whose prompts are pruned: see `is_pruned`."""
    return Asked(
        brief["model"],
        Prompt(brief["system"], brief["user"]),
        tuple(brief["tools"]),
        brief["maxRounds"],
        brief["format"],
        Folding(brief["window"], brief["foldingModel"]),
        Quota(brief["agentName"], brief["dailyTokens"], brief["spentBefore"]),
    )


def is_pruned(brief: dict[str, Any]) -> bool:
    """Whether retention has left the digests of the prompts alone."""
    return "user" not in brief


def prompt_digests(brief: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of both prompts, in hexadecimal; they outlive the prompts."""
    names = ("system", "user")
    if is_pruned(brief):
        return {f"{name}Sha256": brief[f"{name}Sha256"] for name in names}
    return {f"{name}Sha256": hashlib.sha256(brief[name].encode()).hexdigest() for name in names}
