"""Reading a partition in bulk while its broker goes away and comes back."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from threading import Event

import pytest
from aiokafka import AIOKafkaProducer

from projector.cdc.topics import ensure_topics
from projector.config import Settings
from projector.embedded.kafka import Kafka
from projector.errors import PositionOutOfRangeError
from projector.log.topics import Topics
from projector.views.fetch import FETCH_BYTES, fetcher
from projector.views.positions import Partition

COUNT = 3000


@pytest.fixture(scope="module")
def broker(tmp_path_factory, cache_dir):
    own = Kafka(tmp_path_factory.mktemp("kafka"), cache_dir, lambda line: None)
    own.start(Event())
    yield own
    own.stop()


@pytest.fixture
async def filled(broker) -> tuple[Settings, Partition]:
    """A partition that takes several fetches to read."""
    settings = Settings(kafka_bootstrap_servers=broker.bootstrap_servers, topic_partitions=1)
    await ensure_topics(settings)
    partition = Partition(Topics(settings.topic_prefix).changes(settings.apps[0]), 0)
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers)
    await producer.start()
    try:
        sent = [await producer.send(partition.topic, b"%d" % n + bytes(800), partition=0) for n in range(COUNT)]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()
    assert COUNT * 800 > 4 * FETCH_BYTES
    return settings, partition


async def test_a_reading_goes_on_when_the_broker_is_back(broker, filled):
    settings, partition = filled
    found, restarted = [], False
    async with (
        fetcher(settings, [partition.topic]) as topics,
        aclosing(topics.read(partition, 5, COUNT - 5)) as answers,
        asyncio.timeout(60),
    ):
        async for records, next_offset in answers:
            found += [record.offset for record in records]
            assert next_offset == found[-1] + 1
            if not restarted:
                restarted = True
                broker.process.kill()
                broker.process = None
                await asyncio.sleep(0.5)
                await asyncio.to_thread(broker.start, Event())
    assert found == list(range(5, COUNT - 5))


async def test_what_the_partition_does_not_hold_is_an_error(filled):
    settings, partition = filled
    async with (
        fetcher(settings, [partition.topic]) as topics,
        aclosing(topics.read(partition, 10**6, 10**7)) as answers,
    ):
        with pytest.raises(PositionOutOfRangeError, match=f"offset 1000000 of {partition.topic}-0"):
            await anext(answers)
