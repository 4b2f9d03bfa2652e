"""Reads partitions from one offset to another in bulk, without a consumer.

A consumer hands out an object for each record, out of many partitions in turn. Who reads millions of records, one
partition after the other, pays for neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import CorruptRecordException, KafkaError, LeaderNotAvailableError, OffsetOutOfRangeError, for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.memory_records import MemoryRecords

from projector.config import Settings
from projector.errors import PositionOutOfRangeError
from projector.kafka import client_options, explain_failure
from projector.logging import get
from projector.views.positions import Partition

FETCH_BYTES = 256 * 1024
"""Asked for at once: less than a core's cache holds. A batch of the producer's that is larger comes whole."""
MAX_WAIT_MS = 200
RETRY_S = 0.5

log = get("rebuild")


_new = tuple.__new__
"""Makes a Record in half the time that its own constructor takes."""


class Record(NamedTuple):
    """An `inbox.Message`."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    timestamp: int


class Fetched(NamedTuple):
    """`records` in the order of their offsets, all of them below `next_offset`, which is where to go on."""

    records: list[Record]
    next_offset: int


class Fetcher:
    """Asks the leaders of partitions."""

    def __init__(self, settings: Settings, client: AIOKafkaClient) -> None:
        self._settings = settings
        self._client = client

    async def read(self, partition: Partition, begin: int, end: int) -> AsyncGenerator[Fetched, None]:
        """Everything from `begin` up to `end`; the next answer is on its way while one is worked on.

        Waits for a broker that is away. Raises PositionOutOfRangeError when the partition does not reach back to
        `begin`, BrokerUnavailableError when it may not be read.
        """
        fetching = asyncio.create_task(self._fetch(partition, begin))
        try:
            while begin < end:
                batches = await fetching
                fetched = _records(partition, batches, begin, end)
                if fetched.next_offset < end:
                    fetching = asyncio.create_task(self._fetch(partition, fetched.next_offset))
                    await asyncio.sleep(0)  # lets the request go out
                begin = fetched.next_offset
                yield fetched
        finally:
            fetching.cancel()

    async def _fetch(self, partition: Partition, offset: int) -> bytes:
        while True:
            try:
                return await self._ask(partition, offset)
            except OffsetOutOfRangeError:
                raise PositionOutOfRangeError(
                    f"offset {offset} of {partition.topic}-{partition.partition} is needed, which does not hold it"
                ) from None
            except KafkaError as error:
                if not error.retriable:
                    raise await explain_failure(self._settings, error, f"cannot read {partition.topic}") from error
                log.warning("asking again", topic=partition.topic, partition=partition.partition, error=repr(error))
            await asyncio.sleep(RETRY_S)
            await self._client.force_metadata_update()

    async def _ask(self, partition: Partition, offset: int) -> bytes:
        leader = self._client.cluster.leader_for_partition(TopicPartition(*partition))
        if leader is None or leader < 0:
            raise LeaderNotAvailableError
        place = (partition.topic, [(partition.partition, offset, FETCH_BYTES)])
        request = FetchRequest(MAX_WAIT_MS, 1, FETCH_BYTES, 0, [place])
        response: Any = await self._client.send(leader, request)
        [(_, [(_, error_code, *_, batches)])] = response.topics
        if error_code:
            raise for_code(error_code)
        return bytes(batches)


def _records(partition: Partition, batches: bytes, begin: int, end: int) -> Fetched:
    topic, number = partition
    found: list[Record] = []
    following = MemoryRecords(batches)
    while following.has_next() and begin < end:
        batch = following.next_batch()
        if not batch.validate_crc():
            raise CorruptRecordException(f"a batch of {topic}-{number} at or after {begin} is not as it was written")
        if not batch.is_control_batch:
            found += [
                _new(Record, (topic, number, one.offset, one.key, one.value, one.headers, one.timestamp))
                for one in batch
                if begin <= one.offset < end
            ]
        begin = min(batch.next_offset, end)
    return Fetched(found, begin)


@asynccontextmanager
async def fetcher(settings: Settings, topics: Sequence[str]) -> AsyncIterator[Fetcher]:
    """A fetcher for partitions of `topics`; raises BrokerUnavailableError, BrokerRefusedError."""
    client = AIOKafkaClient(**client_options(settings))
    try:
        try:
            await client.bootstrap()
            await client.set_topics(topics)
        except KafkaError as error:
            raise await explain_failure(settings, error, "cannot connect to Kafka") from error
        yield Fetcher(settings, client)
    finally:
        await client.close()
