"""The ends of the topics: what a writer before us has published already."""

from __future__ import annotations

from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from projector import crash
from projector.config import Settings
from projector.errors import ForeignSourceError
from projector.kafka import REQUEST_TIMEOUT_MS, client_options, explain_failure
from projector.log.change import FILL_HEADER
from projector.log.order import standing
from projector.log.place import Place, from_headers
from projector.log.topics import Topics
from projector.log.watermark import Ends, Watermark, decode


class Tails(NamedTuple):
    """`places` holds where the last record of each (topic, partition) that has one is `standing`."""

    places: dict[tuple[str, int], Place]
    ends: Ends
    watermark: Watermark | None
    """The newest one."""


async def read_tails(settings: Settings) -> Tails:
    """The ends of every topic of the log.

    Read them only while holding the slot: whoever held it before has stopped to write by then. Raises
    ForeignSourceError for a last record that names no place, BrokerUnavailableError, BrokerRefusedError.
    """
    topics = Topics(settings.topic_prefix)
    consumer = AIOKafkaConsumer(
        **client_options(settings),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        request_timeout_ms=REQUEST_TIMEOUT_MS,
        # One batch of each partition is all we want.
        max_partition_fetch_bytes=64 * 1024,
    )
    try:
        await consumer.start()
        partitions = range(settings.topic_partitions)
        log = [TopicPartition(topic, p) for topic in topics.all(settings.apps) for p in partitions]
        marks = TopicPartition(topics.watermarks, 0)
        # Only what is assigned is looked up at once; otherwise the client waits for its metadata. Assigned once and no
        # more: a consumer that is stopped just after it was assigned anew may never end (aiokafka 0.14).
        consumer.assign([*log, marks])
        consumer.pause(*log, marks)
        crash.point("cdc.before_tails")
        end = await consumer.end_offsets([*log, marks])
        crash.point("cdc.mid_tails")
        last = await _last_records(consumer, end)
    except KafkaError as error:
        raise await explain_failure(settings, error, "cannot read the ends of the topics") from error
    finally:
        await consumer.stop()
    newest = last.pop(marks, None)
    ends: Ends = {}
    for tp in log:
        ends.setdefault(tp.topic, []).append(end[tp])
    return Tails(
        {(tp.topic, tp.partition): _place(record) for tp, record in last.items()}, ends, newest and _watermark(newest)
    )


async def _last_records(consumer: AIOKafkaConsumer, end: dict[TopicPartition, int]) -> dict[TopicPartition, Any]:
    first = await consumer.beginning_offsets(list(end))
    back = {tp: 1 for tp in end if end[tp] > first[tp]}
    found = {}
    for tp in back:
        consumer.seek(tp, end[tp] - 1)
        consumer.resume(tp)
    while back:
        for tp, records in (await consumer.getmany(*back, timeout_ms=1000)).items():
            found[tp] = records[-1]
        for tp in [tp for tp in back if await consumer.position(tp) >= end[tp]]:
            begin = end[tp] - back[tp]
            if tp in found or begin <= first[tp]:
                del back[tp]
                consumer.pause(tp)
            else:
                # Not every offset has a record: that of a transaction's end, which a copied topic may have, has none.
                back[tp] *= 2
                consumer.seek(tp, max(first[tp], end[tp] - back[tp]))
    return found


def _place(record: Any) -> Place:
    try:
        headers = dict(record.headers)
        return standing(from_headers(headers), filled=FILL_HEADER in headers)
    except (KeyError, ValueError):
        raise _stranger(record) from None


def _watermark(record: Any) -> Watermark:
    try:
        return decode(record.value)
    except (KeyError, TypeError, ValueError):
        raise _stranger(record) from None


def _stranger(record: Any) -> ForeignSourceError:
    return ForeignSourceError(
        f"the record at {record.topic}/{record.partition}/{record.offset} names no place: another program writes there",
        "give this installation topics of its own: set another PROJECTOR_TOPIC_PREFIX",
    )
