"""The order of a partition's records. Their places grow, but for what comes again: a writer that was paused and wakes
may have a request under way that its successor has sent as well, with what followed.
"""

from __future__ import annotations

from projector.log.place import Place

FILLED = -1
"""The ordinal, in `Order.reached`, of a fill: all its records share one place, before whatever committed there."""


class Order:
    """Of one partition. `reached` is the largest place so far, None before the first."""

    __slots__ = ("reached",)

    def __init__(self, reached: Place | None = None) -> None:
        self.reached = reached

    def grows(self, place: Place, *, filled: bool) -> bool:
        """Takes the next record in; False when it came before, and something after it."""
        if filled:
            place = Place(place.source, place.lsn, FILLED)
        reached = self.reached
        if reached is not None and (place < reached or (place == reached and not filled)):
            return False
        self.reached = place
        return True
