"""Tries, as `projector doctor` does, what the stream may do at the brokers, and reads a broker's clock by the way.

No request asks a broker for its time. A topic whose records are stamped by the broker tells it: one is made for the
purpose, gets one record, and is deleted again. That this login may make a topic and write to it shows in the same.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.admin import NewTopic
from aiokafka.errors import KafkaError

from projector.cdc.checks import judge_clock
from projector.cdc.producer import start_producer, stop_producer
from projector.config import Settings
from projector.errors import Finding
from projector.kafka import admin, refused_topics


async def try_broker(settings: Settings, clock: Callable[[], float] = time.time) -> list[Finding]:
    """What keeps this login from making topics, and how far the clock of the broker that leads the new one is off.

    `clock`: seconds since 1970, this machine's. Raises BrokerUnavailableError, BrokerRefusedError, ConfigError.
    """
    try:
        async with _topic(settings) as topic:
            producer = await start_producer(settings)
            try:
                asked = clock()
                written = await producer.send_and_wait(topic, b"what time is it?", partition=0)
                answered = clock()
            finally:
                await stop_producer(producer)
    except KafkaError as error:
        return [_refused(settings, error)]
    return judge_clock("the broker", written.timestamp / 1000, asked, answered)


@asynccontextmanager
async def _topic(settings: Settings) -> AsyncIterator[str]:
    """A topic of one partition, stamped by its broker, for as long as the block; raises KafkaError when refused."""
    name = f"{settings.topic_prefix}.doctor.{uuid.uuid4().hex[:12]}"
    stamped = {"message.timestamp.type": "LogAppendTime"}
    wanted = NewTopic(name, 1, settings.topic_replication_factor, topic_configs=stamped)
    async with admin(settings) as client:
        _raise_for((await client.create_topics([wanted])).topic_errors)
        try:
            yield name
        finally:
            _raise_for((await client.delete_topics([name])).topic_error_codes)


def _raise_for(results: Iterable[Sequence[Any]]) -> None:
    """Raises what the first topic of an admin request was refused with."""
    for name, kind, why in refused_topics(results):
        raise kind(f"{name}: {why}")


def _refused(settings: Settings, error: KafkaError) -> Finding:
    return Finding(
        "warning",
        f"a topic cannot be made, written and deleted here: {error}",
        "the stream makes the topics that are missing itself, at its first start and for an app that is added",
        f"let this login create, write and delete topics under {settings.topic_prefix}. (kafka-acls.sh --add"
        f" --operation All --topic {settings.topic_prefix}. --resource-pattern-type prefixed --allow-principal …)",
    )
