"""A log as real devices write it, the same for the same seed, as records of the topics and as rows of the table.

Keys of updates are paths, the arrays of a record ride along with every update of it and are most of the bytes, a row
has one stamp, one update in forty is empty, records are deleted and restored. A row is 600 to 900 bytes as a record.
The next change goes to any record with equal chance, which is the hard case: hardly two of one batch meet in a row.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg
from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import RecordMetadata

from projector.cdc.producer import start_producer, stop_producer
from projector.cdc.topics import ensure_topics
from projector.config import Settings
from projector.log.place import lsn_text
from projector.log.topics import Topics, partition_of

SEED = 7
START_US = 1_790_000_000_000_000
MEAN_STEP_US = 50_000
EMPTY, DELETED, RESTORED, NEW_ITEM, LATE_INSERT, LATE_ROW = 0.025, 0.01, 0.3, 0.1, 0.01, 0.012
"""Shares: of updates, of changes, of what comes next for a deleted record, of updates, of records, of rows."""
LATE_US = 200_000
YEAR_US = 365 * 86_400 * 1_000_000
PAYLOAD = (
    b'{"id":"%b","app_id":"%b","table_name":"%b","record_id":"%b","user_id":"%b","op":"%b","data":%b,"field_meta":%b,'
    b'"client_id":"%b","created_at":"%b","schema_version":1,"actor":%b,"origin":null,"space_id":%b}'
)
CLIENT = b"0b8c2f0e-54a1-4c55-9f38-0a5f6c1d2e3f"

Rng = random.Random
Make = Callable[[Rng, bytes], bytes]
"""Given the row's own stamp, a JSON value."""


class Row(NamedTuple):
    """Columns of `sync_changes` as UTF-8; `data`, `field_meta` and `actor` are JSON, `space_id` a JSON value."""

    id: bytes
    app_id: bytes
    table: bytes
    record_id: bytes
    user_id: bytes
    op: bytes
    data: bytes
    field_meta: bytes
    created_at: bytes
    actor: bytes
    space_id: bytes
    created_us: int

    def value(self) -> bytes:
        """The value of its record, columns in the order in which the change stream writes them."""
        start, end = self[:8], self[9:11]
        return PAYLOAD % (*start, CLIENT, self.created_at, *end)


@dataclass(frozen=True)
class Kind:
    """Records of one table: the fields of an insert, the edits that updates make, the arrays that ride along."""

    app: str
    table: str
    share: float
    fields: Mapping[str, Make]
    edits: tuple[Mapping[str, Make], ...]
    arrays: Mapping[str, tuple[bytes, int]]
    """By name: the template of an item, and how many there are at most."""


def _text(*words: str) -> Make:
    said = [f'"{word}"'.encode() for word in words]
    return lambda rng, stamp: said[int(rng.random() * len(said))]


def _number(limit: int) -> Make:
    return lambda rng, stamp: b"%d" % (rng.random() * limit)


def _just(value: bytes) -> Make:
    return lambda rng, stamp: value


def _now(rng: Rng, stamp: bytes) -> bytes:
    return b'"%b"' % stamp


def _words(rng: Rng, stamp: bytes) -> bytes:
    """Text with what a JSON text has to escape."""
    return b'"# Plan %d\\n\\nWhat matters \\"today\\": Pflanzen gie\xc3\x9fen, then rest."' % (rng.random() * 1000)


_ITERATION = (
    b'{"id": "it-%d", "startedAt": "2026-09-21T10:00:00.000Z", "status": "awaiting-review", "plan": [{"id": "step-1",'
    b' "summary": "Look at the list and say what is due", "intent": {"kind": "toolCall"}, "status": "planned"}]}'
)
_INPUT = b'{"id": "note-%d", "table": "notes", "module": "notes"}'
_STEP = b'{"id": "s-%d", "done": false, "title": "Call them and ask for the date", "order": 3}'

