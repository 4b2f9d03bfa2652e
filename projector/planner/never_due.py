"""Missions that are active and never due, although their owners mean them to be: devices can store anything."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from projector.planner.cadence import names_times
from projector.planner.first_time import PAGE, Timeless, timeless
from projector.planner.ledger import Connection

Cause = Literal["next-run-at", "cron"]
CAUSES: dict[Cause, str] = {
    "next-run-at": "a nextRunAt that is no time",
    "cron": "a cron expression that names no time",
}
EXAMPLES = 5


@dataclass(slots=True)
class NeverDue:
    """`examples` are the first in order: user, mission and cause."""

    counts: Counter[Cause] = field(default_factory=Counter)
    examples: list[tuple[str, str, Cause]] = field(default_factory=list)

    def add(self, mission: Timeless, cause: Cause) -> None:
        self.counts[cause] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append((mission.user_id, mission.mission_id, cause))


def cause_of(mission: Timeless) -> Cause | None:
    """Why it is never due; None for one that can be given a first time."""
    if mission.unusable:
        return "next-run-at"
    return None if names_times(mission.cadence) else "cron"


async def read_never_due(conn: Connection) -> NeverDue:
    """All of them, as the view shows them now. `conn` is one of projector_planner."""
    found, after = NeverDue(), ("", "")
    while page := await timeless(conn, after):
        for mission in page:
            if (cause := cause_of(mission)) is not None:
                found.add(mission, cause)
        if len(page) < PAGE:
            break
        after = page[-1][:2]
    return found
