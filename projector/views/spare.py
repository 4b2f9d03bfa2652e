"""The spare generation of a view at work: an engine that writes to it, and a consumer without a group."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiokafka import TopicPartition

from projector.config import Settings
from projector.sql.connection import connect
from projector.views import kafka
from projector.views.declared import View
from projector.views.engine import Engine
from projector.views.filler import Filler
from projector.views.positions import Partition, Positions, widths_of
from projector.views.progress import Tell
from projector.views.topic_ids import topic_ids

CACHE_BYTES = 256 * 1024 * 1024
"""Of encoded state that a fill remembers, over all its partitions."""


@dataclass(frozen=True, slots=True)
class Spare:
    """May be filled again and again, each time a little further."""

    _engine: Engine
    _filler: Filler

    def position(self, partition: Partition) -> int:
        """The next offset of a partition that was opened."""
        return self._engine.read_to(partition)

    async def fill(self, ends: Mapping[Partition, int]) -> None:
        """Brings the generation to `ends`, all of them partitions that were opened; see `Filler.fill`."""
        await self._filler.fill(ends)


@asynccontextmanager
async def open_spare(
    settings: Settings,
    view: View,
    *,
    tell: Tell,
    partitions: Sequence[Partition] | None = None,
    empty: bool = False,
    keep_letters: bool = False,
) -> AsyncIterator[Spare]:
    """Opens the spare generation for `partitions`, by default for all; `empty` says that it has no rows.

    Raises as `Positions.load`, and PositionOutOfRangeError for topics that do not reach the positions.
    """
    every = await kafka.partitions_of(settings, kafka.topics_of(settings, view))
    widths = widths_of(every)
    ids = await topic_ids(settings, widths)
    chosen = every if partitions is None else list(partitions)
    positions = Positions(view.name, await kafka.cluster_id(settings), spare=True)
    async with await connect(settings, "projector_engine") as conn, kafka.consumer(settings) as consumer:
        engine = Engine(
            view,
            positions,
            conn,
            widths,
            keep_letters=keep_letters,
            empty=empty,
            cache_bytes=CACHE_BYTES // max(1, len(chosen)),
        )
        consumer.assign([TopicPartition(*partition) for partition in chosen])
        await kafka.check_range(consumer, positions.name, await engine.open(chosen, ids))
        yield Spare(engine, Filler(engine, consumer, tell))


async def fill_spare(
    settings: Settings, view: View, ends: Mapping[Partition, int], *, empty: bool, keep_letters: bool, tell: Tell
) -> None:
    """Opens the partitions of `ends` and fills them; raises as `open_spare`."""
    partitions = list(ends)
    async with open_spare(
        settings, view, tell=tell, partitions=partitions, empty=empty, keep_letters=keep_letters
    ) as spare:
        await spare.fill(ends)
