"""A writer that was paused and wakes: it sends again what was erased meanwhile, with the place that it had."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from projector.config import Settings
from projector.log.topics import Topics
from tests.view_faults.load import ERASED_APP

READ_LIMIT_S = 60.0


class Strays:
    """Knows the changes of the app in which rows are erased."""

    def __init__(self, settings: Settings) -> None:
        self._bootstrap_servers = settings.kafka_bootstrap_servers
        topic = Topics(settings.topic_prefix).changes(ERASED_APP)
        self._partitions = [TopicPartition(topic, number) for number in range(settings.topic_partitions)]
        self._next: defaultdict[TopicPartition, int] = defaultdict(int)
        self._changes: dict[bytes, Any] = {}
        self.sent = 0

    async def send(self) -> dict[tuple[str, int], int]:
        """Sends all that was erased since the last call; returns the ends of the partitions that got something."""
        erased = await self._erased()
        ends = {}
        producer = AIOKafkaProducer(bootstrap_servers=self._bootstrap_servers)
        await producer.start()
        try:
            for record in erased:
                at = await producer.send_and_wait(
                    record.topic,
                    record.value,
                    record.key,
                    record.partition,
                    timestamp_ms=record.timestamp,
                    headers=list(record.headers),
                )
                ends[at.topic, at.partition] = at.offset + 1
        finally:
            await producer.stop()
        self.sent += len(erased)
        return ends

    async def _erased(self) -> list[Any]:
        consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap_servers, enable_auto_commit=False)
        await consumer.start()
        try:
            ends = await consumer.end_offsets(self._partitions)
            consumer.assign(self._partitions)
            for tp in self._partitions:
                consumer.seek(tp, self._next[tp])
            erased = []
            async with asyncio.timeout(READ_LIMIT_S):
                while any(self._next[tp] < ends[tp] for tp in self._partitions):
                    for tp, records in (await consumer.getmany(timeout_ms=200)).items():
                        self._next[tp] = records[-1].offset + 1
                        for record in records:
                            headers = dict(record.headers)
                            if headers["op"] != b"erased":
                                self._changes[headers["id"]] = record
                            elif (change := self._changes.pop(headers["id"], None)) is not None:
                                erased.append(change)
            return erased
        finally:
            await consumer.stop()
