"""Rows published out of the table: those of before the slot, of a gap, of an app that was added.

A fill is laid out in the snapshot of a slot: it takes every row that this snapshot shows and the topics lack, while the
slot's stream brings exactly the others. It works through users in order of their ids and through a user's rows in order
of (created_at, id), and keeps how far it came, so that a kill repeats nothing and loses nothing: on going on, the ids
that reached the topics since the last checkpoint are read from there and left out.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson
import psycopg
from aiokafka import AIOKafkaProducer
from psycopg import errors

from projector import crash, freeze
from projector.cdc import dead_letters
from projector.cdc.dead_letters import DeadLetter
from projector.cdc.fill_progress import FILL, KEEP_S, FillProgress
from projector.cdc.heartbeat import store
from projector.cdc.pace import Pace
from projector.cdc.progress import Progress
from projector.cdc.publisher import Headers, Publisher, record_size
from projector.cdc.pump import MAX_IN_FLIGHT_BYTES
from projector.cdc.rights import RIGHTS
from projector.cdc.rows import Row
from projector.cdc.seen import load_seen, read_ends, vanished
from projector.cdc.table import PAGE_ROWS, Cursor, TableReader
from projector.cdc.tail import Tails
from projector.cdc.writer import Writer
from projector.config import Settings
from projector.health.parts import at_work, moved
from projector.log.change import FILL_HEADER
from projector.log.place import lsn_text, parse_lsn
from projector.log.topics import Topics
from projector.log.watermark import Ends, Watermark
from projector.logging import get
from projector.metrics import CDC_DEAD_LETTERS, CDC_FILL_ROWS_LEFT, CDC_FILLED
from projector.sql import query
from projector.sql.connection import connect

Connection = psycopg.AsyncConnection[Any]

_TURN_ROWS = 100
_PAGE_S: Final = 2

log = get("cdc")


class Plan(NamedTuple):
    """What a fill shall publish: rows of `apps` whose transaction is not below `horizon`; every row when it is None.

    Change ids found in the topics at or above `skip_from` are left out; those of them that the table no longer has
    are published as erased.
    """

    reason: str
    apps: tuple[str, ...]
    horizon: int | None
    skip_from: Ends


@dataclass(slots=True)
class State:
    """A row of `mana_ai.cdc_fills`. `cursor` is the last row published, None before the first."""

    fill: int
    generation: int
    reason: str
    apps: list[str]
    lsn: int
    snapshot_xmin: str
    whole: bool
    skip_from: Ends
    filled_from: Ends
    filled_to: Ends
    started_at: int
    rows: int
    app: str | None
    cursor: Cursor | None


def beginning(tails: Tails) -> Ends:
    """All that the topics hold."""
    return {topic: [0] * len(ends) for topic, ends in tails.ends.items()}


async def require_rights(conn: Connection) -> None:
    """Raises HiddenRowsError when row-level security would leave rows out, PrivilegeError when a right is missing."""
    for right in RIGHTS:
        try:
            async with conn.transaction(force_rollback=True):
                await conn.execute(right.trial)
        except errors.InsufficientPrivilege as error:
            raise right.refused(error, conn.info.dbname) from error


async def lay_out(conn: Connection, generation: int, plan: Plan, lsn: int, ends: Ends) -> None:
    """Records the fill, in the transaction and the snapshot of the slot whose stream begins at `lsn`."""
    parameters = {
        "generation": generation,
        "reason": plan.reason,
        "apps": list(plan.apps),
        "lsn": lsn_text(lsn),
        "whole": plan.horizon is None,
        "skip_from": orjson.dumps(plan.skip_from).decode(),
        "ends": orjson.dumps(ends).decode(),
    }
    row = await (await conn.execute(query("cdc/add_fill"), parameters)).fetchone()
    assert row is not None
    listed = {"fill": row[0], "apps": list(plan.apps), "horizon": plan.horizon}
    await conn.execute(query("cdc/list_fill_rows"), listed)
    # Whatever the reason: a slot and records may be lost at once, and a kill while healing hides which it was.
    await conn.execute(query("cdc/take_positions_back"), [orjson.dumps(ends).decode()])


async def run_all(
    settings: Settings,
    generation: int,
    producer: AIOKafkaProducer,
    writer: Writer,
    stop: asyncio.Event,
) -> bool:
    """Carries out every fill that is not finished; False when `stop` was set meanwhile.

    Raises HiddenRowsError or PrivilegeError when the role may not, before the first row.
    """
    conn = writer.conn
    for (number,) in await (await conn.execute(query("cdc/unfinished_fills"), [generation])).fetchall():
        state = await _read_state(conn, number)
        reader = await connect(settings, "projector_cdc")
        try:
            await require_rights(reader)
            if not await Fill(state, conn, reader, settings, producer, writer).run(stop):
                return False
        finally:
            # Not as a context manager: one that is left in the middle of a COPY cannot commit.
            await reader.close()
    return True


async def _read_state(conn: Connection, number: int) -> State:
    row = await (await conn.execute(query("cdc/fill"), [number])).fetchone()
    assert row is not None
    fill, generation, reason, apps, lsn, xmin, whole, skip_from, filled_from, filled_to, started, rows = row[:12]
    app, user_id, created_at, change_id = row[12:]
    return State(
        fill=fill,
        generation=generation,
        reason=reason,
        apps=apps,
        lsn=parse_lsn(lsn),
        snapshot_xmin=xmin,
        whole=whole,
        skip_from=skip_from,
        filled_from=filled_from,
        filled_to=filled_to,
        started_at=started,
        rows=rows,
        app=app,
        cursor=None if user_id is None else Cursor(user_id, created_at, change_id),
    )


class Fill:
    """One fill at work. `conn` is the writer's session, `reader` one for the rows alone."""

    def __init__(
        self,
        state: State,
        conn: Connection,
        reader: Connection,
        settings: Settings,
        producer: AIOKafkaProducer,
        writer: Writer,
    ) -> None:
        self._state = state
        self._conn = conn
        self._reader = reader
        self._settings = settings
        self._producer = producer
        self._writer = writer
        self._topics = Topics(settings.topic_prefix)
        self._progress = Progress(0)
        self._told = FillProgress(conn, state.fill, state.reason)
        self._wake = asyncio.Event()
        self._source_header = ("source", b"%d" % state.generation)
        self._lsn_header = ("lsn", lsn_text(state.lsn).encode())
        self._fill_header = (FILL_HEADER, b"%d" % state.fill)
        self._first_row = state.rows
        self._total = 0
        self._letters: list[DeadLetter] = []
        limit = settings.fill_rows_per_s
        self._turn_rows = min(_TURN_ROWS, limit) if limit else _TURN_ROWS
        # However slow it is to be: the snapshot of a statement keeps the server from cleaning up after every writer.
        self._page_rows = min(PAGE_ROWS, limit * _PAGE_S) if limit else PAGE_ROWS
        self._turn_records = 0

    async def run(self, stop: asyncio.Event) -> bool:
        """Publishes what is left; False when `stop` was set before the end."""
        state = self._state
        ends = await read_ends(self._settings)
        self._publisher = Publisher(
            self._producer,
            self._progress,
            self._settings.topic_partitions,
            state.generation,
            Tails({}, ends, None),
            self._wake.set,
        )
        await self._reader.execute("set row_security = off")
        ranges = [(state.skip_from, state.filled_from), (state.filled_to, ends)]
        topics = [self._topics.changes(app) for app in state.apps]
        await load_seen(self._settings, self._reader, topics, ranges, self._told)
        table = await TableReader.open(
            self._reader,
            state.fill,
            state.snapshot_xmin,
            state.started_at,
            whole=state.whole,
            page_rows=self._page_rows,
        )
        apps = [app for app in sorted(state.apps) if state.app is None or app >= state.app]
        begun = state.app if state.app in apps else None  # which may have been left out since
        self._total = state.rows + await table.count(begun, state.cursor, [app for app in apps if app != begun])
        await table.walk_indexes(True)
        if self._total:
            log.info("fill begins", reason=state.reason, apps=state.apps, rows=state.rows, of=self._total)
        await self._told.begin("rows", self._total, done=state.rows)
        self._began = time.monotonic()
        self._pace = Pace(self._settings.fill_rows_per_s, self._began)
        for app in apps:
            if state.app != app:
                state.app, state.cursor = app, None
            with at_work(FILL, patience_s=self._longest_turn_s):
                if not await self._publish_app(table, app, stop):
                    return False
        await table.walk_indexes(False)
        if not await self._publish_erasures(stop):
            return False
        await self._finish()
        return True

    async def _publish_erasures(self, stop: asyncio.Event) -> bool:
        """Rows that were deleted while no slot could tell: topics hold them, and the log does not.

        How far it came is not kept: whoever goes on reads in the topics, from the end of the rows on, what was told.
        """
        created_ms = self._state.started_at // 1000
        count = 0
        async with aclosing(vanished(self._settings, self._reader)) as erasures:
            async for topic, record, total in erasures:
                if not count:
                    await self._told.begin("erasures", total)
                self._append(topic, created_ms, record)
                count += 1
                if count % self._turn_rows == 0:
                    await self._turn()
                    await self._told.keep(count)
                    if stop.is_set():
                        return False
        await self._flush()
        if count:
            log.info("erasures published", rows=count)
        return True

    async def _publish_app(self, table: TableReader, app: str, stop: asyncio.Event) -> bool:
        topic = self._topics.changes(app)
        state = self._state
        checkpoint = time.monotonic() + KEEP_S
        async for rows in table.rows(app, state.cursor):
            moved(FILL)
            for count, row in enumerate(rows, 1):
                state.cursor = row.cursor
                if row.record is not None:
                    self._append(topic, row.created_ms, row.record)
                    state.rows += 1
                if count % self._turn_rows == 0 or count == len(rows):
                    await self._turn()
                    self._told.tell(state.rows)
                    # Rows that are at hand already may take long when they are throttled.
                    if time.monotonic() >= checkpoint:
                        await self._checkpoint()
                        checkpoint = time.monotonic() + KEEP_S
                        if stop.is_set():
                            return False
        await self._checkpoint()
        return True

    def _append(self, topic: str, created_ms: int, record: Row) -> None:
        user_id, _, table, op, change_id, value = record
        headers: Headers = [
            self._source_header,
            self._lsn_header,
            ("ord", b"0"),
            ("op", op),
            ("table", table),
            ("id", change_id),
            self._fill_header,
        ]
        size = record_size(user_id, value, headers)
        if size > self._settings.max_message_bytes:
            place = (self._state.generation, self._state.lsn, 0)
            self._letters.append(
                DeadLetter(*place, topic, change_id.decode(), user_id.decode(), size, dead_letters.TOO_LARGE)
            )
            CDC_DEAD_LETTERS.labels(dead_letters.TOO_LARGE).inc()
            log.warning("record too large for its topic", id=change_id.decode(), bytes=size)
            return
        lane = self._publisher.lanes(topic).get(user_id) or self._publisher.find_lane(topic, user_id)
        self._publisher.append(lane, (self._state.lsn, 0), created_ms, user_id, value, headers)
        self._turn_records += 1

    @property
    def _longest_turn_s(self) -> float:
        limit = self._settings.fill_rows_per_s
        return self._turn_rows / limit if limit else 0.0

    async def _turn(self) -> None:
        """Sends, lets acknowledgements in, and waits while too much is in flight or too fast."""
        moved(FILL)
        await freeze.point("cdc.fill")
        await asyncio.sleep(0)
        await self._send()
        while self._publisher.octets >= MAX_IN_FLIGHT_BYTES:
            await self._acknowledgements()
        records, self._turn_records = self._turn_records, 0
        if wait_s := self._pace.wait_s(records, time.monotonic()):
            await asyncio.sleep(wait_s)

    async def _send(self) -> None:
        if self._publisher.failure is not None:
            raise self._publisher.failure
        if self._publisher.ready:
            await self._writer.make_sure()
            crash.point("cdc.fill_before_send")
            await self._publisher.send()

    async def _acknowledgements(self) -> None:
        self._wake.clear()
        await self._send()
        if self._progress.outstanding and not self._publisher.ready:
            await self._wake.wait()

    async def _flush(self) -> None:
        while self._progress.outstanding:
            await self._acknowledgements()

    async def _checkpoint(self) -> None:
        """Keeps how far it came, once all that was sent is acknowledged."""
        await self._flush()
        crash.point("cdc.fill_after_ack_before_checkpoint")
        letters, self._letters = self._letters, []
        if letters:
            await dead_letters.write(self._conn, letters)
        state = self._state
        cursor = state.cursor or Cursor(None, None, None)
        # Where no row was left, the end of the rows stays where it was: erasures may lie behind it.
        filled_to = state.filled_to if state.rows == self._first_row else self._publisher.ends
        parameters = [
            state.app,
            *cursor,
            state.rows,
            self._total,
            orjson.dumps(filled_to).decode(),
            state.fill,
        ]
        await self._conn.execute(query("cdc/fill_checkpoint"), parameters)
        CDC_FILL_ROWS_LEFT.set(max(self._total - state.rows, 0))
        crash.point("cdc.fill_after_checkpoint")

    async def _finish(self) -> None:
        """The horizon moves up to the fill's snapshot, unless other apps may be behind it."""
        state = self._state
        async with self._conn.transaction():
            await self._conn.execute(query("cdc/fill_finished"), [state.fill])
            await self._conn.execute(query("cdc/clear_fill_rows"), [state.fill])
            if state.reason != "app":
                await self._conn.execute(query("cdc/clear_watermarks"), [state.generation])
                watermark = Watermark(state.generation, state.lsn, state.started_at, None, self._publisher.ends)
                await store(self._conn, watermark, state.snapshot_xmin)
        crash.point("cdc.fill_finished")
        CDC_FILLED.labels(state.reason).inc(state.rows - self._first_row)
        CDC_FILL_ROWS_LEFT.set(0)
        if self._total:
            seconds = time.monotonic() - self._began
            log.info("fill finished", reason=state.reason, rows=state.rows, seconds=round(seconds, 1))
