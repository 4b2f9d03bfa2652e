"""Follows one change through its stages. Every time is measured from the commit, on one machine's clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition

from projector.config import Settings
from projector.errors import StageTimeoutError
from projector.kafka import client_options
from projector.log.clock import now_us

T = TypeVar("T")

POLL_S = 0.002


@dataclass(frozen=True, slots=True)
class Seen:
    """A record on its topic: where, and when its transaction was committed (µs since the epoch)."""

    topic: str
    partition: int
    offset: int
    change_id: str
    lsn: str
    committed_us: int
    seen_us: int
    value: dict[str, Any]


async def until(stage: str, limit_s: float, look: Callable[[], Awaitable[T | None]]) -> tuple[T, int]:
    """Looks until there is something to see; returns it with the time (µs). Raises StageTimeoutError."""
    deadline = asyncio.get_running_loop().time() + limit_s
    while True:
        found = await look()
        if found is not None:
            return found, now_us()
        if asyncio.get_running_loop().time() > deadline:
            raise StageTimeoutError(f"stage {stage!r} was not reached within {limit_s:g} s")
        await asyncio.sleep(POLL_S)


class TopicWatch:
    """Reads what arrives in one topic from the moment it was opened."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer

    @classmethod
    async def open(cls, settings: Settings, topic: str) -> TopicWatch:
        consumer = AIOKafkaConsumer(**client_options(settings), enable_auto_commit=False)
        await consumer.start()
        every = [TopicPartition(topic, number) for number in range(settings.topic_partitions)]
        consumer.assign(every)
        await consumer.seek_to_end(*every)
        for partition in every:
            await consumer.position(partition)
        return cls(consumer)

    async def close(self) -> None:
        await self._consumer.stop()

    async def find(self, record_id: str, limit_s: float) -> Seen:
        """The first change of a record; raises StageTimeoutError."""

        async def look() -> Seen | None:
            for records in (await self._consumer.getmany(timeout_ms=20)).values():
                for record in records:
                    value = orjson.loads(record.value)
                    if value.get("record_id") == record_id:
                        headers = dict(record.headers)
                        return Seen(
                            record.topic,
                            record.partition,
                            record.offset,
                            value["id"],
                            headers["lsn"].decode(),
                            int(headers["ts"]),
                            now_us(),
                            value,
                        )
            return None

        found, _ = await until("topic", limit_s, look)
        return found


async def one_row(conn: psycopg.AsyncConnection[Any], text: Any, *parameters: object) -> tuple[Any, ...] | None:
    """The first row of a query, None without one."""
    return await (await conn.execute(text, parameters)).fetchone()
