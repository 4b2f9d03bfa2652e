"""What the topics hold already, in a temporary table beside the rows: so its number of records does not matter."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import orjson
import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from projector import freeze
from projector.cdc.fill_progress import FILL, FillProgress
from projector.cdc.rows import IDENTITY, Row, erased_row
from projector.config import Settings
from projector.health.parts import at_work, moved
from projector.kafka import REQUEST_TIMEOUT_MS, client_options, explain_failure
from projector.log.change import ERASED, FILL_HEADER
from projector.log.order import PartitionOrder
from projector.log.place import from_headers
from projector.log.topics import Topics
from projector.log.watermark import Ends
from projector.sql import query

_AT_ONCE: Final = 10_000
# Reading on is cheaper than a seek over fewer records than this.
_FAR: Final = 2_000
# Records of one partition at once, which may be large.
_TAKEN: Final = 500

Connection = psycopg.AsyncConnection[Any]
Range = tuple[int, int]


async def read_ends(settings: Settings) -> Ends:
    """The next offset of every partition of the log."""
    topics = Topics(settings.topic_prefix).all(settings.apps)
    partitions = range(settings.topic_partitions)
    every = [TopicPartition(topic, p) for topic in topics for p in partitions]
    async with _assigned(settings, every) as consumer:
        found = await consumer.end_offsets(every)
    return {topic: [found[TopicPartition(topic, p)] for p in partitions] for topic in topics}


async def load_seen(
    settings: Settings, conn: Connection, topics: list[str], spans: Iterable[tuple[Ends, Ends]], told: FillProgress
) -> None:
    """Fills the temporary table `fill_seen` with every record of a change in `topics` within the spans of offsets."""
    await conn.execute(query("cdc/create_seen"))
    wanted = await _there(settings, [dict(_ranges(topics, begin, end)) for begin, end in spans])
    total = sum(last - first for ranges in wanted for first, last in ranges.values())
    if total:
        await told.begin("topics", total)
    done = 0
    for ranges in filter(None, wanted):
        # A consumer for each span, so that each is assigned once (see `read_tails`).
        async with _assigned(settings, list(ranges)) as consumer:
            with at_work(FILL):
                truncations = await _copy(consumer, conn, ranges, done, told)
        done += sum(last - first for first, last in ranges.values())
        for tp, offset in truncations.items():
            await conn.execute(query("cdc/forget_truncated"), [tp.topic, tp.partition, offset])
    await conn.execute(query("cdc/index_seen"))
    await conn.execute(query("cdc/settle_seen"))
    await conn.execute("analyze fill_seen")


class Vanished(NamedTuple):
    """`record` for `topic`, one of `total`."""

    topic: str
    record: Row
    total: int


async def vanished(settings: Settings, conn: Connection) -> AsyncGenerator[Vanished, None]:
    """What to say of each change of `fill_seen` that is no longer in the log, and of which no topic says so."""
    # Without a transaction: whoever takes them slowly must not keep the server from cleaning up after writers.
    async with conn.cursor("vanished", withhold=True) as rows, _consumer(settings) as consumer:
        await rows.execute(query("cdc/vanished"))
        records = _Records(consumer)
        with at_work(FILL) as part:
            while found := await rows.fetchmany(_AT_ONCE):
                await freeze.point("cdc.vanished")
                for topic, partition, offset, total in found:
                    part.moved()
                    record = await records.at(TopicPartition(topic, partition), offset)
                    # One that is gone by now needs no word: nobody can read it any more.
                    if record is not None:
                        fields = orjson.loads(record.value)
                        erased = erased_row({name: str(fields[name]).encode() for name in IDENTITY})
                        yield Vanished(topic, erased, total)


class _Records:
    """Single records, asked for partition by partition in the order of their offsets."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer
        self._partition: TopicPartition | None = None
        self._found: dict[int, Any] = {}
        self._next = 0

    async def at(self, partition: TopicPartition, offset: int) -> Any | None:
        """None when the topic has it no more."""
        consumer = self._consumer
        begins = partition != self._partition
        if begins:
            consumer.assign([partition])
        if begins or offset - self._next > _FAR:
            consumer.seek(partition, offset)
            self._partition, self._next = partition, offset
        while self._next <= offset:
            fetched = await consumer.getmany(partition, timeout_ms=1000, max_records=_TAKEN)
            self._found = {record.offset: record for record in fetched.get(partition, ())}
            # Of those that are gone there may be none behind it: the position tells that.
            self._next = await consumer.position(partition)
        return self._found.get(offset)


