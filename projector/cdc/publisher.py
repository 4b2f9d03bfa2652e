"""Records into partitions: batches that adapt themselves, one request in flight per partition.

A partition's batch is sent when it is full, or as soon as nothing of that partition is in flight. So an idle
stream is late by one round trip, a busy one ships large requests, and there is no linger to tune. With one request
in flight and an idempotent producer a partition can neither be reordered nor doubled by a retry.
"""

from __future__ import annotations

from asyncio import Future
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder

from projector import crash, freeze
from projector.cdc.progress import Progress
from projector.cdc.tail import Tails
from projector.errors import ReplicationError
from projector.log.topics import partition_of
from projector.log.watermark import Ends
from projector.metrics import CDC_BATCHES, CDC_RECORDS, CDC_SKIPPED

Headers = list[tuple[str, bytes]]

# Attributes, lengths and deltas of one record, and the header of the batch around it.
_RECORD_OVERHEAD = 21
_BATCH_OVERHEAD = 61
_HEADER_OVERHEAD = 10
_KNOWN_KEYS = 50_000


def record_size(key: bytes, value: bytes, headers: Headers) -> int:
    """Upper bound of the bytes that a batch of this one record takes, as the broker counts them."""
    carried = sum(len(name) + len(content) + _HEADER_OVERHEAD for name, content in headers)
    return _BATCH_OVERHEAD + _RECORD_OVERHEAD + len(key) + len(value) + carried


class _Batch(NamedTuple):
    builder: BatchBuilder
    octets: int
    hold: int


class Lane:
    """One partition: the batch being filled, full ones waiting, and the one in flight."""

    __slots__ = ("builder", "full", "hold", "in_flight", "listed", "octets", "partition", "tail", "topic")

    def __init__(self, topic: str, partition: int, tail: tuple[int, int] | None) -> None:
        self.topic = topic
        self.partition = partition
        self.tail = tail
        """(lsn, ord) of the last record there at start, until the stream has passed it."""
        self.builder: BatchBuilder | None = None
        self.octets = 0
        self.hold = 0
        self.full: deque[_Batch] = deque()
        self.in_flight = False
        self.listed = False

    def take(self) -> _Batch | None:
        """The oldest batch that waits to be sent."""
        if self.full:
            return self.full.popleft()
        if self.builder is None:
            return None
        batch = _Batch(self.builder, self.octets, self.hold)
        self.builder = None
        return batch


