"""Waiting until a view has applied what a reader wants to see."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import psycopg

from projector.errors import NotReachedError
from projector.sql import query
from projector.views.declared import View

SHORTEST_POLL_S = 0.002
LONGEST_POLL_S = 0.1


async def wait_for_offset(
    conn: psycopg.AsyncConnection[Any], view: View | str, ends: Mapping[tuple[str, int], int], timeout: float
) -> None:
    """Returns once the view has applied everything below `ends`, next offsets by (topic, partition).

    Raises NotReachedError after `timeout` seconds. Any role may wait.
    """
    name = view if isinstance(view, str) else view.name
    parameters = {
        "view": name,
        "topics": [topic for topic, _ in ends],
        "partitions": [partition for _, partition in ends],
        "ends": list(ends.values()),
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
                f"after {timeout:g} s view {name} is at offset {reached or 0} of {topic}-{partition}, not {wanted}"
            )
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_POLL_S)
