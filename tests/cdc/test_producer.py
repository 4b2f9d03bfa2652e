"""Errors of the producer that only another producer can go on from, as the broker itself gives them."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from threading import Event

import psycopg
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from projector.cdc import session
from projector.cdc.producer import start_producer, stop_producer
from projector.cdc.topics import ensure_topics
from projector.config import Settings
from projector.embedded.kafka import Kafka
from projector.log.topics import Topics
from tests.cdc.support import ids, insert, read_until, running


@pytest.fixture
def conn(settings):
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        yield conn


def out_of_order(producer: AIOKafkaProducer, partitions: list[TopicPartition]) -> None:
    """The broker has not seen the batches between."""
    for tp in partitions:
        producer._txn_manager.increment_sequence_number(tp, 7)


def fenced(producer: AIOKafkaProducer, partitions: list[TopicPartition]) -> None:
    """The broker has seen a later epoch of this producer."""
    move_epoch(producer, -1)


def move_epoch(producer: AIOKafkaProducer, by: int) -> None:
    manager = producer._txn_manager
    manager._pid_and_epoch = manager._pid_and_epoch._replace(epoch=manager.producer_epoch + by)


@pytest.mark.parametrize("spoil", [out_of_order, fenced])
async def test_a_producer_that_cannot_go_on_is_replaced_and_each_row_published_once(
    settings, conn, monkeypatch, spoil
) -> None:
    producers: list[AIOKafkaProducer] = []

    async def start_producer(settings):
        producer = await begin(settings)
        move_epoch(producer, 1)  # so that there is one before it
        producers.append(producer)
        return producer

    begin = session.start_producer
    monkeypatch.setattr(session, "start_producer", start_producer)
    topic = Topics(settings.topic_prefix).changes("ai")
    async with running(settings):
        written = [insert(conn, user_id=f"user-{n}") for n in range(20)]
        await read_until(settings, 20)
        spoil(producers[0], [TopicPartition(topic, p) for p in range(settings.topic_partitions)])
        written += [insert(conn, user_id=f"user-{n}") for n in range(20)]
        records = await read_until(settings, 40)
    assert len(producers) > 1
    assert ids(records) == Counter(written)


@pytest.fixture
def broker(tmp_path, cache_dir):
    own = Kafka(tmp_path / "kafka", cache_dir, lambda line: None)
    own.start(Event())
    yield own
    own.stop()


async def test_a_producer_ends_in_bounds_while_requests_of_a_broker_that_is_gone_are_tried_again(
    broker, caplog
) -> None:
    settings = Settings(kafka_bootstrap_servers=broker.bootstrap_servers, topic_partitions=3)
    await ensure_topics(settings)
    topic = Topics(settings.topic_prefix).changes(settings.apps[0])
    producers = [await start_producer(settings) for _ in range(settings.topic_partitions)]
    for partition, producer in enumerate(producers):
        await producer.send_and_wait(topic, b"value", partition=partition)
    assert broker.process is not None
    broker.process.kill()
    broker.process = None
    waiting = [await producer.send(topic, b"value", partition=n) for n, producer in enumerate(producers)]
    await asyncio.sleep(0.5)
    async with asyncio.timeout(15):
        await asyncio.gather(*map(stop_producer, producers))
        failures = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(failure, KafkaError) for failure in failures)
    producers.clear()
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []
