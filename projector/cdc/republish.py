"""Topics filled again out of the table: asked for here, done by the one producer of every topic.

Whoever asks makes the stream forget from where on it brings an app. It then treats the app like one that was left out
for a while: a fill publishes every row whose change id the topic lacks, tells of those that the table no longer has as
erased, and the stream goes on behind it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import psycopg

from projector.cdc.fill_progress import Step
from projector.errors import ReplicationError
from projector.sql import query

Connection = psycopg.AsyncConnection[Any]


class Progress(NamedTuple):
    """`begun` is false until the stream has laid out the fill; `step` is None then, and at the end. `total` is None
    until it is known how much the step has to do."""

    begun: bool
    finished: bool
    step: Step | None
    done: int
    total: int | None


async def ask(conn: Connection, apps: Iterable[str]) -> None:
    """`conn` is one of projector_cdc. Raises ReplicationError before the first start of the stream."""
    row = await (await conn.execute(query("cdc/ask_republish"), {"apps": list(apps)})).fetchone()
    if row is None or row[0] is None:
        raise ReplicationError(
            "the stream has not published anything yet", "start `projector run cdc`: it publishes every row"
        )


async def asked(conn: Connection, generation: int, apps: Iterable[str]) -> list[str]:
    """Those of `apps`, which the stream brings, that somebody asked for meanwhile."""
    rows = await (await conn.execute(query("cdc/apps"), [generation])).fetchall()
    return sorted(set(apps) - {app for app, _ in rows})


async def progress(conn: Connection, apps: Iterable[str]) -> Progress:
    """How far the fills of `apps` are that were asked for."""
    row = await (await conn.execute(query("cdc/republish_progress"), {"apps": list(apps)})).fetchone()
    assert row is not None, "an aggregate always gives one row"
    return Progress(*row)