MISSION = Kind(
    "ai",
    "aiMissions",
    0.10,
    {
        "title": _text("Water the plants", "Tidy the desk", "Plan the week"),
        "objective": _text("Every morning, look at what is due and say it"),
        "conceptMarkdown": _words,
        "state": _text("active"),
        "agentId": _text("agent-1", "agent-2", "agent-3"),
        "cadence": _just(b'{"kind": "daily", "atHour": 8, "atMinute": 30}'),
        "nextRunAt": _now,
    },
    (
        {"title": _text("Water the plants", "Water plants", "Tidy up")},
        {"cadence.atHour": _number(24), "cadence.atMinute": _just(b"null")},
        {"state": _text("active", "paused"), "nextRunAt": _now},
        {"conceptMarkdown": _words},
    ),
    {"inputs": (_INPUT, 2), "iterations": (_ITERATION, 2)},
)
AGENT = Kind(
    "ai",
    "agents",
    0.05,
    {
        "name": _text("Mana", "Gardener", "Scout"),
        "role": _text("Helps with the household and says what is due"),
        "state": _text("active"),
        "systemPrompt": _words,
        "policy": _just(b'{"tools": {"create_task": "propose", "add_note": "auto"}, "defaultPolicy": "propose"}'),
    },
    (
        {"policy.tools.create_task": _text("auto", "propose", "deny")},
        {"policy.tools.add_note": _text("auto", "deny"), "policy.defaultPolicy": _text("propose")},
        {"systemPrompt": _words},
        {"state": _text("active", "paused")},
    ),
    {"scopeTagIds": (b'"tag-%d-with-an-id-of-its-own-0a5f6c1d"', 6)},
)
TASK = Kind(
    "todo",
    "tasks",
    0.45,
    {
        "title": _text("Buy bread", "Call the bank", "Send the form"),
        "description": _words,
        "isCompleted": _just(b"false"),
        "priority": _text("low", "medium", "high"),
        "order": _number(1000),
        "metadata": _just(b'{"storyPoints": 3, "fun": 5}'),
    },
    (
        {"title": _text("Buy bread", "Call the bank again", "Send the form")},
        {"isCompleted": _just(b"true"), "completedAt": _now},
        {"order": _number(1000)},
        {"metadata.fun": _number(10), "metadata.storyPoints": _number(13)},
    ),
    {"subtasks": (_STEP, 4), "labelIds": (b'"label-%d"', 3)},
)
NOTE = Kind(
    "notes",
    "notes",
    0.25,
    {"title": _text("Shopping", "Ideas"), "content": _words, "isPinned": _just(b"false"), "color": _text("yellow")},
    ({"content": _words, "title": _text("Shopping", "Ideas", "Letters")}, {"isPinned": _just(b"true")}),
    {"linkedItems": (_INPUT, 5)},
)
EVENT = Kind(
    "calendar",
    "events",
    0.15,
    {
        "title": _text("Dentist", "Choir", "Dinner"),
        "startDate": _now,
        "endDate": _now,
        "allDay": _just(b"false"),
        "recurrence": _just(b'{"freq": "weekly", "interval": 1}'),
    },
    (
        {"startDate": _now, "endDate": _now},
        {"recurrence.interval": _number(4), "recurrence.until": _just(b"null")},
        {"title": _text("Dentist", "Choir", "Dinner with all")},
    ),
    {"attendees": (_STEP, 4)},
)
KINDS = (MISSION, AGENT, TASK, NOTE, EVENT)
APPS = tuple(dict.fromkeys(kind.app for kind in KINDS))


class _Template:
    """What one sort of row of a kind holds: only values and stamps are filled in."""

    def __init__(self, fields: Mapping[str, Make], arrays: Iterable[str], around: bytes = b"%b") -> None:
        self.makes = tuple(fields.values())
        names = [name.encode() for name in (*fields, *arrays)]
        self.data = b"{%b}" % (around % b", ".join(b'"%b": %%b' % name for name in names))
        self.meta = b"{%b}" % b", ".join(b'"%b": "%%b"' % name for name in names)
        self.stamps = len(names)