@asynccontextmanager
async def _consumer(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        **client_options(settings),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=50,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
    )
    try:
        await consumer.start()
        yield consumer
    except KafkaError as error:
        raise await explain_failure(settings, error, "cannot read the topics") from error
    finally:
        await consumer.stop()


@asynccontextmanager
async def _assigned(settings: Settings, partitions: list[TopicPartition]) -> AsyncIterator[AIOKafkaConsumer]:
    """Fetches nothing before a partition is resumed."""
    async with _consumer(settings) as consumer:
        # Not assigned, they would be looked up after a wait for metadata.
        consumer.assign(partitions)
        consumer.pause(*partitions)
        yield consumer


def _ranges(topics: list[str], begin: Ends, end: Ends) -> Iterator[tuple[TopicPartition, Range]]:
    """The offsets to read of each partition that has any, from the first to before the last."""
    for topic in topics:
        ends = end.get(topic, [])
        begins = begin.get(topic, [0] * len(ends))
        for partition, (first, last) in enumerate(zip(begins, ends, strict=False)):
            if first < last:
                yield TopicPartition(topic, partition), (first, last)


async def _there(settings: Settings, spans: Sequence[dict[TopicPartition, Range]]) -> list[dict[TopicPartition, Range]]:
    """What the topics still hold of them."""
    partitions = list({tp for ranges in spans for tp in ranges})
    if not partitions:
        return []
    async with _assigned(settings, partitions) as consumer:
        begins = await consumer.beginning_offsets(partitions)
    return [
        {tp: (max(first, begins[tp]), last) for tp, (first, last) in ranges.items() if begins[tp] < last}
        for ranges in spans
    ]


async def _copy(
    consumer: AIOKafkaConsumer, conn: Connection, ranges: dict[TopicPartition, Range], done: int, told: FillProgress
) -> dict[TopicPartition, int]:
    """Returns the offset of the last truncation of each partition that has one. `done` were read before."""
    truncations: dict[TopicPartition, int] = {}
    left = {tp: last for tp, (_, last) in ranges.items()}
    orders = {tp: PartitionOrder() for tp in left}
    for tp, (first, _) in ranges.items():
        consumer.seek(tp, first)
        consumer.resume(tp)
    async with conn.cursor().copy("copy fill_seen (id, erased, topic, partition, place) from stdin") as copy:
        while left:
            await freeze.point("cdc.seen")
            for tp, records in (await consumer.getmany(*left, timeout_ms=1000, max_records=_AT_ONCE)).items():
                moved(FILL)
                last = left[tp]
                found = [record for record in records if record.offset < last and _is_new(orders[tp], record)]
                for record in found:
                    if record.key is None:
                        truncations[tp] = record.offset
                # A truncation names no change.
                await copy.write(b"".join(_line(tp, record) for record in found if record.key is not None))
                done += min(records[-1].offset, last - 1) - records[0].offset + 1
            # Not every offset has a record: the position tells the end.
            for tp in [tp for tp, last in left.items() if await consumer.position(tp) >= last]:
                del left[tp]
                consumer.pause(tp)
            await told.keep(done)
    return truncations


def _is_new(order: PartitionOrder, record: Any) -> bool:
    """What came again says nothing: after it was erased it would look as if it were there."""
    headers = dict(record.headers)
    return order.grows(from_headers(headers), filled=FILL_HEADER in headers)


def _line(tp: TopicPartition, record: Any) -> bytes:
    headers = dict(record.headers)
    erased = b"t" if headers["op"] == ERASED.encode() else b"f"
    return b"%b\t%b\t%b\t%d\t%d\n" % (headers["id"], erased, tp.topic.encode(), tp.partition, record.offset)
