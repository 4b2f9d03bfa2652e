"""Reads the part of a partition in which a record can be.

It begins where the record can begin: a streamed change carries its commit time, a filled one its `created_at`, and
neither is earlier than the oldest `created_at` that sync_changes has of the record. Should a clock have gone wrong, a
change is missing at the end, and the caller has the part before read too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from projector.views.collect import Collector

SLACK_MS = 3_600_000
"""How far the clock that stamped `created_at` may be ahead of the one that stamped the commit."""
POLL_MS = 200
REPORT_S = 0.5


class Progress(NamedTuple):
    """Records read of those that have to be."""

    done: int
    total: int


Report = Callable[[Progress], None]


class Scan:
    """Reads spans of one partition into a collector: `begin` to `end`, and `done` records of them."""

    def __init__(
        self, consumer: AIOKafkaConsumer, partition: TopicPartition, collector: Collector, report: Report | None
    ) -> None:
        self._consumer = consumer
        self._partition = partition
        self.collector = collector
        self._report = report
        self._reported = time.monotonic()
        self._total = 0
        self.begin = self.end = self.done = 0

    async def beginning(self) -> int:
        return int((await self._consumer.beginning_offsets([self._partition]))[self._partition])

    async def from_time(self, ms: float | None) -> None:
        """Everything from this record timestamp on (less the slack) to the present end; all of it without one."""
        self._consumer.assign([self._partition])
        self.end = await self._present_end()
        self.begin = await self.beginning()
        if ms is not None and ms > SLACK_MS:
            found = (await self._consumer.offsets_for_times({self._partition: int(ms) - SLACK_MS}))[self._partition]
            self.begin = self.end if found is None else min(found.offset, self.end)
        await self._read(self.begin, self.end)

    async def to_offset(self, offset: int) -> None:
        """What came since, up to `offset`; a topic that was made anew may never come there."""
        if offset > self.end:
            end = min(offset, await self._present_end())
            await self._read(self.end, end)
            self.end = max(self.end, end)

    async def from_beginning(self) -> None:
        """What precedes that which was read."""
        beginning = await self.beginning()
        await self._read(beginning, self.begin)
        self.begin = min(beginning, self.begin)

    async def _present_end(self) -> int:
        return int((await self._consumer.end_offsets([self._partition]))[self._partition])

    async def _read(self, begin: int, end: int) -> None:
        self._total += max(0, end - begin)
        if begin >= end:
            return
        self._consumer.seek(self._partition, begin)
        # Not every offset has a record: the position tells the end.
        while await self._consumer.position(self._partition) < end:
            fetched = await self._consumer.getmany(self._partition, timeout_ms=POLL_MS)
            for message in fetched.get(self._partition, ()):
                if message.offset < end:
                    self.collector.take(message)
                    self.done += 1
            if self._report is not None and time.monotonic() - self._reported >= REPORT_S:
                self._reported = time.monotonic()
                self._report(Progress(self.done, self._total))
