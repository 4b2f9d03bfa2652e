"""The wall time that a matrix may take: stated before it begins, and held against what it took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tests.faults.command import minutes

ALLOWANCE = 1.5
"""Times what is expected: what is drawn differs, and so do machines."""
AROUND_S = 120.0
"""To start servers and streams, and at the end to judge all that is owed."""


class Part(NamedTuple):
    """`each_s` are seconds for a strike of this kind, from the end of the one before it to its part in a verification:
    the average over a whole matrix, on two slow cores that did other things as well."""

    strikes: int
    kind: str
    each_s: float


class Budget(NamedTuple):
    parts: Sequence[Part]

    @property
    def seconds(self) -> float:
        return AROUND_S + ALLOWANCE * sum(part.strikes * part.each_s for part in self.parts)

    def stated(self) -> str:
        """The budget, and what it follows from."""
        parts = " + ".join(f"{part.strikes} {part.kind} x {part.each_s:g} s" for part in self.parts)
        return f"wall budget {minutes(self.seconds)}: {ALLOWANCE:g} x ({parts}) + {AROUND_S:g} s"

    def judged(self, took: float) -> str:
        """Whether it was kept."""
        over = took - self.seconds
        kept = "within" if over <= 0 else f"{minutes(over)} OVER"
        return f"all of it took {minutes(took)}, {kept} the budget of {minutes(self.seconds)}"
