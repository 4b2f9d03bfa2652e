"""Dead letters: what a view could not fold, kept with its cause, so that its partition goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from projector.sql import query
from projector.views.inbox import DeadLetter
from projector.views.positions import Partition


async def insert(conn: psycopg.AsyncConnection[Any], view: str, cluster: str, letters: Sequence[DeadLetter]) -> None:
    """Stores the letters; one that is stored already (a batch repeated after a crash) stays as it is."""
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
            letter.detail.replace("\0", "\ufffd"),
            letter.message.value,
            Jsonb({name: _text(value) for name, value in letter.message.headers}),
        )
        for letter in letters
    ]
    async with conn.cursor() as cursor:
        await cursor.executemany(query("views/dead_letter_insert"), rows)


async def erase(conn: psycopg.AsyncConnection[Any], view: str, change_ids: Sequence[str]) -> None:
    """Forgets the letters of these changes."""
    await conn.execute(query("views/dead_letter_erase"), {"view": view, "change_ids": list(change_ids)})


async def erase_below(
    conn: psycopg.AsyncConnection[Any], view: str, cluster: str, partition: Partition, offset: int
) -> None:
    """Forgets the letters of all that a partition brought before `offset`."""
    place = {"topic": partition.topic, "partition": partition.partition, "offset": offset}
    await conn.execute(query("views/dead_letter_erase_below"), {"view": view, "cluster": cluster} | place)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace").replace("\0", "\ufffd")