class _Table:
    """A kind with its templates and the items that its arrays are made of."""

    def __init__(self, kind: Kind, items: int) -> None:
        self.app, self.name = kind.app.encode(), kind.table.encode()
        self.insert = _Template(kind.fields, kind.arrays, b'"id": "%%b", %b, "createdAt": "%%b", "updatedAt": "%%b"')
        self.edits = tuple(_Template(edit, kind.arrays) for edit in kind.edits)
        self.restore = _Template({"deletedAt": _just(b"null")}, kind.arrays)
        self.arrays = tuple(
            ([template % number if b"%d" in template else template for number in range(items)], most)
            for template, most in kind.arrays.values()
        )


class _Record:
    __slots__ = ("actor", "arrays", "born", "deleted", "late_insert", "record_id", "space_id", "table", "user_id")

    def __init__(self, table: _Table, number: int, user: int, late_insert: bool) -> None:
        self.table = table
        self.record_id = b"%b-%d" % (table.name, number)
        self.user_id = b"user-%d" % user
        self.space_id = b'"space-%d"' % user
        self.actor = b'{"kind": "user", "displayName": "You", "principalId": "user-%d"}' % user
        self.arrays: list[bytes] = []
        self.late_insert = late_insert
        self.born = self.deleted = False


class History:
    """Changes of `records` records of `users` users, one after another without an end: take as many as are wanted."""

    def __init__(
        self,
        records: int,
        users: int = 2_000,
        seed: int = SEED,
        kinds: tuple[Kind, ...] = KINDS,
        later: int = 0,
        items: int = 50,
    ) -> None:
        """With `later` the same records, each inserted before, some years on: another part for every number.

        Every array of a record is made of `items` different ones, so a record has met all of them after a while.
        """
        rng = random.Random(seed)
        self._now_us = START_US + later * YEAR_US
        self._second = b""
        self._second_us = -1
        tables = rng.choices([_Table(kind, items) for kind in kinds], [kind.share for kind in kinds], k=records)
        self._records = [
            _Record(table, number, int(rng.random() * users), rng.random() < LATE_INSERT)
            for number, table in enumerate(tables)
        ]
        for record in self._records if later else ():
            record.born = True
        self._rng = random.Random(seed + later)

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        random = self._rng.random
        record = self._records[int(random() * len(self._records))]
        table = record.table
        self._now_us += int(random() * 2 * MEAN_STEP_US)
        created_us = self._now_us - LATE_US if random() < LATE_ROW else self._now_us
        second, micros = divmod(created_us, 1_000_000)
        if second != self._second_us:
            self._second_us = second
            self._second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        created_at = b"%b.%06dZ" % (self._second, micros)
        stamp = created_at[:23] + b"Z"
        op, meta = b"update", b"{}"
        if not record.born and not record.late_insert:
            record.born = True
            op, data = b"insert", self._insert(record, stamp)
        else:
            record.late_insert = False
            if record.deleted and random() < RESTORED:
                record.deleted = False
                data, meta = self._update(record, table.restore, stamp)
            elif not record.deleted and random() < DELETED:
                record.deleted = True
                op, data = b"delete", b'{"deletedAt": "%b"}' % stamp
            elif random() < EMPTY:
                data = b"{}"
            else:
                if random() < NEW_ITEM:
                    number = int(random() * len(table.arrays))
                    self._arrays(record)[number] = self._array(*table.arrays[number])
                data, meta = self._update(record, table.edits[int(random() * len(table.edits))], stamp)
        digits = b"%032x" % self._rng.getrandbits(128)
        return Row(
            b"%b-%b-%b-%b-%b" % (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]),
            table.app,
            table.name,
            record.record_id,
            record.user_id,
            op,
            data,
            meta,
            created_at,
            record.actor,
            record.space_id,
            created_us,
        )

    def _insert(self, record: _Record, stamp: bytes) -> bytes:
        template, rng = record.table.insert, self._rng
        values = [make(rng, stamp) for make in template.makes]
        return template.data % (record.record_id, *values, *self._arrays(record), stamp, stamp)

    def _update(self, record: _Record, template: _Template, stamp: bytes) -> tuple[bytes, bytes]:
        rng = self._rng
        values = [make(rng, stamp) for make in template.makes]
        return template.data % (*values, *self._arrays(record)), template.meta % ((stamp,) * template.stamps)

    def _arrays(self, record: _Record) -> list[bytes]:
        if not record.arrays:
            record.arrays = [self._array(*shape) for shape in record.table.arrays]
        return record.arrays

    def _array(self, items: list[bytes], most: int) -> bytes:
        return b"[%b]" % b", ".join(self._rng.choices(items, k=1 + int(self._rng.random() * most)))


