"""What the stream remembers of how far the topics went, and what of that the topics still hold."""

from __future__ import annotations

from typing import Any

import psycopg

from projector.log.watermark import Ends
from projector.sql import query


async def choose_horizon(conn: psycopg.AsyncConnection[Any], generation: int, ends: Ends) -> int | None:
    """The 64-bit transaction id below which every transaction is in the topics, even as they end now.

    None when nothing is known of that: then every row has to be looked for.
    """
    unfinished = await (await conn.execute(query("cdc/unfinished_fills"), [generation])).fetchone()
    if unfinished is not None:
        return None
    for horizon, kept in await (await conn.execute(query("cdc/watermarks"), [generation, None])).fetchall():
        if not missing(kept, ends):
            return int(horizon)
    return None


async def newest_ends(conn: psycopg.AsyncConnection[Any], generation: int) -> Ends:
    """Where the topics ended at the newest watermark kept; empty when there is none."""
    newest = await (await conn.execute(query("cdc/watermarks"), [generation, 1])).fetchone()
    return {} if newest is None else newest[1]


def altered_topics(kept: Ends, ends: Ends) -> dict[str, int]:
    """Topics that hold all they were filled with and have another number of partitions than then: that number.

    One that was made anew lacks records; it may have as many partitions as one likes.
    """
    return {
        topic: len(filled)
        for topic, filled in kept.items()
        if any(filled)
        and topic in ends
        and len(ends[topic]) != len(filled)
        and not missing({topic: filled}, {topic: ends[topic]})
    }


def missing(kept: Ends, ends: Ends) -> list[str]:
    """Partitions of `ends`, as `topic/partition`, that do not reach what was kept of them."""
    return [
        f"{topic}/{partition}"
        for topic, offsets in ends.items()
        for partition, (offset, had) in enumerate(zip(offsets, kept.get(topic, ()), strict=False))
        if offset < had
    ]
