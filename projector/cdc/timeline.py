"""Where a server's timeline left an earlier one: what a promoted standby can have received, and what it cannot."""

from __future__ import annotations

from projector.cdc.replication import Replication
from projector.log.place import parse_lsn


async def left_at(replication: Replication, earlier: int, now: int) -> int | None:
    """The LSN at which the history of timeline `now` left timeline `earlier`; None when it never was on it."""
    if now <= earlier:
        return None
    return switch_point(await replication.timeline_history(now), earlier)


def switch_point(history: str, timeline: int) -> int | None:
    """Reads a timeline history file: lines of timeline, switch point and reason, separated by tabs or spaces.

    Source: PostgreSQL, src/backend/access/transam/timeline.c.
    """
    for line in history.splitlines():
        fields = line.split(None, 2)
        if len(fields) >= 2 and not fields[0].startswith("#") and int(fields[0]) == timeline:
            return parse_lsn(fields[1])
    return None
