"""Folds a view anew from offset 0 into a shadow table, while the serving one goes on, and compares the two."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition

from projector.config import Settings
from projector.sql import query
from projector.sql.connection import connect
from projector.views import kafka
from projector.views.declared import View
from projector.views.engine import Engine
from projector.views.positions import Partition, widths_of
from projector.views.shadow import Shadow, ViewDifference
from projector.views.store import Store

POLL_MS = 200
REPORT_S = 0.5


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a rebuild is. `events` of `total` records were read, `changes` of them were the view's own."""

    view: str
    events: int
    total: int
    changes: int
    seconds: float

    @property
    def events_per_s(self) -> float:
        return self.events / self.seconds if self.seconds else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds left at the rate so far; None while there is no rate."""
        return (self.total - self.events) / self.events_per_s if self.events else None


Report = Callable[[Progress], None]


async def rebuild_and_compare(
    settings: Settings, views: Iterable[View], progress: Report | None = None
) -> list[ViewDifference]:
    """Rebuilds each view as far as its serving table has come, and compares row by row at equal positions.

    Readers notice nothing; the live view waits while the last records are read, and goes on before the rows are
    compared. The shadows are dropped again.
    """
    cluster = await kafka.cluster_id(settings)
    differences = []
    for view in views:
        shadow = Shadow(view, cluster, secrets.token_hex(4))
        async with await connect(settings, "projector_engine") as conn:
            await shadow.create(conn)
            try:
                differences.append(await _rebuild(settings, shadow, conn, progress or (lambda _: None)))
            finally:
                await shadow.drop(conn)
    return differences


async def _rebuild(
    settings: Settings, shadow: Shadow, conn: psycopg.AsyncConnection[Any], report: Report
) -> ViewDifference:
    view = shadow.view
    store = Store(view, shadow.table)
    await store.prepare(conn)
    partitions = await kafka.partitions_of(settings, kafka.topics_of(settings, view))
    engine = Engine(view, store, shadow.positions, conn, widths_of(partitions), keep_letters=False)
    async with (
        kafka.consumer(settings) as consumer,
        await connect(settings, "projector_engine") as beside,
    ):
        consumer.assign([TopicPartition(*partition) for partition in partitions])
        filler = Filler(view, engine, consumer, report)
        await kafka.check_range(consumer, shadow.positions.name, await engine.open(partitions))
        await filler.fill(await _serving_positions(beside, shadow))
        await shadow.protect(conn)
        async with beside.transaction():
            # The serving table stands still from here on, so both can come to the same offsets.
            await filler.fill(await _serving_positions(beside, shadow))
            await conn.execute("begin isolation level repeatable read")
            await conn.execute("select 1")  # takes the snapshot
        try:
            return await shadow.compare(conn)
        finally:
            await conn.execute("rollback")


async def _serving_positions(conn: psycopg.AsyncConnection[Any], shadow: Shadow) -> dict[Partition, int]:
    parameters = {"view": shadow.view.name, "cluster": shadow.positions.cluster}
    rows = await (await conn.execute(query("views/position_hold"), parameters)).fetchall()
    return {Partition(topic, partition): next_offset for topic, partition, next_offset in rows}


class Filler:
    """Reads partitions from where the engine is up to given offsets, and not one record further."""

    def __init__(self, view: View, engine: Engine, consumer: AIOKafkaConsumer, report: Report) -> None:
        self._view = view
        self._engine = engine
        self._consumer = consumer
        self._report = report
        self._changes = 0
        self._started = time.monotonic()

    async def fill(self, ends: Mapping[Partition, int]) -> None:
        """Returns when everything below `ends` is committed."""
        reported = 0.0
        pending = dict(ends)
        for partition in self._consumer.assignment():
            self._consumer.pause(partition)
        self._retire(pending)
        for partition in pending:
            self._consumer.seek(TopicPartition(*partition), self._engine.read_to(partition))
            self._consumer.resume(TopicPartition(*partition))
        while pending:
            fetched = await self._consumer.getmany(timeout_ms=POLL_MS)
            due = {p: [m for m in messages if m.offset < ends[p]] for p, messages in fetched.items() if p in pending}
            applied = await self._engine.apply(due)
            self._changes += applied.changes
            for partition, offset in applied.seek.items():
                self._consumer.seek(TopicPartition(*partition), offset)
            self._retire(pending)
            if time.monotonic() - reported >= REPORT_S:
                reported = time.monotonic()
                self._tell(ends)
        await self._engine.apply({}, flush=True)
        self._tell(ends)

    def _retire(self, pending: dict[Partition, int]) -> None:
        for partition in [p for p, end in pending.items() if self._engine.read_to(p) >= end]:
            del pending[partition]
            self._consumer.pause(TopicPartition(*partition))

    def _tell(self, ends: Mapping[Partition, int]) -> None:
        self._report(
            Progress(
                self._view.name,
                sum(min(self._engine.read_to(partition), end) for partition, end in ends.items()),
                sum(ends.values()),
                self._changes,
                time.monotonic() - self._started,
            )
        )
