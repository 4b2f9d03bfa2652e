"""Dead letters: what a view could not fold, kept with its cause, so that its partition goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from projector import freeze, metrics
from projector.config import Settings
from projector.health.parts import at_work
from projector.sql import query
from projector.sql.connection import connect
from projector.views.inbox import DeadLetter, Message
from projector.views.positions import Partition
from projector.waiting import pause

WATCH = "dead letters"
"""What counts them is named like a view in log and metrics."""
LOOK_S = 10.0
"""How often stored letters are counted for the metrics."""


_EMPTIED = "it came again, and its change is not in the log: its content is not kept"


class _Emptied:
    """A record of which only the place and whose it is are left."""

    value = None

    def __init__(self, message: Message) -> None:
        self.topic, self.partition, self.offset = message.topic, message.partition, message.offset
        self.key, self.timestamp = message.key, message.timestamp
        self.headers = [(name, value) for name, value in message.headers if name in ("source", "lsn", "ord")]


async def insert(conn: psycopg.AsyncConnection[Any], view: str, cluster: str, letters: Sequence[DeadLetter]) -> None:
    """Stores the letters; for one that is stored already, this is one more attempt.

    Of one that came again and is not in the log the content is left out: it may be what was erased.
    """
    letters = [
        replace(letter, message=_Emptied(letter.message), detail=_EMPTIED)
        if letter.again and not await change_exists(conn, letter.change_id)
        else letter
        for letter in letters
    ]
    rows = [
        (
            view,
            cluster,
            letter.message.topic,
            letter.message.partition,
            letter.message.offset,
            None if letter.place is None else str(letter.place),
            letter.user_id,
            letter.change_id,
            letter.reason,
            _storable(letter.detail),
            letter.message.key,
            letter.message.value,
            # A header may be null, whatever the types say: who wrote the record is not known.
            Jsonb({_storable(name): _text(value or b"") for name, value in letter.message.headers}),
            letter.message.timestamp,
        )
        for letter in letters
    ]
    async with conn.cursor() as cursor:
        await cursor.executemany(query("views/dead_letter_insert"), rows)


async def change_exists(conn: psycopg.AsyncConnection[Any], change_id: str | None) -> bool:
    """Whether the log holds the change; it has none whose id is no UUID."""
    try:
        uuid = UUID(change_id)
    except (TypeError, ValueError):
        return False
    row = await (await conn.execute(query("views/change_exists"), {"id": uuid})).fetchone()
    return row is not None and bool(row[0])


async def erase(conn: psycopg.AsyncConnection[Any], view: str, change_ids: Sequence[str]) -> None:
    """Forgets the letters of these changes."""
    await conn.execute(query("views/dead_letter_erase"), {"view": view, "change_ids": list(change_ids)})


async def erase_below(
    conn: psycopg.AsyncConnection[Any], view: str, cluster: str, partition: Partition, offset: int
) -> None:
    """Forgets the letters of all that a partition brought before `offset`."""
    place = {"topic": partition.topic, "partition": partition.partition, "offset": offset}
    await conn.execute(query("views/dead_letter_erase_below"), {"view": view, "cluster": cluster} | place)


async def watch(settings: Settings, stop: asyncio.Event) -> None:
    """Shows how many letters are stored, whoever stored or removed them, until `stop`."""
    async with await connect(settings, "projector_engine") as conn:
        with at_work(WATCH, patience_s=LOOK_S) as part:
            while not stop.is_set():
                part.moved()
                await freeze.point("views.letters")
                await show_stored(conn)
                await pause(LOOK_S, stop)


async def show_stored(conn: psycopg.AsyncConnection[Any]) -> None:
    """Sets the gauges; a kind of which none is left goes to 0."""
    rows = await (await conn.execute(query("views/dead_letter_count"))).fetchall()
    counts = {(part, reason): count for part, reason, count in rows}
    _shown.update(counts)
    for part, reason in _shown:
        gauge = (
            metrics.CDC_LETTERS_STORED.labels(reason)
            if part == "cdc"
            else metrics.VIEW_LETTERS_STORED.labels(part, reason)
        )
        gauge.set(counts.get((part, reason), 0))


_shown: set[tuple[str, str]] = set()


def _text(value: bytes) -> str:
    return _storable(value.decode("utf-8", "replace"))


def _storable(text: str) -> str:
    return text.replace("\0", "\ufffd")
