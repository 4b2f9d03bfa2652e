"""Waiting until a view has applied what a reader wants to see."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import aclosing, suppress
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

from projector.config import Settings
from projector.errors import ConfigError, NotReachedError
from projector.log.place import lsn_text, parse_lsn
from projector.log.topics import Topics
from projector.log.watermark import Watermark
from projector.sql import query
from projector.views import kafka
from projector.views.declared import View
from projector.views.topic_ids import topic_ids
from projector.views.watermarks import follow

SHORTEST_POLL_S = 0.002
LONGEST_POLL_S = 0.1

_STREAM = "look at the log of `projector run cdc`, and whether it runs at all"


async def wait_for_lsn(
    settings: Settings, conn: psycopg.AsyncConnection[Any], view: View, lsn: int, timeout: float
) -> None:
    """Returns once the view has applied everything that committed up to `lsn` on the present server.

    `lsn` as pg_current_wal_insert_lsn() tells it after a commit. `conn` may be any role's that may read positions.
    Raises NotReachedError after `timeout` seconds, ConfigError when the server has not come to `lsn` itself.
    """
    deadline = time.monotonic() + timeout
    mark = await wait_until_published(settings, conn, lsn, timeout)
    await wait_until_applied(settings, conn, view, mark, deadline - time.monotonic())


async def wait_until_published(
    settings: Settings, conn: psycopg.AsyncConnection[Any], lsn: int, timeout: float
) -> Watermark:
    """The first watermark from now on that covers `lsn` of the present source; raises as `wait_for_lsn`."""
    written, generation = await wal_end(conn)
    if lsn > written:
        raise ConfigError(
            f"LSN {lsn_text(lsn)} is ahead of the server, which has written up to {lsn_text(written)}",
            "take it from the server of PROJECTOR_DATABASE_URL: select pg_current_wal_insert_lsn()",
        )
    seen: Watermark | None = None
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout), aclosing(follow(settings, asyncio.Event())) as marks:
            async for mark in marks:
                if mark.source >= (generation or 1):
                    seen = mark
                    if mark.lsn >= lsn:
                        return mark
    if seen is None:
        topic = Topics(settings.topic_prefix).watermarks
        raise NotReachedError(f"after {timeout:g} s topic {topic} has no watermark of this server", _STREAM)
    raise NotReachedError(f"after {timeout:g} s the topics go up to {lsn_text(seen.lsn)}, not {lsn_text(lsn)}", _STREAM)


async def wait_until_applied(
    settings: Settings, conn: psycopg.AsyncConnection[Any], view: View, mark: Watermark, timeout: float
) -> None:
    """Returns once the view has applied all that lies below the watermark; raises NotReachedError."""
    deadline = time.monotonic() + timeout
    ends: dict[tuple[str, int], int] = {}
    topics = kafka.topics_of(settings, view)
    for topic in topics:
        if topic not in mark.ends:
            raise NotReachedError(
                f"view {view.name} reads topic {topic}, which the stream does not publish",
                "set PROJECTOR_APPS of `projector run cdc` and of `projector run views` alike",
            )
        ends |= {(topic, partition): end for partition, end in enumerate(mark.ends[topic])}
    now = TopicsNow(await kafka.cluster_id(settings), await topic_ids(settings, topics))
    try:
        await wait_for_offset(conn, view, ends, max(0.0, deadline - time.monotonic()), now)
    except NotReachedError as error:
        raise NotReachedError(f"the topics go up to {lsn_text(mark.lsn)}, but {error.message}") from None


async def wal_end(conn: psycopg.AsyncConnection[Any]) -> tuple[int, int | None]:
    """How far the server has written, and its generation as a source, None before the stream's first start."""
    lsn, generation = await (await conn.execute(query("views/wal_end"))).fetchone() or ("0/0", None)
    return parse_lsn(lsn), generation


class TopicsNow(NamedTuple):
    """The cluster and the ids of the topics as they are: positions of others say nothing about them."""

    cluster: str
    topic_ids: Mapping[str, UUID]


async def wait_for_offset(
    conn: psycopg.AsyncConnection[Any],
    view: View | str,
    ends: Mapping[tuple[str, int], int],
    timeout: float,
    now: TopicsNow | None = None,
) -> None:
    """Returns once the view has applied everything below `ends`, next offsets by (topic, partition).

    Without `now` the caller vouches that the view stands in these topics. Raises NotReachedError after `timeout`
    seconds. Any role may wait.
    """
    name = view if isinstance(view, str) else view.name
    parameters = {
        "view": name,
        "topics": [topic for topic, _ in ends],
        "partitions": [partition for _, partition in ends],
        "ends": list(ends.values()),
        "cluster": None if now is None else now.cluster,
        "topic_ids": [None if now is None else now.topic_ids[topic] for topic, _ in ends],
    }
    deadline = time.monotonic() + timeout
    pause = SHORTEST_POLL_S
    while True:
        behind = await (await conn.execute(query("views/position_reached"), parameters)).fetchall()
        if not behind:
            return
        if time.monotonic() >= deadline:
            topic, partition, wanted, reached = behind[0]
            raise NotReachedError(
                f"after {timeout:.3g} s view {name} is at offset {reached or 0} of {topic}-{partition}, not {wanted}"
            )
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_POLL_S)
