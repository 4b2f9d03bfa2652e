"""How far behind a view is: the publisher's watermarks, held against what the view has applied."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from typing import Any

import psycopg
from aiokafka import TopicPartition

from projector import freeze, metrics
from projector.config import Settings
from projector.health.parts import at_work_on_topics
from projector.log.place import parse_lsn
from projector.log.topics import Topics
from projector.log.watermark import Watermark, decode
from projector.logging import get
from projector.sql import query
from projector.views import kafka
from projector.views.declared import View
from projector.views.positions import Partition

FOLLOWER = "watermarks"
"""What follows their topic for all views is named like one of them in log and metrics."""
PENDING = 1000
"""Watermarks that a view remembers until it reaches them: even, so that the newest stays when every other one goes."""
POLL_MS = 500

log = get("views")


async def follow(settings: Settings, stop: asyncio.Event) -> AsyncGenerator[Watermark, None]:
    """The newest watermark and all later ones, until `stop`; waits for the topic, which the publisher creates.

    Raises BrokerUnavailableError, BrokerRefusedError. To be closed by who leaves it early.
    """
    topic = Topics(settings.topic_prefix).watermarks
    if not await kafka.wait_for_topics(settings, [topic], stop):
        return
    async with kafka.consumer(settings, wait_ms=kafka.IDLE_WAIT_MS) as consumer:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        end = (await consumer.end_offsets([partition]))[partition]
        position = max(0, end - 1)
        consumer.seek(partition, position)
        with at_work_on_topics(FOLLOWER, lambda: {(topic, 0): position}):
            while not stop.is_set():
                await freeze.point("views.watermarks")
                for message in (await consumer.getmany(partition, timeout_ms=POLL_MS)).get(partition, ()):
                    position = message.offset + 1
                    try:
                        mark = decode(message.value)
                    except (KeyError, TypeError, ValueError) as error:
                        log.warning("no watermark", topic=topic, offset=message.offset, error=repr(error))
                    else:
                        yield mark


async def watch(settings: Settings, views: Collection[Staleness], stop: asyncio.Event) -> None:
    """Gives every watermark to each of `views` until `stop`."""
    async with aclosing(follow(settings, stop)) as marks:
        async for mark in marks:
            for view in views:
                view.add(mark)


class Staleness:
    """Turns watermarks into one number for one view, as far as this process works for it.

    What committed before the newest watermark whose ends the view has applied is in its rows, so the view is as old
    as that watermark. When it has reached none of those that are known, it is at least as old as the oldest of them.
    The number is worked out anew each time it is asked for, so it grows while nothing is applied.
    """

    def __init__(self, view: View) -> None:
        self._view = view.name
        self._applied_to: Mapping[Partition, int] = {}
        self._pending: deque[Watermark] = deque()
        self._gap_us = 0
        self._latest: Watermark | None = None
        self._reached: Watermark | None = None
        self._since_us: int | None = None
        # Asked for by another thread: it must touch nothing but one attribute.
        metrics.VIEW_STALENESS_SECONDS.labels(view.name).set_function(self.seconds)

    def seconds(self) -> float:
        """The view shows everything that committed longer ago than this; NaN when nothing is known."""
        since = self._since_us
        return math.nan if since is None else max(0.0, time.time() - since / 1e6)

    async def begin(self, conn: psycopg.AsyncConnection[Any], applied_to: Mapping[Partition, int]) -> None:
        """Starts over with the partitions of `applied_to`, which holds their next offsets and is kept up to date.

        The stored watermarks tell how old a view is that begins far behind.
        """
        stored = await (await conn.execute(query("views/watermarks"), {"limit": PENDING})).fetchall()
        latest, self._latest = self._latest, None
        self._applied_to = applied_to
        self._pending.clear()
        self._reached = self._since_us = None
        for source, lsn, committed_at, ends in reversed(stored):
            self._queue(Watermark(source, parse_lsn(lsn), committed_at, None, ends))
        if latest is not None:
            self._queue(latest)
        self._show()

    def add(self, mark: Watermark) -> None:
        """Takes one watermark from the topic."""
        self._queue(mark)
        self._show()

    def advance(self) -> None:
        """To be called when the view has applied something."""
        if self._pending:
            self._show()

    def _queue(self, mark: Watermark) -> None:
        latest = self._latest
        if latest is not None and mark[:3] <= latest[:3]:
            # Known from the table, or from a publisher that has not noticed that its time is over.
            return
        self._latest = mark
        if latest is not None and (mark.source != latest.source or _goes_back(latest, mark)):
            # Topics may have been made anew: ends from before may never be reached.
            self._pending.clear()
        if all(_end(mark, partition) is not None for partition in self._applied_to):
            self._keep(mark)

    def _keep(self, mark: Watermark) -> None:
        """The newest always; of those before it, no more than there is room for, evenly over their time."""
        pending = self._pending
        if not pending:
            self._gap_us = 0
        if len(pending) > 1 and mark.committed_at - pending[-2].committed_at < self._gap_us:
            pending[-1] = mark
            return
        pending.append(mark)
        if len(pending) > PENDING:
            self._gap_us = 2 * (mark.committed_at - pending[0].committed_at) // PENDING
            self._pending = deque(list(pending)[::2])

    def _show(self) -> None:
        """Between two calls of the engine, or during one: what it holds as applied is committed at any moment."""
        if not self._applied_to:
            # Between two assignments, or after a failure: then what was said before goes on to hold.
            return
        pending = self._pending
        while pending and _reached(pending[0], self._applied_to):
            self._reached = pending.popleft()
            metrics.VIEW_APPLIED_LSN.labels(self._view).set(self._reached.lsn)
        oldest = self._reached or (pending[0] if pending else None)
        self._since_us = None if oldest is None else oldest.committed_at


def _end(mark: Watermark, partition: Partition) -> int | None:
    """None when the watermark says nothing about the partition: its app is not published, or was not then."""
    ends = mark.ends.get(partition.topic, ())
    return ends[partition.partition] if partition.partition < len(ends) else None


def _reached(mark: Watermark, applied_to: Mapping[Partition, int]) -> bool:
    for partition, offset in applied_to.items():
        end = _end(mark, partition)
        if end is None or offset < end:
            return False
    return True


def _goes_back(before: Watermark, after: Watermark) -> bool:
    return any(
        later < earlier
        for topic, ends in before.ends.items()
        for earlier, later in zip(ends, after.ends.get(topic, ()), strict=False)
    )
