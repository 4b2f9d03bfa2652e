"""Names of effects: ids that are the same each time the same thing is done (UUID version 5)."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID, uuid5

NAMESPACE = UUID("6f5f7c1e-3d0b-5c53-9d6b-6a1f0f6c2b10")


def _named(kind: str, *parts: str) -> UUID:
    # Length-prefixed, so that no two lists of parts run together into one name.
    return uuid5(NAMESPACE, kind + "".join(f"|{len(part)}:{part}" for part in parts))


def run_id(user_id: str, mission_id: str, due_us: int) -> UUID:
    """One run per user, mission and due time (µs since the epoch)."""
    return _named("run", user_id, mission_id, str(due_us))


def iteration_id(run: UUID) -> UUID:
    """The iteration that a run writes."""
    return _named("iteration", str(run))


def iteration_change_id(iteration: UUID) -> UUID:
    """The row of `sync_changes` that carries an iteration."""
    return _named("change", str(iteration))


def first_time_change_id(user_id: str, mission_id: str, stamp_us: int) -> UUID:
    """The row of `sync_changes` that says under this stamp when a mission runs first."""
    return _named("first-time", user_id, mission_id, str(stamp_us))


def restored_change_id(runs: Iterable[UUID], time: int) -> UUID:
    """The row that brings the iterations of these runs back, for the `time`-th time."""
    return _named("restore", *sorted(map(str, runs)), str(time))
