"""One view at work: a member of a consumer group that folds what its partitions bring."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Collection, Mapping
from typing import Any

import psycopg
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from projector import freeze, metrics
from projector.config import Settings
from projector.health.parts import at_work, at_work_on_topics, moved, never
from projector.logging import get
from projector.sql.connection import connect
from projector.views import kafka
from projector.views.batch import Applied
from projector.views.declared import View
from projector.views.engine import Engine
from projector.views.positions import Partition, Positions, widths_of
from projector.views.topic_ids import topic_ids
from projector.views.watermarks import Staleness

POLL_MS = 500
"""How late an idle view notices that it is to stop."""
FETCH_RECORDS = 2_000
"""At most so many records are folded before the group's heartbeat may have its turn."""
GATHER_S = 0.005
"""The shortest time from one fetch to the next. It bounds what fetches cost when changes come one by one without a
pause; a change that comes alone never waits for it."""
BEHIND_RECORDS = 2_000
BATCH_BYTES = 96 * 1024 * 1024
BATCH_S = 10.0
"""A view with so many records ahead of it gathers changes up to these limits: many of a record become one row."""
GROUP_COMMIT_S = 1.0

log = get("views")


class Rebalance(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Opens and releases partitions as the group hands them out, never in the middle of a batch."""

    def __init__(
        self,
        settings: Settings,
        view: View,
        engine: Engine,
        consumer: AIOKafkaConsumer,
        conn: psycopg.AsyncConnection[Any],
        staleness: Staleness,
    ) -> None:
        self.lock = asyncio.Lock()
        self._settings = settings
        self._view = view
        self._engine = engine
        self._consumer = consumer
        self._conn = conn
        self._staleness = staleness
        self._failure: BaseException | None = None
        self._begun = False

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        try:
            async with self.lock:
                await self._engine.commit(flush=True)
                self._engine.release(Partition(*partition) for partition in revoked)
        except Exception as error:
            self._failure = error
        if revoked:
            log.info("partitions released", view=self._view.name, partitions=len(revoked))

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        try:
            ids = await topic_ids(self._settings, {partition.topic for partition in assigned})
            async with self.lock:
                offsets = await self._engine.open((Partition(*partition) for partition in assigned), ids)
                await self._staleness.begin(self._conn, self._engine.applied_to)
            await kafka.check_range(self._consumer, self._view.name, offsets)
            for partition, offset in offsets.items():
                self._consumer.seek(TopicPartition(*partition), offset)
        except Exception as error:
            # aiokafka would only log it: the loop raises it.
            self._failure = error
        else:
            self._begun = True
            log.info("ready", view=self._view.name, partitions=len(offsets))

    def lag_s(self) -> float:
        """How old what this process shows is; NaN until the group has given it its share, which may be nothing."""
        if not self._begun:
            return math.nan
        return self._staleness.seconds() if self._engine.applied_to else 0.0

    def raise_failure(self) -> None:
        """Raises what went wrong in the group's callbacks."""
        if self._failure is not None:
            raise self._failure


async def consume(settings: Settings, view: View, staleness: Staleness, stop: asyncio.Event) -> None:
    """Runs `view` until `stop`, and tells `staleness` how far it is.

    Any exception ends it with nothing half-done; begin again with a new call.
    """
    topics = kafka.topics_of(settings, view)
    if not topics:
        log.warning("none of the configured apps has records of this view", view=view.name)
        with at_work(view.name, never):
            await stop.wait()
        return
    if not await kafka.wait_for_topics(settings, topics, stop):
        return
    positions = Positions(view.name, await kafka.cluster_id(settings))
    group = f"{settings.topic_prefix}.views.{view.name}"
    async with (
        await connect(settings, "projector_engine") as conn,
        await connect(settings, "projector_engine") as reading,
        kafka.consumer(settings, group, wait_ms=kafka.IDLE_WAIT_MS) as consumer,
    ):
        # A row that a crash of the server takes back goes with its position, and is folded again.
        await conn.execute("set synchronous_commit = off")
        engine = Engine(view, positions, conn, widths_of(await kafka.partitions_of(settings, topics)), reading=reading)
        listener = Rebalance(settings, view, engine, consumer, reading, staleness)
        consumer.subscribe(topics, listener=listener)
        with metrics.VIEW_RUNNING.labels(view.name).track_inprogress():
            try:
                with at_work_on_topics(view.name, lambda: engine.applied_to, lag_s=listener.lag_s):
                    await _loop(engine, listener, consumer, staleness, stop)
            finally:
                await engine.abandon()


async def _loop(
    engine: Engine, listener: Rebalance, consumer: AIOKafkaConsumer, staleness: Staleness, stop: asyncio.Event
) -> None:
    applied_to: dict[Partition, int] = {}
    behind = False
    told_at = committed_at = time.monotonic()
    while not stop.is_set():
        await freeze.point(f"views.{engine.name}")
        asked_at = time.monotonic()
        consumer.resume(*consumer.paused())
        fetched = await consumer.getmany(timeout_ms=POLL_MS, max_records=FETCH_RECORDS)
        if not behind:
            # The next fetch is sent when it is wanted: its answer would lie here while these are written, and what
            # comes meanwhile would have to wait for yet another.
            consumer.pause(*consumer.assignment())
        listener.raise_failure()
        async with listener.lock:
            applied = Applied(seek=await engine.take(fetched))
            behind = bool(fetched) and _lag(consumer, engine) >= BEHIND_RECORDS
            if behind:
                moved(engine.name)  # what it takes in shows in its offsets later
            now = time.monotonic()
            if not behind or engine.waiting_octets >= BATCH_BYTES or now - committed_at >= BATCH_S:
                applied += await engine.commit(wait=not behind)
                committed_at = now
        staleness.advance()
        for partition, offset in applied.seek.items():
            if TopicPartition(*partition) in consumer.assignment():
                consumer.seek(TopicPartition(*partition), offset)
        applied_to.update(applied.committed)
        if applied_to and now - told_at >= GROUP_COMMIT_S:
            await _tell_group(consumer, applied_to)
            applied_to.clear()
            told_at = now
        # Records that wait in the consumer are handed out without a pause: heartbeats need one.
        await asyncio.sleep(0 if behind else max(0.0, asked_at + GATHER_S - time.monotonic()))
    async with listener.lock:
        applied_to.update((await engine.commit(flush=True)).committed)
    await _tell_group(consumer, applied_to)


def _lag(consumer: AIOKafkaConsumer, engine: Engine) -> int:
    """How many records were ahead of the engine when the broker last answered."""
    assigned = consumer.assignment()
    return sum(
        max(0, (consumer.highwater(TopicPartition(*partition)) or 0) - engine.read_to(partition))
        for partition in engine.partitions
        if partition in assigned
    )


async def _tell_group(consumer: AIOKafkaConsumer, applied_to: Mapping[Partition, int]) -> None:
    """Offsets for tools that show the group's lag; nothing reads them back."""
    mine = {
        TopicPartition(*p): offset for p, offset in applied_to.items() if TopicPartition(*p) in consumer.assignment()
    }
    if not mine:
        return
    try:
        await consumer.commit(mine)
    except (CommitFailedError, IllegalStateError, KafkaError) as error:
        log.info("group offsets not committed; the next commit includes them", error=str(error))
