"""A log for tests of the views: rows go into sync_changes and into their topic, as the publisher writes them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any
from uuid import UUID

import orjson
import psycopg
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from psycopg import sql

from projector.config import Settings
from projector.log.place import lsn_text
from projector.log.topics import Topics, partition_of
from projector.log.watermark import KEY, Ends, Watermark, encode
from projector.sql.connection import connect
from projector.views.declared import VIEWS, View
from projector.views.wait import wait_for_offset
from streams.views import run

COLUMNS = (
    *("id", "app_id", "table_name", "record_id", "user_id", "op", "data", "field_meta"),
    *("client_id", "created_at", "schema_version", "actor", "origin", "space_id"),
)
JSON_COLUMNS = ("data", "field_meta", "actor")
START = datetime.fromisoformat("2026-06-01T10:00:00Z").timestamp()

FIRST_LSN = 0x1000000

Row = dict[str, Any]


def at(seconds: float) -> str:
    """`seconds` after a common start, as a stamp."""
    return datetime.fromtimestamp(START + seconds, UTC).isoformat()[:19] + ".000Z"


_numbers = iter(range(1, 1 << 40))


def row(
    op: str,
    record_id: str,
    created: float,
    data: Any,
    stamp: float | None = None,
    *,
    user_id: str = "u1",
    app_id: str = "ai",
    table: str = "aiMissions",
    **more: Any,
) -> Row:
    """A row created `created` seconds after the start, an update with its keys stamped alike."""
    meta = dict.fromkeys(data, at(created if stamp is None else stamp)) if op == "update" else {}
    columns = {
        "id": str(UUID(int=next(_numbers))),
        "app_id": app_id,
        "table_name": table,
        "record_id": record_id,
        "user_id": user_id,
        "op": op,
        "data": data,
        "field_meta": meta,
        "client_id": "c1",
        "created_at": at(created)[:19] + ".000000Z",
        "schema_version": 1,
        "actor": None,
        "origin": None,
        "space_id": None,
    }
    return columns | more


def early_deletes(chance: Random, record_id: str) -> list[Row]:
    """A few deletes of which most come before all other rows, with times in any order."""
    times = [*map(at, range(1, 9)), "soon"]
    return [
        row("delete", record_id, chance.choice((0, 0, 1, 2)), {"deletedAt": chance.choice(times)})
        for _ in range(chance.randint(1, 4))
    ]


def value_of(row: Row) -> bytes:
    """The value of the row's record: columns in the table's order, `created_at` with six digits."""
    return orjson.dumps({name: row[name] for name in COLUMNS})


def written(view: View) -> sql.Composed:
    """The columns of the view's table, but for those that the server makes itself."""
    return sql.SQL(", ").join(map(sql.Identifier, view.all_columns))