Ends = dict[tuple[str, int], int]
"""(topic, partition) → next offset."""


class Publisher:
    """Sends rows to the topics of `settings` as the change stream does, each at a place of its own."""

    def __init__(self, settings: Settings, producer: AIOKafkaProducer) -> None:
        self._producer = producer
        self._width = settings.topic_partitions
        self._topics = {app.encode(): Topics(settings.topic_prefix).changes(app) for app in settings.apps}
        self._partition_of: dict[bytes, int] = {}
        self._lsn = 0x1000000
        self.ends: Ends = {}

    async def publish(self, rows: Iterable[Row]) -> int:
        """Returns the bytes of their values when all are acknowledged."""
        open_batches: dict[tuple[bytes, int], BatchBuilder] = {}
        sends = []
        size = 0
        for row in rows:
            value, key = row.value(), row.user_id
            size += len(value)
            place = (row.app_id, self._partition(key))
            args = {"timestamp": row.created_us // 1000, "key": key, "value": value, "headers": self._headers(row)}
            batch = open_batches.get(place)
            if batch is None or batch.append(**args) is None:
                if batch is not None:
                    sends.append(await self._send(batch, place))
                batch = open_batches[place] = self._producer.create_batch()
                if batch.append(**args) is None:
                    raise ValueError(f"a record of {len(value)} bytes does not fit a batch")
        sends += [await self._send(batch, place) for place, batch in open_batches.items()]
        for sent, length in sends:
            first = await sent
            partition = (first.topic, first.partition)
            self.ends[partition] = max(self.ends.get(partition, 0), first.offset + length)
        return size

    async def _send(self, batch: BatchBuilder, place: tuple[bytes, int]) -> tuple[asyncio.Future[RecordMetadata], int]:
        sent = await self._producer.send_batch(batch, self._topics[place[0]], partition=place[1])
        return sent, batch.record_count()

    def _partition(self, key: bytes) -> int:
        partition = self._partition_of.get(key)
        if partition is None:
            partition = self._partition_of[key] = partition_of(key, self._width)
        return partition

    def _headers(self, row: Row) -> list[tuple[str, bytes]]:
        self._lsn += 0x100
        return [
            ("source", b"1"),
            ("lsn", lsn_text(self._lsn).encode()),
            ("ord", b"0"),
            ("xid", b"70000"),
            ("ts", b"%d" % row.created_us),
            ("op", row.op),
            ("table", row.table),
            ("id", row.id),
        ]


@asynccontextmanager
async def publishing(settings: Settings) -> AsyncIterator[Publisher]:
    """Makes the topics that are missing, and a publisher for them."""
    await ensure_topics(settings)
    producer = await start_producer(settings)
    try:
        yield Publisher(settings, producer)
    finally:
        await stop_producer(producer)


def store(conn: psycopg.Connection[Any], rows: Iterable[Row]) -> None:
    """Writes rows into `sync_changes`, as `verify` reads them."""
    names = "id, app_id, table_name, record_id, user_id, op, data, field_meta, client_id, created_at, actor, space_id"
    with conn.cursor() as cursor, cursor.copy(f"copy sync_changes ({names}) from stdin") as copy:
        for row in rows:
            columns = (*row[:8], CLIENT, row.created_at, row.actor, row.space_id.strip(b'"'))
            copy.write(b"\t".join(columns).replace(b"\\", b"\\\\") + b"\n")
