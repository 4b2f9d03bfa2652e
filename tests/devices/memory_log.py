"""The log without a server: what devices push, as rows, with a clock that only moves on."""

from __future__ import annotations

import random
from uuid import UUID

from projector.devices import Replica
from projector.log.change import Change


class MemoryLog:
    """Stores each pushed change as the sync server would; `created_at` grows by up to a millisecond, or not at all."""

    def __init__(self, start_us: int, seed: int = 0) -> None:
        self.now_us = start_us
        self.changes: list[Change] = []
        self._random = random.Random(seed)
        self._seen: dict[str, int] = {}

    def push(self, device: Replica, *, lose_answer: bool = False) -> list[Change]:
        batch = device.outbox()
        stored = []
        for pending in batch:
            data, field_meta = pending.stored()
            self.now_us += self._random.choice((1, 1000))
            stored.append(
                Change(
                    id=str(UUID(int=self._random.getrandbits(128))),
                    app_id=pending.collection.app_id,
                    table=pending.collection.table,
                    record_id=pending.record_id,
                    user_id=device.user_id,
                    op=pending.op,
                    data=data,
                    field_meta=dict(field_meta),
                    client_id=device.client_id,
                    created_at_us=self.now_us,
                    schema_version=1,
                    actor=pending.actor,
                    origin=None,
                    space_id=pending.space_id,
                )
            )
        self.changes += stored
        if not lose_answer:
            device.acknowledge(batch)
        return stored

    def seen(self, device: Replica) -> int:
        """How many rows the device had been offered when it pulled last."""
        return self._seen.get(device.client_id, 0)

    def pull(self, device: Replica) -> None:
        """Rows of the user and of the device's space, but not its own."""
        seen = self.seen(device)
        self._seen[device.client_id] = len(self.changes)
        for change in self.changes[seen:]:
            visible = change.user_id == device.user_id or change.space_id == device.space_id
            if visible and change.client_id != device.client_id:
                device.apply(change)
