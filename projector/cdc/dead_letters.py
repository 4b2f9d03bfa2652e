"""Changes that cannot be published, kept in Postgres so that the stream goes on without them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg

from projector.log.place import lsn_text
from projector.sql import query

TOO_LARGE = "too-large"
"""The record is larger than `max_message_bytes`."""


class DeadLetter(NamedTuple):
    """`size` in bytes, as the broker would count it. The content is not kept: it stands in sync_changes."""

    source: int
    lsn: int
    ord: int
    topic: str
    change_id: str | None
    user_id: str
    size: int
    reason: str


async def write(conn: psycopg.AsyncConnection[Any], letters: Sequence[DeadLetter]) -> None:
    """Stores them, in one transaction; those already there (the stream was read again) stay as they are."""
    async with conn.transaction(), conn.cursor() as cursor:
        await cursor.executemany(
            query("cdc/add_dead_letter"),
            [letter._replace(lsn=lsn_text(letter.lsn)) for letter in letters],  # type: ignore[arg-type]
        )
