"""Reads all changes of one record from the log itself."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import psycopg

from projector.log.change import BadChange, Change, decode
from projector.logging import get
from projector.sql import query
from projector.views.declared import IDENTITY, Identity

log = get("views")

BEGINNING = datetime.min.replace(tzinfo=UTC)


async def changes_of(
    conn: psycopg.AsyncConnection[Any], identity: Identity, since: datetime = BEGINNING
) -> list[Change]:
    """What `sync_changes` holds of the record, created at `since` or later, and the fold admits.

    Rows that are dead letters in the topic are none of the fold's here either: they are judged by the same code.
    """
    found = []
    cursor = await conn.execute(query("views/reload"), dict(zip(IDENTITY, identity, strict=True)) | {"since": since})
    for (value,) in await cursor.fetchall():
        try:
            found.append(decode(value.encode()))
        except BadChange as bad:
            # The views keep such a row as a dead letter; it says nothing about the record.
            log.warning("unusable change of a record", code=bad.code)
    return found
