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
    max_failures: int = 5
    """Runs of a mission that fail one after another before the next one is held."""
    shortest_rest_s: float = 900.0
    """How far off a mission's next run is at least after one that failed; doubled for each further one."""
    longest_rest_s: float = 6 * 3600.0
    """The most that failures put a mission off, or a plan that the database refuses."""
    cancelled_rest_s: float = 30.0
    """How long a cancelled run rests: long enough for the views to show what made it so."""
    refused_rest_s: float = 60.0
    """How long a plan that the database refused waits before it is tried again; doubled for each further time."""
    hold_s: float = 900.0
    """When a held run is looked at again if nothing about its mission or agent changes before."""
    hold_for_place_s: float = 30.0
    """The same for one that waits for its agent's other runs, whose end wakes it anyway."""
    first_poll_s: float = 15.0
    """When a deep research job is asked for first; each time after twice as long, up to a cap."""
    longest_poll_s: float = 300.0
    sweep_after_s: float = 5.0
    """How long the announcement of a plan may take before the write-back looks for it by itself."""
    restore_every_s: float = 15.0
    """How often the write-back looks for iterations that a device dropped."""
    restore_rest_s: float = 30.0
    """Before an iteration comes back, and again: devices that know it need the time to say so."""
    poll_s: float = 1.0
    """How often a worker looks for runs that no message told it of."""
    first_times_s: float = 20.0
    """How often the write-back looks for missions with a cron expression and no time."""
