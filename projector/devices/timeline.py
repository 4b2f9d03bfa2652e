"""The timeline of a user's agents: their rows, newest first, and bucketed by iteration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from projector.devices.effects import effects
from projector.log.change import Change

DEFAULT_LIMIT = 200
MAX_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class Bucket:
    """One iteration's rows in the order given, and who wrote the first of them."""

    mission_id: str
    iteration_id: str
    agent_id: str
    agent_name: str
    rationale: str
    first_us: int
    """The smallest `created_at`, µs since the epoch."""
    changes: tuple[Change, ...]

    @property
    def key(self) -> str:
        return f"{self.mission_id}::{self.iteration_id}"


def timeline(
    changes: Iterable[Change],
    *,
    mission_id: str | None = None,
    app_id: str | None = None,
    limit: int = DEFAULT_LIMIT,
) -> list[Change]:
    """The newest rows of agents, newest first; at most `limit` of them, and never more than a thousand."""
    found = [
        change
        for change, actor in effects(changes)
        if mission_id in (None, actor.mission_id) and app_id in (None, change.app_id)
    ]
    found.sort(key=lambda change: (change.created_at_us, change.id), reverse=True)
    return found[: max(0, min(limit, MAX_LIMIT))]


def by_iteration(
    changes: Iterable[Change], *, agent_id: str | None = None, since_us: int | None = None
) -> list[Bucket]:
    """Buckets of mission and iteration, the one that began last first; rows of people and of systems are left out.

    An iteration counts from its first row: with `since_us` those that began earlier are left out whole.
    """
    grouped: dict[tuple[str, str], Bucket] = {}
    for change, actor in effects(changes):
        key = (actor.mission_id, actor.iteration_id)
        known = grouped.get(key)
        grouped[key] = Bucket(
            *key,
            agent_id=known.agent_id if known else actor.principal_id,
            agent_name=known.agent_name if known else actor.display_name,
            rationale=known.rationale if known else actor.rationale,
            first_us=min(known.first_us, change.created_at_us) if known else change.created_at_us,
            changes=(*known.changes, change) if known else (change,),
        )
    buckets = [
        bucket
        for bucket in grouped.values()
        if agent_id in (None, bucket.agent_id) and (since_us is None or bucket.first_us >= since_us)
    ]
    return sorted(buckets, key=lambda bucket: (bucket.first_us, bucket.key), reverse=True)
