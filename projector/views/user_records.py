"""What the topics hold of one user: records stay there whatever is erased elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiokafka import TopicPartition

from projector.config import Settings
from projector.log.change import ERASED
from projector.log.topics import Topics, partition_of
from projector.views import kafka

POLL_MS = 500
REPORT_S = 0.5
_AT_ONCE = 10_000


class UserRecords(NamedTuple):
    """`records` of the user lie from `first` to before `end` of their partition.

    `standing` of them are changes that no later record tells to be erased: a view that is rebuilt from the topic
    folds these.
    """

    topic: str
    partition: int
    first: int
    end: int
    records: int
    standing: int


Report = Callable[[int, int], None]
"""Told of records read, and how many there are to read."""


@dataclass(slots=True)
class _Partition:
    """How far one is read, and what was found: the ids of changes that stand."""

    first: int
    end: int
    at: int
    records: int = 0
    standing: set[bytes] = field(default_factory=set)

    def read(self, records: Iterable[Any], key: bytes) -> None:
        for record in records:
            if record.offset < self.end:
                self._read(record, key)

    def _read(self, record: Any, key: bytes) -> None:
        if record.key is None:
            # The whole log was truncated.
            self.standing.clear()
        if record.key != key:
            return
        self.records += 1
        headers = dict(record.headers)
        change = headers.get("id")
        if change is not None and headers.get("op") == ERASED.encode():
            self.standing.discard(change)
        elif change is not None:
            self.standing.add(change)


async def find_user_records(
    settings: Settings, user: str, topics: Iterable[str], widths: Mapping[str, int], report: Report
) -> list[UserRecords]:
    """Reads the user's partition of each topic, to where it ends now. Raises BrokerUnavailableError."""
    key = user.encode()
    partitions = [TopicPartition(topic, partition_of(key, widths[topic])) for topic in topics]
    if not partitions:
        return []
    async with kafka.consumer(settings) as consumer:
        consumer.assign(partitions)
        first = await consumer.beginning_offsets(partitions)
        end = await consumer.end_offsets(partitions)
        found = {tp: _Partition(first[tp], end[tp], first[tp]) for tp in partitions}
        for tp in partitions:
            consumer.seek(tp, first[tp])
        total = sum(one.end - one.first for one in found.values())
        reported = time.monotonic()
        while left := [tp for tp, one in found.items() if one.at < one.end]:
            for tp, records in (await consumer.getmany(*left, timeout_ms=POLL_MS, max_records=_AT_ONCE)).items():
                found[tp].read(records, key)
            for tp in left:  # not every offset has a record
                found[tp].at = await consumer.position(tp)
            if time.monotonic() - reported >= REPORT_S:
                reported = time.monotonic()
                report(sum(one.at - one.first for one in found.values()), total)
    return [
        UserRecords(tp.topic, tp.partition, one.first, one.end, one.records, len(one.standing))
        for tp, one in found.items()
    ]


def topics_with_users(settings: Settings, existing: Iterable[str]) -> list[str]:
    """The topics among `existing` whose records are keyed by users, also of apps that are no longer configured."""
    topics = Topics(settings.topic_prefix)
    return sorted(t for t in existing if t.startswith(topics.changes("")) or t in (topics.due, topics.iterations))
