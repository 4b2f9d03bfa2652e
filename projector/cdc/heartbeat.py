"""Heartbeats through the WAL, and the watermarks that they come back as.

Once a second, also on an idle database, a logical message goes through the slot. When it has come back and everything
before it is acknowledged, all that committed before it was sent is in the topics: a watermark says so. Any role may
emit a message under our prefix, so ours carry a secret of this session, and what they stand for stays in this process.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from asyncio import Future
from collections import deque
from functools import partial
from typing import Any, Final, NamedTuple

import orjson
import psycopg
from aiokafka import AIOKafkaProducer

from projector import crash, freeze
from projector.cdc.progress import Progress
from projector.cdc.publisher import Publisher
from projector.health.parts import at_work
from projector.log.place import lsn_text
from projector.log.watermark import KEY, Ends, Watermark, encode
from projector.metrics import CDC_WATERMARK_TIME
from projector.sql import query

PREFIX: Final = "projector.heartbeat"
BEATS: Final = "heartbeat"
"""The part that must move."""
DRY_INTERVAL_S: Final = 0.02
"""A stream that has run dry says so at most so often."""

_THIN_EVERY = 60
_MOST_PENDING = 1000


class _Beat(NamedTuple):
    number: int
    horizon: str
    at: int


class Heartbeat:
    """Sends heartbeats over `conn` and, through `producer`, a watermark for each that has come back.

    The stream tells what it sees: `heard` a message, `ended` its transaction, `step` after every acknowledgement.
    """

    def __init__(
        self,
        conn: psycopg.AsyncConnection[Any],
        producer: AIOKafkaProducer,
        publisher: Publisher,
        progress: Progress,
        *,
        source: int,
        topic: str,
        interval: float,
    ) -> None:
        self._conn = conn
        self._producer = producer
        self._publisher = publisher
        self._progress = progress
        self._source = source
        self._topic = topic
        self._interval = interval
        self._secret = secrets.token_hex(16)
        self._sent: dict[int, _Beat] = {}
        self._answered = 0
        self._open: int | None = None
        self._returned: deque[tuple[int, int]] = deque()
        self._last: _Beat | None = None
        self._in_flight = False
        self._marked_lsn = 0
        self._marked_at = 0.0
        self._vouched = 0
        self._published: list[tuple[Watermark, _Beat]] = []

    @property
    def is_awaited(self) -> bool:
        """Whether a heartbeat is on its way."""
        return bool(self._sent)

    def lag_s(self) -> float:
        """Everything that committed longer ago is in the topics; NaN before the first watermark of this session."""
        return max(0.0, time.time() - self._vouched / 1e6) if self._vouched else math.nan

    # In the database

    async def run(self) -> None:
        """Beats for ever; raises psycopg.Error."""
        with at_work(BEATS, patience_s=self._interval) as part:
            for count in range(1 << 62):
                part.moved()
                await freeze.point("cdc.heartbeat")
                await self._beat()
                if count % _THIN_EVERY == _THIN_EVERY - 1:
                    await self._conn.execute(query("cdc/thin_watermarks"))
                await asyncio.sleep(self._interval)

    async def _beat(self) -> None:
        published, self._published = self._published, []
        parameters = {
            "generation": self._source,
            "published": orjson.dumps([stored(watermark, beat.horizon) for watermark, beat in published]).decode(),
            "prefix": PREFIX,
            "secret": self._secret,
        }
        row = await (await self._conn.execute(query("cdc/beat"), parameters)).fetchone()
        assert row is not None
        beat = _Beat(*row[:3])
        self._sent[beat.number] = beat
        self._answered = beat.number
        self._publisher.wake()
        crash.point("cdc.heartbeat_sent")
        if len(self._sent) > _MOST_PENDING:
            # A stream that is far behind need not remember every beat: the next that comes back says more.
            self._sent = dict(list(self._sent.items())[::2])

    # In the stream

    def heard(self, content: bytes) -> None:
        """A heartbeat in the transaction being read; one that is not ours says nothing."""
        secret, _, number = content.partition(b":")
        if secrets.compare_digest(secret, self._secret.encode()) and number.isdigit():
            self._open = int(number)

    def ended(self, end_lsn: int) -> None:
        """The transaction being read is complete."""
        if self._open is not None:
            self._returned.append((end_lsn, self._open))
            self._open = None

    async def step(self, committed_at: int) -> float | None:
        """Publishes a watermark when there is one to tell.

        `committed_at` is the time of the newest transaction read (µs). Returns after how many seconds to ask again.
        """
        if self._in_flight:
            return None
        flushed = self._progress.flushed
        beat = None
        # A beat may come back before the database has answered which one it was.
        while self._returned and self._returned[0][0] <= flushed and self._returned[0][1] <= self._answered:
            beat = self._sent.pop(self._returned.popleft()[1], beat)
        last = self._last = beat or self._last
        if last is None:
            return None
        now = time.monotonic()
        if beat is None:
            if self._progress.outstanding or flushed <= self._marked_lsn or not committed_at:
                return None
            if (left := self._marked_at + DRY_INTERVAL_S - now) > 0:
                return left
        # What has been read counts only when nothing of it is outstanding; a heartbeat vouches for itself.
        self._vouched = max(self._vouched, committed_at if beat is None else beat.at)
        self._marked_lsn, self._marked_at = flushed, now
        watermark = Watermark(self._source, flushed, self._vouched, last.number, self._ends())
        crash.point("cdc.watermark_before_send")
        self._in_flight = True
        sent = await publish(self._producer, self._topic, watermark)
        sent.add_done_callback(partial(self._acknowledged, watermark, beat))
        return None

    def _ends(self) -> Ends:
        return {topic: list(ends) for topic, ends in self._publisher.ends.items()}

    def _acknowledged(self, watermark: Watermark, beat: _Beat | None, sent: Future[Any]) -> None:
        self._in_flight = False
        if sent.cancelled():
            return
        failure = sent.exception()
        if failure is not None:
            self._publisher.fail(failure)
            return
        crash.point("cdc.watermark_after_ack")
        CDC_WATERMARK_TIME.set(watermark.committed_at / 1e6)
        if beat is not None:
            self._published.append((watermark, beat))


async def publish(producer: AIOKafkaProducer, topic: str, watermark: Watermark) -> Future[Any]:
    """Sends one; the future is its acknowledgement."""
    builder = producer.create_batch()
    builder.append(timestamp=watermark.committed_at // 1000, key=KEY, value=encode(watermark), headers=[])
    sent: Future[Any] = await producer.send_batch(builder, topic, partition=0)
    return sent


async def store(conn: psycopg.AsyncConnection[Any], watermark: Watermark, horizon: str) -> None:
    """Keeps it in the database: every transaction below `horizon` (a 64-bit transaction id) is in the topics."""
    fields = stored(watermark, horizon)
    await conn.execute(
        query("cdc/add_watermark"),
        fields | {"generation": watermark.source, "ends": orjson.dumps(watermark.ends).decode()},
    )


def stored(watermark: Watermark, horizon: str) -> dict[str, Any]:
    """A row of `mana_ai.cdc_watermarks`, by column; `committed_at` in µs."""
    return {
        "lsn": lsn_text(watermark.lsn),
        "committed_at": watermark.committed_at,
        "horizon": horizon,
        "ends": watermark.ends,
    }
