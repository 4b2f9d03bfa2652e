"""No more than so many a second, over any time that is long enough to notice."""

from __future__ import annotations


class Pace:
    """Leaves `per_s` a second through, everything at once when it is 0. Times are seconds of one clock.

    What a pause left unused is not made up for: after a minute without a broker there is no rush of a minute's worth.
    """

    __slots__ = ("_free_at", "_per_s")

    def __init__(self, per_s: int, now: float) -> None:
        self._per_s = per_s
        self._free_at = now

    def wait_s(self, count: int, now: float) -> float:
        """How long whoever has just let `count` through must wait before the next."""
        if not self._per_s:
            return 0.0
        self._free_at = max(self._free_at + count / self._per_s, now)
        return self._free_at - now
