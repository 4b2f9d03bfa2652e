"""The order of a partition's records. Their places grow, but for what comes again: a writer that was paused and wakes
may have a request under way that its successor has sent as well, with what followed.
"""

from __future__ import annotations

from projector.log.place import Place

_FILLED = -1


def standing(place: Place, *, filled: bool) -> Place:
    """Where a record stands among others. All of a fill share one place, before whatever committed there."""
    return Place(place.source, place.lsn, _FILLED) if filled else place


class PartitionOrder:
    """Of one partition. `reached` is where the last of its records in order stands, None before the first."""

    __slots__ = ("reached",)

    def __init__(self, reached: Place | None = None) -> None:
        self.reached = reached

    def grows(self, place: Place, *, filled: bool) -> bool:
        """Takes the next record in; False when it came before, and something after it."""
        place = standing(place, filled=filled)
        reached = self.reached
        if reached is not None and (place < reached or (place == reached and not filled)):
            return False
        self.reached = place
        return True
