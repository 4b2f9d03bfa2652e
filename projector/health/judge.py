"""Whether a part moves, has nothing to do, or stands still: from what is seen of it now and then, without I/O."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

State = Literal["moving", "idle", "waiting", "stalled"]


@dataclass(frozen=True, slots=True)
class Seen:
    """Where a part is (anything that differs once it has moved), and whether there is something for it to do."""

    position: Hashable
    ahead: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """`standing_s`: for how long the part was seen to stand still although there was something to do."""

    state: State
    standing_s: float = 0.0


class Judge:
    """Of one part, which is stalled when it stood still for so long with something to do.

    Of the time between two looks no more than `longest_look_s` counts: a process that was paused has missed all of
    it, and its parts must get the chance to go on before anybody calls them stalled.
    """

    def __init__(self, longest_look_s: float) -> None:
        self._longest_look_s = longest_look_s
        self._position: Hashable = None
        self._standing_s = 0.0
        self._looked_at: float | None = None

    def look(self, now: float, seen: Seen | None, patience_s: float) -> Verdict:
        """`now` in seconds of a clock that never goes back; None for a part that waits for others."""
        since_s = 0.0 if self._looked_at is None else min(now - self._looked_at, self._longest_look_s)
        self._looked_at = now
        if seen is None or not seen.ahead or seen.position != self._position:
            self._standing_s = 0.0
            self._position = None if seen is None else seen.position
            if seen is None:
                return Verdict("waiting")
            return Verdict("moving" if seen.ahead else "idle")
        self._standing_s += since_s
        return Verdict("stalled" if self._standing_s >= patience_s else "moving", self._standing_s)

    def skip(self, now: float) -> None:
        """The time since the last look does not count: nothing could move in it."""
        self._looked_at = now
