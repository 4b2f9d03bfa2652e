"""The topics as a foreign consumer sees them, each read on from where the last reading stopped."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import NamedTuple

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from projector.log.place import Place, from_headers
from projector.log.topics import Topics
from projector.log.watermark import Watermark, decode
from tests.faults.ledger import Event, Lane
from tests.faults.load import APPS

FILL = "fill"
"""Header of a record that was published out of the table. All of a fill stand before ordinal 0 of its LSN."""


class Record(NamedTuple):
    partition: TopicPartition
    offset: int
    place: Place
    filled: bool
    lane: Lane
    event: Event

    def __str__(self) -> str:
        kind = "filled" if self.filled else self.event.op
        return (
            f"{kind} {self.event.id} at {self.place} ({self.partition.topic}/{self.partition.partition}/{self.offset})"
        )


class Reader:
    """Reads the topics of one installation directly at the broker."""

    def __init__(self, bootstrap_servers: str, topics: Topics, partitions: int) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.log = [
            TopicPartition(name, number)
            for name in (*map(topics.changes, APPS), topics.due)
            for number in range(partitions)
        ]
        self.marks = TopicPartition(topics.watermarks, 0)
        self._next: defaultdict[TopicPartition, int] = defaultdict(int)

    def read(self) -> tuple[list[Record], list[Watermark]]:
        """What has come since the last call, up to the ends of now, partition by partition in order of offset."""
        found = asyncio.run(self._read())
        marks = [decode(raw.value) for raw in found.pop(self.marks, [])]
        return [_record(tp, raw) for tp in sorted(found) for raw in found[tp]], marks

    async def delete_topics(self) -> None:
        client = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap_servers)
        await client.start()
        try:
            ours = {tp.topic for tp in (*self.log, self.marks)}
            await client.delete_topics(list(ours & set(await client.list_topics())))
        finally:
            await client.close()

    async def _read(self) -> dict[TopicPartition, list]:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap_servers, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            partitions = [tp for tp in (*self.log, self.marks) if tp.topic in await consumer.topics()]
            ends = await consumer.end_offsets(partitions)
            consumer.assign(partitions)
            for tp in partitions:
                consumer.seek(tp, self._next[tp])
            found: dict[TopicPartition, list] = {}
            async with asyncio.timeout(60):
                while any(self._next[tp] < ends[tp] for tp in partitions):
                    for tp, batch in (await consumer.getmany(timeout_ms=200)).items():
                        found.setdefault(tp, []).extend(batch)
                        self._next[tp] = batch[-1].offset + 1
            return found
        finally:
            await consumer.stop()


def _record(tp: TopicPartition, raw) -> Record:
    headers = dict(raw.headers)
    value = orjson.loads(raw.value)
    op = headers["op"].decode()
    if op == "message":
        event = Event(op, value["run_id"])
    else:
        event = Event(op, headers["id"].decode(), value["data"]["n"] if "data" in value else 0)
        assert value["id"] == event.id, f"header and value name different changes at {tp}/{raw.offset}"
    return Record(tp, raw.offset, from_headers(dict(raw.headers)), FILL in headers, (tp.topic, raw.key.decode()), event)
