"""Partitions whose leader goes: with its broker, in order, and back to a broker that has returned."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event

import psycopg
import pytest
from aiokafka.client import AIOKafkaClient

from projector.config import Settings
from projector.embedded import kafka
from projector.embedded.kafka import Kafka
from projector.log.topics import Topics
from tests.cdc.support import insert, read, read_until, running

USERS = 20

# It decides who leads: it notices a broker that is gone within 3 s, and gives back what one led that has returned.
CONTROLLER = """\
broker.session.timeout.ms=3000
leader.imbalance.check.interval.seconds=1
leader.imbalance.per.broker.percentage=0
"""

SECOND = """\
node.id=2
process.roles=broker
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=BROKER://127.0.0.1:{{broker}}
broker.heartbeat.interval.ms=500
"""


@pytest.fixture
def brokers(tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Kafka, Kafka]]:
    """Two in one cluster, of which the first is the controller as well."""
    cluster = kafka._cluster_id()
    monkeypatch.setattr(kafka, "_cluster_id", lambda: cluster)
    first = Kafka(tmp_path / "1", cache_dir, lambda line: None, properties=CONTROLLER)
    first.start(Event())
    try:
        controller = (tmp_path / "1" / "controller.port").read_text()
        second = Kafka(tmp_path / "2", cache_dir, lambda line: None, properties=SECOND.format(controller=controller))
        second.start(Event())
        try:
            yield first, second
        finally:
            second.stop()
    finally:
        first.stop()


def user(number: int) -> str:
    return f"user-{number}"


async def leaders(broker: Kafka, topic: str) -> set[int]:
    client = AIOKafkaClient(bootstrap_servers=broker.bootstrap_servers)
    await client.bootstrap()
    try:
        await client.set_topics([topic])
        return {state.leader for state in client.cluster._partitions.get(topic, {}).values()}
    finally:
        await client.close()


async def led_by(broker: Kafka, topic: str, nodes: set[int]) -> None:
    async with asyncio.timeout(60):
        while await leaders(broker, topic) != nodes:
            await asyncio.sleep(0.1)


@asynccontextmanager
async def load(settings: Settings) -> AsyncIterator[list[str]]:
    """Rows of many users, one after the other, until the end; their ids."""
    written: list[str] = []
    end = Event()

    def write() -> None:
        with psycopg.connect(settings.admin_url, autocommit=True) as conn:
            while not end.wait(0.003):
                written.append(insert(conn, user_id=user(len(written) % USERS)))

    writer = asyncio.create_task(asyncio.to_thread(write))
    try:
        yield written
    finally:
        end.set()
        await writer


def moved(caplog: pytest.LogCaptureFixture) -> int:
    """How often a broker has answered that it does not lead the partition any more."""
    return sum("NotLeader" in record.getMessage() for record in caplog.records)


async def test_rows_are_published_once_and_in_order_while_partitions_change_their_leader(
    settings: Settings, brokers: tuple[Kafka, Kafka], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = brokers
    settings = settings.model_copy(
        update={
            "kafka_bootstrap_servers": f"{first.bootstrap_servers},{second.bootstrap_servers}",
            "topic_replication_factor": 2,
        }
    )
    topic = Topics(settings.topic_prefix).changes("ai")
    caplog.set_level(logging.WARNING, "aiokafka")
    async with running(settings):
        async with load(settings) as written:
            await led_by(first, topic, {1, 2})

            async def published() -> None:
                await read_until(settings, len(written), 60)

            await published()
            assert second.process is not None
            second.process.kill()
            second.process = None
            await led_by(first, topic, {1})
            await published()

            await asyncio.to_thread(second.start, Event())
            await led_by(first, topic, {1, 2})
            await published()

            await asyncio.to_thread(second.stop)
            await led_by(first, topic, {1})
            await published()
        await published()
    assert moved(caplog) > 0
    published_by_user: dict[str, list[str]] = {}
    for record in await read(settings, topic):
        published_by_user.setdefault(record.key.decode(), []).append(record.headers["id"].decode())
    assert published_by_user == {user(n): written[n::USERS] for n in range(USERS)}
