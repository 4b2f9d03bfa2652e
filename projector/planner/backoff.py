"""What follows from failures: when the same is tried again, and when not until somebody changes it or time has passed.

Three things fail, each with a count of its own: attempts of a run, runs of a mission, and the writing of a plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from projector.planner.pace import Pace

# Whatever the pace, every cap is reached by then; and 2 ** n stays a number that a float can hold.
_MOST_DOUBLINGS = 64


@dataclass(frozen=True, slots=True)
class Failures:
    """Runs of a mission that failed since one last went well; `latest_at` and `reason` are those of the last."""

    in_row: int = 0
    latest_at: datetime | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """The mission rests for `wait_s`; `reason` is for people, without its data."""

    wait_s: float
    reason: str


def retry_s(attempts: int, pace: Pace, *, asked_s: float | None = None) -> float | None:
    """The wait after the n-th attempt of a run, in seconds: four times the one before, or longer if the endpoint asks
    for it; None when the run has failed.
    """
    if attempts >= pace.max_attempts:
        return None
    wait = min(pace.first_retry_s * 2.0 ** min(2 * (attempts - 1), _MOST_DOUBLINGS), pace.longest_retry_s)
    return max(wait, asked_s or 0.0)


def rest_s(failures: int, pace: Pace) -> float:
    """How far off a mission's next run is at least after the n-th that failed in a row, in seconds: each time twice as
    far, up to a cap.
    """
    return _doubled(pace.shortest_rest_s, failures, pace)


def rewrite_s(refusals: int, pace: Pace) -> float:
    """The wait after the database refused a plan for the n-th time, in seconds, under the same cap."""
    return _doubled(pace.refused_rest_s, refusals, pace)


def poll_s(polls: int, pace: Pace) -> float:
    """The wait before a research job is asked for again, in seconds, after so many requests about it."""
    return min(pace.first_poll_s * 2.0 ** min(polls, _MOST_DOUBLINGS), pace.longest_poll_s)


def _doubled(first_s: float, times: int, pace: Pace) -> float:
    return min(first_s * 2.0 ** min(times - 1, _MOST_DOUBLINGS), pace.longest_rest_s)


def held(failures: Failures, now: datetime, pace: Pace, *, changed_at: datetime | None = None) -> Held | None:
    """Whether a mission whose runs failed so often rests although it is due; None: it may be tried.

    `changed_at` is when somebody last wrote to it or its agent: after that it may. So may one run after the cap, and
    if that fails too, the next one rests as long.
    """
    if failures.in_row < pace.max_failures or failures.latest_at is None:
        return None
    # The row that told of the failure has the time of the failure.
    if changed_at is not None and changed_at > failures.latest_at:
        return None
    wait = failures.latest_at + timedelta(seconds=pace.longest_rest_s) - now
    if wait <= timedelta(0):
        return None
    return Held(
        wait.total_seconds(),
        f"its last {failures.in_row} runs failed, and it rests until it or its agent is changed, or for"
        f" {pace.longest_rest_s / 3600:g} hours; the latest: {failures.reason}",
    )
