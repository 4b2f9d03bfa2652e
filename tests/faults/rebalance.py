"""A consumer group whose members come and go while records arrive."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition

from tests.faults.reader import Reader

LIMIT_S = 60.0
OVERLAP_S = 0.7

Seen = defaultdict[TopicPartition, set[int]]


async def read_in_a_changing_group(reader: Reader, group: str) -> None:
    """Two members overlap, one leaves, another joins; together they must have seen every record from start to end."""
    topics = sorted({tp.topic for tp in reader.log})
    options: dict[str, Any] = {
        "bootstrap_servers": reader.bootstrap_servers,
        "group_id": group,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "session_timeout_ms": 6000,
        "heartbeat_interval_ms": 200,
    }
    starts = await _begin_at_the_ends(reader, options)
    seen: Seen = defaultdict(set)
    first = Member(options, topics, seen)
    second = Member(options, topics, seen)
    third = Member(options, topics, seen)
    async with asyncio.timeout(LIMIT_S):
        await first.join()
        await second.join()
        await asyncio.sleep(OVERLAP_S)
        await first.leave()
        await third.join()
        await asyncio.sleep(OVERLAP_S)
        await second.leave()
        ends = await third.consumer.end_offsets(reader.log)
        while any(not _whole(seen[tp], starts[tp], ends[tp]) for tp in reader.log) and third.reading:
            await asyncio.sleep(0.05)
        await third.leave()


async def _begin_at_the_ends(reader: Reader, options: dict[str, Any]) -> dict[TopicPartition, int]:
    consumer = AIOKafkaConsumer(**options)
    await consumer.start()
    try:
        consumer.assign(reader.log)
        ends = await consumer.end_offsets(reader.log)
        await consumer.commit(ends)
        return ends
    finally:
        await consumer.stop()


def _whole(seen: set[int], start: int, end: int) -> bool:
    return all(offset in seen for offset in range(start, end))


class Member(ConsumerRebalanceListener):
    """Reads what it is assigned, and commits what it has read before it gives anything away."""

    def __init__(self, options: dict[str, Any], topics: list[str], seen: Seen) -> None:
        self.consumer = AIOKafkaConsumer(**options)
        self.topics = topics
        self.seen = seen
        self._assigned = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def reading(self) -> bool:
        return self._task is not None and not self._task.done()

    async def join(self) -> None:
        """Returns when partitions are its own."""
        self.consumer.subscribe(self.topics, listener=self)
        await self.consumer.start()
        self._task = asyncio.create_task(self._read())
        await self._assigned.wait()

    async def leave(self) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        await self.consumer.commit()
        await self.consumer.stop()

    async def _read(self) -> None:
        while True:
            for tp, records in (await self.consumer.getmany(timeout_ms=100)).items():
                self.seen[tp].update(record.offset for record in records)

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        if revoked:
            await self.consumer.commit()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        if assigned:
            self._assigned.set()
