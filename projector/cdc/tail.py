"""The last record of every partition: what a writer before us has published already."""

from __future__ import annotations

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from projector.errors import BrokerUnavailableError, ForeignSourceError
from projector.log.place import Place, from_headers

Tails = dict[tuple[str, int], Place]


async def read_tails(bootstrap_servers: str, topics: list[str], partitions: int) -> Tails:
    """The place of the last record of each (topic, partition) that has one.

    Read it only while holding the slot: whoever held it before has stopped to write by then. Raises
    ForeignSourceError for a last record that names no place, BrokerUnavailableError.
    """
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap_servers,
        enable_auto_commit=False,
        auto_offset_reset="none",
        # One batch of each partition is all we want.
        max_partition_fetch_bytes=64 * 1024,
    )
    try:
        await consumer.start()
        return await _read(consumer, [TopicPartition(t, p) for t in topics for p in range(partitions)])
    except KafkaError as error:
        raise BrokerUnavailableError(f"cannot read the ends of the topics: {error}") from error
    finally:
        await consumer.stop()


async def _read(consumer: AIOKafkaConsumer, every: list[TopicPartition]) -> Tails:
    first = await consumer.beginning_offsets(every)
    end = await consumer.end_offsets(every)
    wanted = {tp for tp in every if end[tp] > first[tp]}
    consumer.assign(list(wanted))
    for tp in wanted:
        consumer.seek(tp, end[tp] - 1)
    tails: Tails = {}
    while wanted:
        for tp, records in (await consumer.getmany(*wanted, timeout_ms=1000)).items():
            record = records[-1]
            try:
                tails[tp.topic, tp.partition] = from_headers(record.headers)
            except (KeyError, ValueError):
                raise ForeignSourceError(
                    f"the record at {tp.topic}/{tp.partition}/{record.offset} names no place:"
                    " another program writes there"
                ) from None
            wanted.discard(tp)
            consumer.pause(tp)
    return tails
