"""What the topics hold of changes: those that a view has not applied yet, and whether a change is there at all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from projector.config import Settings
from projector.log.change import ERASED, TRUNCATED
from projector.log.topics import Topics, partition_of
from projector.views import kafka
from projector.views.declared import Identity, View
from projector.views.positions import Partition, widths_of

POLL_MS = 200
# A change's record is written after its row was created; clocks of two servers may differ by less than this.
CLOCK_SLACK_MS = 24 * 3600 * 1000


@dataclass(slots=True)
class Tail:
    """What lies at or above a view's positions: ids of changes, and what it will have to fold anew from the log."""

    changes: set[str] = field(default_factory=set)
    erased: set[Identity] = field(default_factory=set)
    truncated: set[Partition] = field(default_factory=set)


class Published:
    """Reads the topics of one view beside its engine. Not to be used by two tasks at once."""

    def __init__(
        self, settings: Settings, cluster: str, partitions: Sequence[Partition], client: AIOKafkaConsumer
    ) -> None:
        """`partitions`: all that there are."""
        self.cluster = cluster
        self.partitions = partitions
        self._topics = Topics(settings.topic_prefix)
        self._widths = widths_of(partitions)
        self._client = client

    def partition(self, identity: Identity) -> Partition | None:
        """Where the record's changes are; None when its topic does not exist."""
        topic = self._topics.changes(identity[1])
        width = self._widths.get(topic, 0)
        return Partition(topic, partition_of(identity[0].encode(), width)) if width else None

    async def tail(self, positions: Mapping[Partition, int]) -> Tail:
        """All that the partitions hold now at or above these offsets."""
        tail = Tail()
        for partition, next_offset in positions.items():
            _, end = await self.range(partition)
            async for message in self._read(partition, next_offset, end):
                headers = dict(message.headers)
                op = headers.get("op", b"").decode("utf-8", "replace")
                if op == TRUNCATED and message.key is None:
                    tail.truncated.add(partition)
                elif op == ERASED:
                    if (identity := _identity(message.value)) is not None:
                        tail.erased.add(identity)
                elif "id" in headers:
                    tail.changes.add(headers["id"].decode("utf-8", "replace"))
        return tail

    async def find(self, partition: Partition, change_ids: Collection[str], since_us: int) -> dict[str, int]:
        """The offset of the first record of each of the changes that is there; created at `since_us` or later.

        Reads the partition from about that time, so it takes as long as that part of it is large.
        """
        first, end = await self.range(partition)
        place = TopicPartition(*partition)
        moment = max(0, since_us // 1000 - CLOCK_SLACK_MS)
        offset = (await self._client.offsets_for_times({place: moment}))[place]
        # Nothing that late: the row's time is ahead of its commit, so it says nothing.
        start = first if offset is None else offset.offset
        missing, found = set(change_ids), {}
        async for message in self._read(partition, start, end):
            change_id = dict(message.headers).get("id", b"").decode("utf-8", "replace")
            if change_id in missing:
                found[change_id] = message.offset
                missing.discard(change_id)
                if not missing:
                    break
        return found

    async def range(self, partition: Partition) -> tuple[int, int]:
        """(first offset that is there, next offset)."""
        place = TopicPartition(*partition)
        beginnings = await self._client.beginning_offsets([place])
        ends = await self._client.end_offsets([place])
        return int(beginnings[place]), int(ends[place])

    async def _read(self, partition: Partition, start: int, end: int) -> AsyncIterator[Any]:
        if start >= end:
            return
        place = TopicPartition(*partition)
        self._client.assign([place])
        self._client.seek(place, start)
        while await self._client.position(place) < end:
            for message in (await self._client.getmany(place, timeout_ms=POLL_MS)).get(place, ()):
                if message.offset < end:
                    yield message


@asynccontextmanager
async def published(settings: Settings, view: View) -> AsyncIterator[Published]:
    """Raises BrokerUnavailableError, BrokerRefusedError."""
    cluster = await kafka.cluster_id(settings)
    partitions = await kafka.partitions_of(settings, kafka.topics_of(settings, view))
    async with kafka.consumer(settings) as client:
        yield Published(settings, cluster, partitions, client)


def _identity(value: bytes | None) -> Identity | None:
    """Whose row an erasure names; None when it is unreadable, and then nobody reloads anything for it either."""
    try:
        row = orjson.loads(value or b"")
        return row["user_id"], row["app_id"], row["table_name"], row["record_id"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
