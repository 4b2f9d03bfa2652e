"""Brings a spare generation as far as given offsets, in bulk: many changes of a record become one row."""

from __future__ import annotations

import time
from collections.abc import Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition

from projector import crash
from projector.views.engine import Engine
from projector.views.positions import Partition
from projector.views.progress import Tell

POLL_MS = 200
REPORT_S = 0.5
WAITING_BYTES = 256 * 1024 * 1024
"""Of changes folded in memory before their rows are written."""
CHECKPOINT_S = 60.0
"""How long a fill may work before it commits: what a crash costs at most."""


class Filler:
    """Reads partitions from where the engine is up to given offsets, and not one record further."""

    def __init__(self, engine: Engine, consumer: AIOKafkaConsumer, tell: Tell) -> None:
        """`consumer` has exactly the engine's partitions assigned."""
        self._engine = engine
        self._consumer = consumer
        self._tell = tell
        self._events = 0
        self._changes = 0

    async def fill(self, ends: Mapping[Partition, int]) -> None:
        """Returns when everything below `ends` is committed."""
        pending = dict(ends)
        self._consumer.pause(*self._consumer.assignment())
        self._retire(pending)
        for partition in pending:
            self._consumer.seek(TopicPartition(*partition), self._engine.read_to(partition))
            self._consumer.resume(TopicPartition(*partition))
        told = committed = time.monotonic()
        while pending:
            fetched = await self._consumer.getmany(timeout_ms=POLL_MS)
            due = {}
            for partition, messages in fetched.items():
                end = pending.get(Partition(*partition))
                if end is not None:
                    due[Partition(*partition)] = (
                        messages if messages[-1].offset < end else [m for m in messages if m.offset < end]
                    )
            before = {partition: self._engine.read_to(partition) for partition in due}
            seek = await self._engine.take(due)
            self._events += sum(self._engine.read_to(partition) - before[partition] for partition in due)
            now = time.monotonic()
            if self._engine.waiting_octets >= WAITING_BYTES or now - committed >= CHECKPOINT_S:
                seek |= await self._commit()
                committed = now
            self._retire(pending)
            if not pending:
                seek |= await self._commit()
            for partition, offset in seek.items():
                # Also one that was done, when a lost swap has put the engine back.
                pending[partition] = ends[partition]
                self._consumer.seek(TopicPartition(*partition), offset)
                self._consumer.resume(TopicPartition(*partition))
            if now - told >= REPORT_S:
                told = now
                self._tell(self._events, self._changes)
        await self._commit()
        self._tell(self._events, self._changes)

    async def _commit(self) -> dict[Partition, int]:
        crash.point("rebuild.mid_fill")
        applied = await self._engine.commit(flush=True)
        self._changes += applied.changes
        return dict(applied.seek)

    def _retire(self, pending: dict[Partition, int]) -> None:
        for partition in [p for p, end in pending.items() if self._engine.read_to(p) >= end]:
            del pending[partition]
            self._consumer.pause(TopicPartition(*partition))
