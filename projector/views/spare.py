"""The spare generation of a view at work: a filler that writes to it, with its connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from projector.config import Settings
from projector.sql.connection import connect
from projector.views import kafka
from projector.views.declared import View
from projector.views.fetch import fetcher
from projector.views.filler import Filler
from projector.views.positions import Partition, Positions, widths_of
from projector.views.progress import Tell
from projector.views.topic_ids import topic_ids


@asynccontextmanager
async def open_spare(
    settings: Settings,
    view: View,
    *,
    tell: Tell,
    partitions: Sequence[Partition] | None = None,
    empty: bool = False,
    keep_letters: bool = False,
) -> AsyncIterator[Filler]:
    """Opens the spare generation for `partitions`, by default for all; `empty` as for `Filler`.

    Raises as `Positions.load`, and PositionOutOfRangeError for topics that do not reach the positions.
    """
    every = await kafka.partitions_of(settings, kafka.topics_of(settings, view))
    widths = widths_of(every)
    ids = await topic_ids(settings, widths)
    positions = Positions(view.name, await kafka.cluster_id(settings), spare=True)
    async with await connect(settings, "projector_engine") as conn, fetcher(settings, list(widths)) as topics:
        filler = Filler(view, positions, conn, topics, widths, ids, empty=empty, keep_letters=keep_letters, tell=tell)
        at = await filler.open(every if partitions is None else partitions)
        async with kafka.consumer(settings) as consumer:
            await kafka.check_range(consumer, positions.name, at)
        yield filler


async def fill_spare(
    settings: Settings, view: View, ends: Mapping[Partition, int], *, empty: bool, keep_letters: bool, tell: Tell
) -> None:
    """Opens the partitions of `ends` and fills them; raises as `open_spare`."""
    partitions = list(ends)
    async with open_spare(
        settings, view, tell=tell, partitions=partitions, empty=empty, keep_letters=keep_letters
    ) as spare:
        await spare.fill(ends)
