"""How much of its iterations a mission's record carries: every write and every device repeats the whole array.

What is older leaves the record in two writes. The first marks it with `archivedAt`, which tells the log, and so the
view of iterations, that it is no loss; the second leaves it out. The view keeps it, as one of the 5,000 iterations that
it keeps of a mission (`projector.fold.iterations`).

The bytes are such that all of it fits twice into a megabyte, which is what a topic takes that nobody raised: what
stays, what is marked and the new iteration go with one row, and one iteration may have some 260 KiB.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

KEPT, KEPT_BYTES = 20, 128 * 1024
UNDECIDED_KEPT, UNDECIDED_BYTES = 100, 384 * 1024
"""Of iterations that wait for somebody's review, for a device may have been away for long.

Bytes are those of an iteration as JSON in UTF-8 with all later ones that stay, but for the last: that one always does.
"""
_DECIDED = frozenset({"approved", "rejected", "failed"})


def capped(iterations: list[Any], now: str) -> list[Any]:
    """The array to write instead, oldest first; `now` is the instant that marks what is archived by it.

    Elements that are no iteration stay: nobody could find them again.
    """
    return list(_capped(iterations, now))[::-1]


def size_of(iteration: Any) -> int:
    """Bytes."""
    return len(json.dumps(iteration, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def _capped(iterations: list[Any], now: str) -> Iterator[Any]:
    later = 0
    for age, iteration in enumerate(reversed(iterations)):
        if age == 0 or not isinstance(iteration, dict) or not isinstance(iteration.get("id"), str):
            yield iteration
            continue
        size = later + size_of(iteration)
        if age < KEPT and size <= KEPT_BYTES:
            pass
        elif isinstance(archived_at := iteration.get("archivedAt"), str) and archived_at:  # as the fold reads it
            continue
        elif _is_decided(iteration) or age >= UNDECIDED_KEPT or size > UNDECIDED_BYTES:
            yield {**iteration, "archivedAt": now}
            continue
        later = size
        yield iteration


def _is_decided(iteration: dict[str, Any]) -> bool:
    status = iteration.get("overallStatus")
    return isinstance(status, str) and status in _DECIDED