class Publisher:
    """Fills and sends the batches of every partition of the topics given.

    `tails` tells where they end now. `wake` is called when the owner has something to do: send, or read on. After a
    failure nothing more is sent; `failure` says why.
    """

    def __init__(
        self,
        producer: AIOKafkaProducer,
        progress: Progress,
        partitions: int,
        source: int,
        tails: Tails,
        wake: Callable[[], None],
    ) -> None:
        self._producer = producer
        self._progress = progress
        self._partitions = partitions
        self._source = source
        self._places = tails.places
        self.ends: Ends = {topic: list(ends) for topic, ends in tails.ends.items()}
        """The next offset of every partition, as far as records are acknowledged."""
        self.wake = wake
        self._lanes: dict[tuple[str, int], Lane] = {}
        self._by_key: dict[str, dict[bytes, Lane]] = {}
        self._ready: deque[Lane] = deque()
        self.octets = 0
        """Bytes appended and not yet acknowledged."""
        self.acknowledged = 0
        """Batches acknowledged since the start."""
        self.in_flight = 0
        """Batches sent and not yet acknowledged."""
        self.failure: BaseException | None = None

    def lanes(self, topic: str) -> dict[bytes, Lane]:
        """The lanes of a topic by key; a key that is not there goes through `find_lane`."""
        return self._by_key.setdefault(topic, {})

    def find_lane(self, topic: str, key: bytes) -> Lane:
        partition = partition_of(key, self._partitions)
        lane = self._lanes.get((topic, partition))
        if lane is None:
            lane = self._open_lane(topic, partition)
        known = self.lanes(topic)
        if len(known) >= _KNOWN_KEYS:
            known.clear()
        known[key] = lane
        return lane

    def every_lane(self, topic: str) -> list[Lane]:
        """The lanes of all partitions of a topic, in order."""
        return [
            self._lanes.get((topic, partition)) or self._open_lane(topic, partition)
            for partition in range(self._partitions)
        ]

    def _open_lane(self, topic: str, partition: int) -> Lane:
        place = self._places.get((topic, partition))
        # A tail of an earlier generation says nothing about LSNs of this one.
        tail = (place.lsn, place.ord) if place is not None and place.source == self._source else None
        lane = self._lanes[topic, partition] = Lane(topic, partition, tail)
        return lane

    def append(
        self, lane: Lane, place: tuple[int, int], timestamp_ms: int, key: bytes | None, value: bytes, headers: Headers
    ) -> None:
        """Adds one record, unless the partition already holds it. `place` is (commit LSN, ordinal)."""
        if lane.tail is not None:
            if place <= lane.tail:
                CDC_SKIPPED.inc()
                return
            lane.tail = None
        builder = lane.builder
        if builder is None:
            builder = self._open(lane)
        if builder.append(timestamp=timestamp_ms, key=key, value=value, headers=headers) is None:
            lane.full.append(_Batch(builder, lane.octets, lane.hold))
            # The first record of a batch always fits, whatever its size.
            self._open(lane).append(timestamp=timestamp_ms, key=key, value=value, headers=headers)
        crash.point("cdc.after_append")
        size = len(value) + 300
        lane.octets += size
        self.octets += size
        if not (lane.listed or lane.in_flight):
            lane.listed = True
            self._ready.append(lane)

    def _open(self, lane: Lane) -> BatchBuilder:
        builder = lane.builder = self._producer.create_batch()
        lane.octets = 0
        lane.hold = self._progress.hold()
        return builder

    @property
    def ready(self) -> bool:
        """Whether some partition has records and nothing in flight."""
        return bool(self._ready)

    async def send(self) -> None:
        """Sends one batch of every partition that has records and nothing in flight."""
        while self._ready and self.failure is None:
            lane = self._ready.popleft()
            lane.listed = False
            batch = lane.take()
            if batch is None:
                continue
            lane.in_flight = True
            self.in_flight += 1
            crash.point("cdc.before_send")
            sent: Future[Any] = await self._producer.send_batch(batch.builder, lane.topic, partition=lane.partition)
            sent.add_done_callback(partial(self._answered, lane, batch))

    def _answered(self, lane: Lane, batch: _Batch, sent: Future[Any]) -> None:
        try:
            self._acknowledge(lane, batch, sent)
        except Exception as error:  # the event loop would log it alone, and whoever waits for this batch wait for ever
            self.fail(error)

    def _acknowledge(self, lane: Lane, batch: _Batch, sent: Future[Any]) -> None:
        if sent.cancelled() or freeze.is_at("cdc.acknowledged"):
            return
        failure = sent.exception()
        if failure is not None:
            self.fail(failure)
            return
        offset = sent.result().offset
        if offset < 0:
            # The broker knows the batch already and tells no offset: only reading the topic's end can.
            self.fail(ReplicationError(f"a batch for {lane.topic}/{lane.partition} was repeated and has no offset"))
            return
        if offset < self.ends[lane.topic][lane.partition]:
            # What it held is gone: the next session sees that, as long as no watermark tells of the new end.
            self.fail(ReplicationError(f"{lane.topic}/{lane.partition} begins again at offset {offset}"))
            return
        crash.point("cdc.after_ack_before_confirm")
        self.ends[lane.topic][lane.partition] = offset + batch.builder.record_count()
        self._progress.release(batch.hold)
        self.octets -= batch.octets
        self.acknowledged += 1
        self.in_flight -= 1
        CDC_BATCHES.inc()
        CDC_RECORDS.inc(batch.builder.record_count())
        lane.in_flight = False
        if lane.full or lane.builder is not None:
            lane.listed = True
            self._ready.append(lane)
        self.wake()

    def fail(self, failure: BaseException) -> None:
        """Nothing more is sent; the first failure is the one to tell of."""
        self.failure = self.failure or failure
        self.wake()
