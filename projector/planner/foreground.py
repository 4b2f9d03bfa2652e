"""Whether a device runs a mission itself, as browsers do with what is due while their page is open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from projector.fold import parse_instant
from projector.log.clock import to_datetime
from projector.planner.mission import Mission

LONGEST_RUN = timedelta(seconds=180)
"""After that a browser ends its run; one that still shows as running was closed in the middle of it."""


def runs_in_foreground(mission: Mission, now: datetime) -> bool:
    """Whether an iteration of a device's own is at work. Its clock may be ahead."""
    return any(
        iteration.get("overallStatus") == "running" and abs(now - started) < LONGEST_RUN
        for iteration, started in _of_devices(mission, "startedAt")
    )


def ran_in_foreground(mission: Mission, due_at: datetime, next_run_at: datetime | None) -> bool:
    """Whether a device has carried out what was due then: it ended a run since, and moved the mission on."""
    if next_run_at is not None and next_run_at <= due_at:
        return False
    return any(
        iteration.get("overallStatus") != "running" and finished >= due_at
        for iteration, finished in _of_devices(mission, "finishedAt")
    )


def _of_devices(mission: Mission, time: str) -> Iterator[tuple[Mapping[str, Any], datetime]]:
    for iteration in mission.iterations:
        shown = iteration.get(time)
        moment = parse_instant(shown) if isinstance(shown, str) else None
        if iteration.get("source") != "server" and moment is not None:
            yield iteration, to_datetime(moment)
