"""What an iteration did: the rows that an agent wrote on its behalf, beside the mission's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from projector.devices.collection import MISSIONS
from projector.log.actor import AgentActor, normalize_actor
from projector.log.change import Change


def effects(changes: Iterable[Change]) -> Iterator[tuple[Change, AgentActor]]:
    """Rows of agents with their actor. The plan and its statuses, written into the mission, are no effects."""
    for change in changes:
        actor = normalize_actor(change.actor)
        if isinstance(actor, AgentActor) and (change.app_id, change.table, change.record_id) != (
            *MISSIONS[:2],
            actor.mission_id,
        ):
            yield change, actor
