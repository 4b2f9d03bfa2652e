"""Errors of the producer that only another producer can go on from, as the broker itself gives them."""

from __future__ import annotations

from collections import Counter

import psycopg
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition

from projector.cdc import session
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
