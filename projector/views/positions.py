"""How far a view has applied each partition: kept beside its rows, changed only by compare-and-swap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

from projector.errors import FoldVersionError, ForeignClusterError, TopicRecreatedError
from projector.fold import FOLD_VERSION
from projector.sql import query


class Partition(NamedTuple):
    """One partition of a topic; aiokafka's TopicPartition compares equal to it."""

    topic: str
    partition: int


def widths_of(partitions: Iterable[Partition]) -> dict[str, int]:
    """How many partitions each topic has, given all of them."""
    return Counter(partition.topic for partition in partitions)


@dataclass(frozen=True, slots=True)
class Position:
    """`next_offset` is the first offset not applied; `revision` counts the writes made beside the engine."""

    next_offset: int
    revision: int


class SwapLostError(Exception):
    """Somebody else moved one of these positions: what was folded on top of it is void."""


@dataclass(frozen=True, slots=True)
class Positions:
    """The rows of `stream_positions` of one view (or of a rebuild's shadow of it) on one cluster."""

    name: str
    cluster: str

    async def load(
        self,
        conn: psycopg.AsyncConnection[Any],
        partitions: Iterable[Partition],
        topic_ids: Mapping[str, UUID] | None = None,
    ) -> dict[Partition, Position]:
        """The positions of these partitions, opened at offset 0 where there were none.

        With `topic_ids`, as the topics have them now, positions are held against those. Raises ForeignClusterError
        when the view stands in another cluster's topics of the same name, TopicRecreatedError in an earlier topic of
        the same name, and FoldVersionError when its rows were folded under other rules.
        """
        wanted = sorted(partitions)
        parameters = self._parameters(wanted)
        row = await (await conn.execute(query("views/position_elsewhere"), parameters)).fetchone()
        if row is not None:
            raise ForeignClusterError(
                f"view {self.name} has applied {row[1]} of Kafka cluster {row[0]}, not of {self.cluster}"
            )
        await conn.execute(query("views/position_open"), parameters)
        if topic_ids is not None:
            await self._identify(conn, parameters | {"topic_ids": [topic_ids[topic] for topic, _ in wanted]})
        found: dict[Partition, Position] = {}
        for topic, partition, next_offset, revision, fold_version in await (
            await conn.execute(query("views/position_load"), parameters)
        ).fetchall():
            if fold_version != FOLD_VERSION:
                raise FoldVersionError(
                    f"view {self.name} was folded by rules {fold_version}, this program follows {FOLD_VERSION}"
                )
            found[Partition(topic, partition)] = Position(next_offset, revision)
        return found

    async def _identify(self, conn: psycopg.AsyncConnection[Any], parameters: dict[str, Any]) -> None:
        await conn.execute(query("views/position_identify"), parameters)
        row = await (await conn.execute(query("views/position_of_other_topic"), parameters)).fetchone()
        if row is not None:
            topic, partition, next_offset = row
            raise TopicRecreatedError(
                f"view {self.name} goes on at offset {next_offset} of {topic}-{partition}, and the topic was made anew"
            )

    async def swap(
        self,
        conn: psycopg.AsyncConnection[Any],
        known: Mapping[Partition, Position],
        next_offsets: Mapping[Partition, int],
    ) -> None:
        """Moves the positions to `next_offsets` if all are still as `known`; raises SwapLostError otherwise."""
        # Always in the same order, so that two workers never wait for each other.
        moved = sorted(next_offsets)
        parameters = self._parameters(moved) | {
            "expected": [known[partition].next_offset for partition in moved],
            "revisions": [known[partition].revision for partition in moved],
            "next_offsets": [next_offsets[partition] for partition in moved],
        }
        cursor = await conn.execute(query("views/position_swap"), parameters)
        if cursor.rowcount != len(moved):
            raise SwapLostError

    async def bump(
        self, conn: psycopg.AsyncConnection[Any], partitions: Iterable[Partition] | None = None
    ) -> dict[Partition, int]:
        """For whoever writes rows beside the engine, first in the transaction; returns how far these partitions are.

        The engine cannot move past them until the transaction ends, and then drops all it remembers of them. Without
        `partitions`, every one of the view.
        """
        parameters = self._parameters(sorted(partitions or ()))
        if partitions is None:
            parameters |= {"topics": None, "partitions": None}
        cursor = await conn.execute(query("views/position_bump"), parameters)
        return {Partition(topic, partition): offset for topic, partition, offset in await cursor.fetchall()}

    def _parameters(self, partitions: Sequence[Partition]) -> dict[str, Any]:
        return {
            "view": self.name,
            "cluster": self.cluster,
            "fold_version": FOLD_VERSION,
            "topics": [partition.topic for partition in partitions],
            "partitions": [partition.partition for partition in partitions],
        }