@dataclass
class Log:
    """`ends` are the next offsets by (topic, partition)."""

    settings: Settings
    admin: psycopg.AsyncConnection[Any]
    producer: AIOKafkaProducer
    ends: dict[tuple[str, int], int] = field(default_factory=dict)
    lsn: int = FIRST_LSN

    async def store(self, rows: Iterable[Row]) -> None:
        """Into sync_changes alone."""
        names = ", ".join(COLUMNS)
        async with self.admin.cursor() as cursor, cursor.copy(f"copy sync_changes ({names}) from stdin") as copy:
            for one in rows:
                await copy.write_row(
                    [
                        orjson.dumps(one[name]).decode()
                        if name in JSON_COLUMNS and one[name] is not None
                        else one[name]
                        for name in COLUMNS
                    ]
                )

    async def publish(self, rows: Iterable[Row]) -> None:
        """Into the topics alone."""
        sends = []
        for one in rows:
            value = value_of(one)
            sends.append(await self.send(one["app_id"], one["user_id"], value, one["op"], one["table_name"], one["id"]))
        await self._settle(sends)

    async def publish_below(self, lsn: int, rows: Iterable[Row]) -> None:
        """Into the topics alone, with places up to `lsn`, as a writer that was paused does it when it wakes."""
        rows, newest = list(rows), self.lsn
        self.lsn = lsn - 0x100 * len(rows)
        await self.publish(rows)
        self.lsn = newest

    async def write(self, rows: Sequence[Row]) -> None:
        """Into both, as a committed change ends up."""
        await self.store(rows)
        await self.publish(rows)

    async def erase(self, row: Row) -> None:
        """Deletes the row from sync_changes and says so in the topic."""
        await self.admin.execute("delete from sync_changes where id = %s", [row["id"]])
        identity = {name: row[name] for name in ("id", "app_id", "table_name", "record_id", "user_id")}
        value = orjson.dumps({**identity, "op": "erased"})
        sent = await self.send(row["app_id"], row["user_id"], value, "erased", row["table_name"], row["id"])
        await self._settle([sent])

    async def truncate(self) -> None:
        """Deletes every row of sync_changes and says so in every partition."""
        await self.admin.execute("truncate sync_changes")
        await self.say_truncated()

    async def say_truncated(self, app_id: str | None = None, partition: int | None = None) -> None:
        """The records of a truncation alone, in one app or partition or in all."""
        self.lsn += 0x100
        headers = self._headers("truncated")
        apps = self.settings.apps if app_id is None else (app_id,)
        partitions = range(self.settings.topic_partitions) if partition is None else (partition,)
        await self._settle(
            [
                await self.producer.send(
                    Topics(self.settings.topic_prefix).changes(app),
                    b'{"op":"truncated"}',
                    partition=number,
                    headers=headers,
                )
                for app in apps
                for number in partitions
            ]
        )

    async def fill(self, rows: Iterable[Row], timestamp_ms: int | None = None) -> None:
        """Into the topics alone, as rows that were published out of the table: all at one place, without a time.

        `timestamp_ms` is that of the records, now by default; a real fill takes each row's `created_at`.
        """
        kept = ("source", "lsn", "ord", "op")
        sends = []
        for one in rows:
            headers = [(name, value) for name, value in self._headers(one["op"]) if name in kept]
            headers += [(name, one[column].encode()) for name, column in (("table", "table_name"), ("id", "id"))]
            headers.append(("fill", b"1"))
            sends.append(await self._produce(one["app_id"], one["user_id"], value_of(one), headers, timestamp_ms))
        await self._settle(sends)

    async def make_watermarks(self) -> None:
        """Creates the topic of the watermarks."""
        await _create(self.settings, [NewTopic(Topics(self.settings.topic_prefix).watermarks, 1, 1)])

    async def watermark(self, lsn: int, committed_at: float, ends: Ends | None = None, source: int = 1) -> Watermark:
        """Writes one, as of now unless `ends` says otherwise; `committed_at` in seconds since 1970."""
        mark = Watermark(source, lsn, round(committed_at * 1e6), None, self.all_ends() if ends is None else ends)
        await self.producer.send_and_wait(Topics(self.settings.topic_prefix).watermarks, encode(mark), KEY, partition=0)
        return mark

    def all_ends(self) -> Ends:
        """The next offsets of every partition, as a watermark carries them."""
        topics = Topics(self.settings.topic_prefix).all(self.settings.apps)
        partitions = range(self.settings.topic_partitions)
        return {topic: [self.ends.get((topic, partition), 0) for partition in partitions] for topic in topics}

    def _headers(self, op: str) -> list[tuple[str, bytes]]:
        # A commit a second, as far apart as their LSNs.
        ts = round(START * 1e6) + (self.lsn - FIRST_LSN) // 0x100 * 1_000_000
        place = {"source": "1", "lsn": lsn_text(self.lsn), "ord": "0", "xid": "700", "ts": str(ts), "op": op}
        return [(name, text.encode()) for name, text in place.items()]

    async def _produce(
        self,
        app_id: str,
        user_id: str,
        value: bytes | None,
        headers: list[tuple[str, bytes]],
        timestamp_ms: int | None = None,
    ) -> asyncio.Future[Any]:
        key = user_id.encode()
        return await self.producer.send(
            Topics(self.settings.topic_prefix).changes(app_id),
            value,
            key,
            partition=partition_of(key, self.settings.topic_partitions),
            headers=headers,
            timestamp_ms=timestamp_ms,
        )

    async def send(
        self, app_id: str, user_id: str, value: bytes | None, op: str, table: str | None, change_id: str
    ) -> asyncio.Future[Any]:
        """One record with the headers of a place of its own."""
        self.lsn += 0x100
        headers = self._headers(op)
        if table is not None:
            headers.append(("table", table.encode()))
        headers.append(("id", change_id.encode()))
        return await self._produce(app_id, user_id, value, headers)

    async def poison(self, value: bytes | None, *, user_id: str = "u1", table: str | None = "aiMissions") -> None:
        """A record of app `ai` whose value nobody can fold."""
        await self._settle([await self.send("ai", user_id, value, "update", table, str(UUID(int=next(_numbers))))])

    async def _settle(self, sends: Sequence[asyncio.Future[Any]]) -> None:
        for sent in sends:
            meta = await sent
            place = (meta.topic, meta.partition)
            self.ends[place] = max(self.ends.get(place, 0), meta.offset + 1)

    async def caught_up(self, *views: View, timeout: float = 30) -> None:
        """Waits until the views (all of them by default) have applied everything sent."""
        async with await connect(self.settings, "projector_reader") as conn:
            for view in views or VIEWS.values():
                apps = view.apps(self.settings.apps)
                topics = {Topics(self.settings.topic_prefix).changes(app) for app in apps}
                ends = {place: end for place, end in self.ends.items() if place[0] in topics}
                await wait_for_offset(conn, view, ends, timeout)


async def _create(settings: Settings, topics: list[NewTopic]) -> None:
    client = AIOKafkaAdminClient(bootstrap_servers=settings.require_kafka())
    await client.start()
    try:
        await client.create_topics(topics)
    finally:
        await client.close()


@asynccontextmanager
async def open_log(settings: Settings) -> AsyncIterator[Log]:
    """Makes the topics, and a producer for them."""
    topics = Topics(settings.topic_prefix)
    await _create(settings, [NewTopic(topics.changes(app), settings.topic_partitions, 1) for app in settings.apps])
    producer = AIOKafkaProducer(bootstrap_servers=settings.require_kafka())
    await producer.start()
    try:
        async with await psycopg.AsyncConnection.connect(settings.admin_url, autocommit=True) as admin:
            yield Log(settings, admin, producer)
    finally:
        await producer.stop()


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[asyncio.Task[None]]:
    """The views at work; ended in the ordinary way, so that what went wrong is raised."""
    stop = asyncio.Event()
    task = asyncio.create_task(run(settings, stop))
    try:
        yield task
    finally:
        stop.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, 20)
