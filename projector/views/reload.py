"""Reads all changes of one record from the log itself."""

from __future__ import annotations

from typing import Any

import psycopg

from projector.log.change import BadChange, Change, decode
from projector.sql import query
from projector.views.declared import IDENTITY, Identity


async def changes_of(conn: psycopg.AsyncConnection[Any], identity: Identity) -> list[Change]:
    """What `sync_changes` holds of the record and the fold admits.

    Rows that are dead letters in the topic are none of the fold's here either: they are judged by the same code.
    """
    found = []
    cursor = await conn.execute(query("views/reload"), dict(zip(IDENTITY, identity, strict=True)))
    for (value,) in await cursor.fetchall():
        try:
            found.append(decode(value.encode()))
        except BadChange:
            continue
    return found
