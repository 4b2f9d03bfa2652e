"""The change ids that topics hold already, in a temporary table beside the rows: their number does not matter."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from projector.config import Settings
from projector.kafka import client_options, explain_failure
from projector.log.topics import Topics
from projector.log.watermark import Ends
from projector.logging import get
from projector.sql import query

_REPORT_S: Final = 5.0

Range = tuple[TopicPartition, int, int]

log = get("cdc")


async def read_ends(settings: Settings) -> Ends:
    """The next offset of every partition of the log."""
    topics = Topics(settings.topic_prefix).all(settings.apps)
    consumer = AIOKafkaConsumer(**client_options(settings), enable_auto_commit=False)
    try:
        await consumer.start()
        found = await consumer.end_offsets(
            [TopicPartition(topic, p) for topic in topics for p in range(settings.topic_partitions)]
        )
    except KafkaError as error:
        raise await explain_failure(settings, error, "cannot read the ends of the topics") from error
    finally:
        await consumer.stop()
    return {topic: [found[TopicPartition(topic, p)] for p in range(settings.topic_partitions)] for topic in topics}


async def load_seen(
    settings: Settings, conn: psycopg.AsyncConnection[Any], topics: list[str], spans: Iterable[tuple[Ends, Ends]]
) -> None:
    """Fills the temporary table `fill_seen` with the ids of all records of `topics` within the spans of offsets."""
    await conn.execute(query("cdc/create_seen"))
    ranges = [r for begin, end in spans for r in _ranges(topics, begin, end)]
    if ranges:
        consumer = AIOKafkaConsumer(
            **client_options(settings), enable_auto_commit=False, auto_offset_reset="earliest", fetch_max_wait_ms=50
        )
        try:
            await consumer.start()
            await _copy(consumer, conn, ranges)
        except KafkaError as error:
            raise await explain_failure(settings, error, "cannot read what the topics hold") from error
        finally:
            await consumer.stop()
    await conn.execute(query("cdc/index_seen"))


def _ranges(topics: list[str], begin: Ends, end: Ends) -> Iterator[Range]:
    for topic in topics:
        ends = end.get(topic, [])
        begins = begin.get(topic, [0] * len(ends))
        for partition, (first, last) in enumerate(zip(begins, ends, strict=False)):
            if first < last:
                yield TopicPartition(topic, partition), first, last


async def _copy(consumer: AIOKafkaConsumer, conn: psycopg.AsyncConnection[Any], ranges: list[Range]) -> None:
    total = sum(last - first for _, first, last in ranges)
    done, reported = 0, time.monotonic()
    async with conn.cursor().copy("copy fill_seen (id) from stdin") as copy:
        # A partition may be in two ranges, of which one lies before the other.
        while ranges:
            turn = {tp: (first, last) for tp, first, last in reversed(ranges)}
            ranges = [r for r in ranges if turn[r[0]] != r[1:]]
            consumer.assign(list(turn))
            beginnings = await consumer.beginning_offsets(list(turn))
            for tp, (first, last) in list(turn.items()):
                consumer.seek(tp, max(first, beginnings[tp]))
                if beginnings[tp] >= last:
                    del turn[tp]
            while turn:
                for tp, records in (await consumer.getmany(*turn, timeout_ms=1000, max_records=10_000)).items():
                    last = turn[tp][1]
                    ids = [v for r in records if r.offset < last for name, v in r.headers if name == "id"]
                    done += len(ids)
                    if ids:
                        await copy.write(b"\n".join(ids) + b"\n")
                    if records[-1].offset >= last - 1:
                        del turn[tp]
                        consumer.pause(tp)
                if time.monotonic() - reported >= _REPORT_S:
                    reported = time.monotonic()
                    log.info("reading which changes the topics hold", records=done, of=total)
