"""What a batch changes beside the rows of its records, in the same transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from projector.logging import get
from projector.views import deadletters
from projector.views.inbox import DeadLetter, Truncation
from projector.views.positions import Partition, Positions
from projector.views.store import Store
from projector.views.truncate import reload_partition

log = get("views")


async def write_beside(
    conn: psycopg.AsyncConnection[Any],
    store: Store,
    positions: Positions,
    widths: Mapping[str, int],
    letters: Sequence[DeadLetter],
    erased: Sequence[str],
    truncated: Mapping[Partition, Truncation],
) -> None:
    """Keeps `letters`, forgets those of the `erased` changes, and reloads what was `truncated`.

    After the rows, because what followed a truncation in the same batch is in the log by now and is reloaded too.
    `widths` are the numbers of partitions of the topics.
    """
    name, cluster = positions.name, positions.cluster
    if letters:
        await deadletters.insert(conn, name, cluster, letters)
    # After that, because the row of a letter may have been erased in the same batch.
    if erased:
        await deadletters.erase(conn, name, erased)
    for partition, truncation in truncated.items():
        await reload_partition(conn, store, partition, widths[partition.topic], truncation.place)
        await deadletters.erase_below(conn, name, cluster, partition, truncation.offset)
        log.info("log truncated, partition reloaded", view=name, topic=partition.topic, partition=partition.partition)
