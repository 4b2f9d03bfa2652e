"""How many iterations a mission's record carries: every write and every device repeats the whole array.

What is older leaves the record in two writes. The first marks it with `archivedAt`, which tells the log, and so the
view of iterations, that it is no loss; the second leaves it out. The view keeps it for good.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

KEPT = 20
UNDECIDED_KEPT = 100
"""Of iterations that wait for somebody's review, for a device may have been away for long."""
_DECIDED = frozenset({"approved", "rejected", "failed"})


def capped(iterations: list[Any], now: str) -> list[Any]:
    """The array to write instead, oldest first; `now` is the instant that marks what is archived by it.

    Elements that are no iteration stay: nobody could find them again.
    """
    return list(_capped(iterations, now))


def _capped(iterations: list[Any], now: str) -> Iterator[Any]:
    for age, iteration in zip(range(len(iterations) - 1, -1, -1), iterations, strict=True):
        if age < KEPT or not isinstance(iteration, dict) or not isinstance(iteration.get("id"), str):
            yield iteration
        elif isinstance(archived_at := iteration.get("archivedAt"), str) and archived_at:  # as the fold reads it
            continue
        elif iteration.get("overallStatus") in _DECIDED or age >= UNDECIDED_KEPT:
            yield {**iteration, "archivedAt": now}
        else:
            yield iteration
