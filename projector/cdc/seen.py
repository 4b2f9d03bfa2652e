"""What the topics hold already, in a temporary table beside the rows: so its number of records does not matter."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import orjson
import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from projector.cdc.rows import IDENTITY, Row, erased_row
from projector.config import Settings
from projector.kafka import REQUEST_TIMEOUT_MS, client_options, explain_failure
from projector.log.change import ERASED, FILL_HEADER
from projector.log.order import PartitionOrder
from projector.log.place import from_headers
from projector.log.topics import Topics
from projector.log.watermark import Ends
from projector.logging import get
from projector.sql import query

_REPORT_S: Final = 5.0
_AT_ONCE: Final = 10_000
# Reading on is cheaper than a seek over fewer records than this.
_FAR: Final = 2_000

Connection = psycopg.AsyncConnection[Any]
Range = tuple[int, int]

log = get("cdc")


async def read_ends(settings: Settings) -> Ends:
    """The next offset of every partition of the log."""
    topics = Topics(settings.topic_prefix).all(settings.apps)
    partitions = range(settings.topic_partitions)
    every = [TopicPartition(topic, p) for topic in topics for p in partitions]
    async with _consumer(settings) as consumer:
        # Not assigned, they would be looked up after a wait for metadata.
        consumer.assign(every)
        found = await consumer.end_offsets(every)
    return {topic: [found[TopicPartition(topic, p)] for p in partitions] for topic in topics}


async def load_seen(
    settings: Settings, conn: Connection, topics: list[str], spans: Iterable[tuple[Ends, Ends]]
) -> None:
    """Fills the temporary table `fill_seen` with every record of a change in `topics` within the spans of offsets."""
    await conn.execute(query("cdc/create_seen"))
    for begin, end in spans:
        ranges = dict(_ranges(topics, begin, end))
        if ranges:
            # A consumer for each span, so that each is assigned once (see `read_tails`).
            async with _consumer(settings) as consumer:
                truncations = await _copy(consumer, conn, ranges)
            for tp, offset in truncations.items():
                await conn.execute(query("cdc/forget_truncated"), [tp.topic, tp.partition, offset])
    await conn.execute(query("cdc/index_seen"))
    await conn.execute(query("cdc/settle_seen"))
    await conn.execute("analyze fill_seen")


async def vanished(settings: Settings, conn: Connection) -> AsyncGenerator[tuple[str, Row], None]:
    """Topic and record for each change of `fill_seen` that is no longer in the log, and of which no topic says so."""
    # Without a transaction: whoever takes them slowly must not keep the server from cleaning up after writers.
    async with conn.cursor("vanished", withhold=True) as rows, _consumer(settings) as consumer:
        await rows.execute(query("cdc/vanished"))
        at: TopicPartition | None = None
        record: Any = None
        while found := await rows.fetchmany(_AT_ONCE):
            for topic, partition, offset in found:
                tp = TopicPartition(topic, partition)
                if tp != at:
                    consumer.assign([tp])
                    at, record = tp, None
                if record is None or offset - record.offset > _FAR:
                    consumer.seek(tp, offset)
                    record = None
                while record is None or record.offset < offset:
                    record = await consumer.getone()
                fields = orjson.loads(record.value)
                yield topic, erased_row({name: str(fields[name]).encode() for name in IDENTITY})


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


def _ranges(topics: list[str], begin: Ends, end: Ends) -> Iterator[tuple[TopicPartition, Range]]:
    """The offsets to read of each partition that has any, from the first to before the last."""
    for topic in topics:
        ends = end.get(topic, [])
        begins = begin.get(topic, [0] * len(ends))
        for partition, (first, last) in enumerate(zip(begins, ends, strict=False)):
            if first < last:
                yield TopicPartition(topic, partition), (first, last)


async def _copy(
    consumer: AIOKafkaConsumer, conn: Connection, left: dict[TopicPartition, Range]
) -> dict[TopicPartition, int]:
    """Returns the offset of the last truncation of each partition that has one."""
    truncations: dict[TopicPartition, int] = {}
    total = sum(last - first for first, last in left.values())
    done, reported = 0, time.monotonic()
    orders = {tp: PartitionOrder() for tp in left}
    consumer.assign(list(left))
    beginnings = await consumer.beginning_offsets(list(left))
    for tp, (first, last) in list(left.items()):
        consumer.seek(tp, max(first, beginnings[tp]))
        if beginnings[tp] >= last:
            del left[tp]
    async with conn.cursor().copy("copy fill_seen (id, erased, topic, partition, place) from stdin") as copy:
        while left:
            for tp, records in (await consumer.getmany(*left, timeout_ms=1000, max_records=_AT_ONCE)).items():
                _, last = left[tp]
                found = [record for record in records if record.offset < last and _is_new(orders[tp], record)]
                for record in found:
                    if record.key is None:
                        truncations[tp] = record.offset
                # A truncation names no change.
                await copy.write(b"".join(_line(tp, record) for record in found if record.key is not None))
                done += len(records)
                if records[-1].offset >= last - 1:
                    del left[tp]
                    consumer.pause(tp)
            if time.monotonic() - reported >= _REPORT_S:
                reported = time.monotonic()
                log.info("reading which changes the topics hold", records=done, of=total)
    return truncations


def _is_new(order: PartitionOrder, record: Any) -> bool:
    """What came again says nothing: after it was erased it would look as if it were there."""
    headers = dict(record.headers)
    return order.grows(from_headers(headers), filled=FILL_HEADER in headers)


def _line(tp: TopicPartition, record: Any) -> bytes:
    headers = dict(record.headers)
    erased = b"t" if headers["op"] == ERASED.encode() else b"f"
    return b"%b\t%b\t%b\t%d\t%d\n" % (headers["id"], erased, tp.topic.encode(), tp.partition, record.offset)
