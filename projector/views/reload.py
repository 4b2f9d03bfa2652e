"""Folds a record anew from the log itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import sql

from projector.fold import Counters, Fold
from projector.log.change import BadChange, Change, decode
from projector.log.place import Place
from projector.logging import get
from projector.sql import query
from projector.views import inbox
from projector.views.declared import IDENTITY, Identity
from projector.views.held import Held, fold_anew, nothing
from projector.views.inbox import Reload

log = get("views")

LOG_VALUE = sql.SQL(query("views/log_value"))
"""A row of the log as its topic carries it, for the `{value}` of a query."""

BEGINNING = datetime.min.replace(tzinfo=UTC)


async def reload(
    conn: psycopg.AsyncConnection[Any], fold: Fold[Any], identity: Identity, held: Held | None, place: Place
) -> Held | None:
    """The record as the log has it now, in place of `held`; None when the log holds nothing of it any more.

    Its place is the largest of `held` and of `place`, which is where the reload was asked for.
    """
    changes = await changes_of(conn, identity)
    if not changes:
        return None
    anew = fold_anew(fold, changes, place)
    if held is not None:
        anew.reach(Place(held.source, held.lsn, 0))
    return anew


async def take_in(
    conn: psycopg.AsyncConnection[Any],
    fold: Fold[Any],
    identity: Identity,
    held: Held | None,
    events: Sequence[inbox.Fold | Reload],
    noticed: Counters | None = None,
) -> Held | None:
    """The record after `events`, in the order of their offsets; None when the log holds nothing of it any more.

    What the log decides about is read from there once, however many rows of the record were erased: it has what came
    before as well.
    """
    decided = max((number for number, event in enumerate(events, 1) if isinstance(event, Reload)), default=0)
    if decided:
        held = await reload(conn, fold, identity, held, max(event.place for event in events[:decided]))
    for event in events[decided:]:
        assert isinstance(event, inbox.Fold), "what comes after the last reload"
        held = nothing(fold) if held is None else held
        held.take(event.change, event.place, noticed)
    return held


async def changes_of(
    conn: psycopg.AsyncConnection[Any], identity: Identity, since: datetime = BEGINNING
) -> list[Change]:
    """What `sync_changes` holds of the record, created at `since` or later, and the fold admits.

    Rows that are dead letters in the topic are none of the fold's here either: they are judged by the same code.
    """
    found = []
    cursor = await conn.execute(
        sql.SQL(query("views/reload")).format(value=LOG_VALUE),
        dict(zip(IDENTITY, identity, strict=True)) | {"since": since},
    )
    for (value,) in await cursor.fetchall():
        try:
            found.append(decode(value.encode()))
        except BadChange as bad:
            # The views keep such a row as a dead letter; it says nothing about the record.
            log.warning("unusable change of a record", code=bad.code)
    return found
