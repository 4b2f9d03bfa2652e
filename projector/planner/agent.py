"""An agent as the planner sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from projector.planner.ciphertext import is_ciphertext
from projector.planner.mission import text


@dataclass(frozen=True, slots=True)
class Agent:
    """`daily_tokens` None means without a cap; `policy` is as the record has it, None means that it has none.

    `persona` and `memory` are '' when absent or readable only on the owner's devices. `state` is '' when the record has
    one that is no text.
    """

    id: str
    name: str
    role: str
    state: str
    persona: str
    memory: str
    policy: object
    max_concurrent: int
    daily_tokens: int | None
    mistyped: str | None = None
    """The field that sets a limit which nobody can read: no limit may be guessed from it."""


def agent_of(agent_id: str, record: Mapping[str, Any]) -> Agent:
    """Never raises. Numbers that clients stored as strings count as numbers, here and for the cap alike."""
    concurrent = _number(record.get("maxConcurrentMissions"))
    cap, has_cap = _number(record.get("maxTokensPerDay")), record.get("maxTokensPerDay") is not None
    return Agent(
        id=agent_id,
        name=text(record.get("name")) or "Unnamed",
        role=text(record.get("role")),
        state="active" if record.get("state") is None else text(record["state"]),
        persona=_readable(record.get("systemPrompt")),
        memory=_readable(record.get("memory")),
        policy=record.get("policy"),
        max_concurrent=1 if concurrent is None else max(0, math.floor(concurrent)),
        daily_tokens=None if cap is None or cap < 0 else math.floor(cap),
        mistyped="maxTokensPerDay" if has_cap and cap is None else None,
    )


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, (int, float)) and math.isfinite(value):
        return float(value)
    return None


def _readable(value: object) -> str:
    return value.strip() if isinstance(value, str) and not is_ciphertext(value) else ""
