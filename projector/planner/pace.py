"""How fast runs are taken up, held back and tried again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """Times are in seconds. The defaults are those of production; tests shorten them."""

    max_attempts: int = 5
    """Attempts that end in an error, a vanished worker included, before a run has failed."""
    first_retry_s: float = 5.0
    longest_retry_s: float = 300.0
    shortest_rest_s: float = 900.0
    """How long a failed run rests at least before its mission, still due, is tried again."""
    cancelled_rest_s: float = 30.0
    """The same after a cancelled one: long enough for the views to show what made it so."""
    hold_s: float = 900.0
    """When a held run is looked at again if nothing about its mission or agent changes before."""
    hold_for_place_s: float = 30.0
    """The same for one that waits for its agent's other runs, whose end wakes it anyway."""
    sweep_after_s: float = 5.0
    """How long the announcement of a plan may take before the write-back looks for it by itself."""
    restore_every_s: float = 15.0
    """How often the write-back looks for iterations that a device dropped."""
    restore_rest_s: float = 30.0
    """Before an iteration comes back, and again: devices that know it need the time to say so."""
    poll_s: float = 1.0
    """How often a worker looks for runs that no message told it of."""

    def retry_s(self, attempts: int, *, asked_s: float | None = None) -> float:
        """The wait after the n-th attempt: four times the one before, or longer if the endpoint asks for it."""
        wait: float = min(self.first_retry_s * 4 ** (attempts - 1), self.longest_retry_s)
        return max(wait, asked_s or 0.0)
