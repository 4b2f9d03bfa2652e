"""The wall time that a matrix may take: stated before it begins, and held against what it took."""

from __future__ import annotations

from collections.abc import Sequence

from tests.faults.command import minutes
from tests.faults.matrix import Chunk

KILL_S = {"timers": 1.0, "planner": 1.2, "sink": 2.0}
"""Seconds for a kill in a stream, from the end of the process before it to its part in a verification: the average over
a whole matrix, on two slow cores that did other things as well."""
ALLOWANCE = 1.5
"""Times that: points and modes differ, and so do machines."""
AROUND_S = 120.0
"""To start servers and streams, and at the end to judge all that is owed."""


def budget_s(todo: Sequence[Chunk]) -> float:
    """Seconds for all of it."""
    return AROUND_S + ALLOWANCE * sum(chunk.strikes * KILL_S[chunk.fault.point.stream] for chunk in todo)


def stated(todo: Sequence[Chunk]) -> str:
    """The budget, and what it follows from."""
    kills = dict.fromkeys(KILL_S, 0)
    for chunk in todo:
        kills[chunk.fault.point.stream] += chunk.strikes
    parts = " + ".join(f"{count} {name} x {KILL_S[name]:g} s" for name, count in kills.items() if count)
    return f"wall budget {minutes(budget_s(todo))}: {ALLOWANCE:g} x ({parts}) + {AROUND_S:g} s"


def judged(budget: float, took: float) -> str:
    """Whether it was kept."""
    over = took - budget
    return (
        f"within the budget of {minutes(budget)}"
        if over <= 0
        else f"{minutes(over)} OVER the budget of {minutes(budget)}"
    )
