"""How far a view has applied each partition: kept beside its rows, changed only by compare-and-swap.

A view has two tables, its generations: one serves, the other is spare. Each has positions of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg import sql

from projector.errors import FoldVersionError, ForeignClusterError, NotMigratedError, TopicRecreatedError
from projector.fold import FOLD_VERSION
from projector.log.place import Place, parse_place
from projector.sql import query


class Partition(NamedTuple):
    """One partition of a topic; aiokafka's TopicPartition compares equal to it."""

    topic: str
    partition: int


def widths_of(partitions: Iterable[Partition]) -> dict[str, int]:
    """How many partitions each topic has, given all of them."""
    return Counter(partition.topic for partition in partitions)


LOST = psycopg.errors.SerializationFailure
"""What the server raises when a swap is lost (migration 0028)."""


@dataclass(frozen=True, slots=True)
class Position:
    """`next_offset` is the first offset not applied; `revision` counts the writes made beside the engine; `reached` is
    the largest place of the view's records before it (see `PartitionOrder`), None when that is not known."""

    next_offset: int
    revision: int
    reached: Place | None = None


@dataclass(frozen=True, slots=True)
class Positions:
    """The rows of `stream_positions` of one view on one cluster, those of its serving or of its spare generation."""

    view: str
    cluster: str
    spare: bool = False

    @property
    def name(self) -> str:
        """What `stream_positions.view` holds; it goes with the part that a generation plays, not with its number."""
        return f"{self.view}@spare" if self.spare else self.view

    async def load(
        self,
        conn: psycopg.AsyncConnection[Any],
        partitions: Iterable[Partition],
        topic_ids: Mapping[str, UUID] | None = None,
    ) -> tuple[int, dict[Partition, Position]]:
        """The number of the generation (1 or 2), and the positions of these partitions, opened at 0 where new.

        With `topic_ids`, as the topics have them now, positions are held against those. Raises ForeignClusterError
        when the view stands in another cluster's topics of the same name, TopicRecreatedError in an earlier topic of
        the same name, and FoldVersionError when its rows were folded under other rules.
        """
        wanted = sorted(partitions)
        parameters = self._parameters(wanted)
        await self._expect_cluster(conn, parameters)
        await conn.execute(query("views/position_open"), parameters)
        if topic_ids is not None:
            identified = parameters | {"topic_ids": [topic_ids[topic] for topic, _ in wanted]}
            await conn.execute(query("views/position_identify"), identified)
            await self._expect_topics(conn, identified)
        found: dict[Partition, Position] = {}
        # One statement, so that a promotion cannot come between the number and the positions.
        rows = await (await conn.execute(query("views/position_load"), parameters)).fetchall()
        if not rows:
            raise NotMigratedError(f"view {self.view} has no tables in this database")
        serving = int(rows[0][0])
        for _, topic, partition, next_offset, revision, fold_version, reached in rows:
            if topic is None:
                continue
            if fold_version != FOLD_VERSION:
                raise FoldVersionError(
                    f"view {self.name} was folded by rules {fold_version}, this program follows {FOLD_VERSION}"
                )
            place = None if reached is None else parse_place(reached)
            found[Partition(topic, partition)] = Position(next_offset, revision, place)
        return (3 - serving if self.spare else serving), found

    async def read(self, conn: psycopg.AsyncConnection[Any]) -> dict[Partition, int]:
        """The next offset of every partition that was ever opened."""
        return await self._offsets(conn, "views/position_read")

    async def hold(self, conn: psycopg.AsyncConnection[Any]) -> dict[Partition, int]:
        """The same, and nobody moves them until this transaction ends."""
        return await self._offsets(conn, "views/position_hold")

    async def _offsets(self, conn: psycopg.AsyncConnection[Any], name: str) -> dict[Partition, int]:
        parameters = {"view": self.name, "cluster": self.cluster}
        rows = await (await conn.execute(query(name), parameters)).fetchall()
        return {Partition(topic, partition): next_offset for topic, partition, next_offset in rows}

    async def expect(
        self, conn: psycopg.AsyncConnection[Any], partitions: Iterable[Partition], topic_ids: Mapping[str, UUID]
    ) -> None:
        """Raises ForeignClusterError or TopicRecreatedError as `load` does; writes nothing."""
        wanted = sorted(partitions)
        parameters = self._parameters(wanted)
        await self._expect_cluster(conn, parameters)
        await self._expect_topics(conn, parameters | {"topic_ids": [topic_ids[topic] for topic, _ in wanted]})

    async def _expect_cluster(self, conn: psycopg.AsyncConnection[Any], parameters: dict[str, Any]) -> None:
        row = await (await conn.execute(query("views/position_elsewhere"), parameters)).fetchone()
        if row is not None:
            raise ForeignClusterError(
                f"view {self.name} has applied {row[1]} of Kafka cluster {row[0]}, not of {self.cluster}"
            )

    async def strangers(
        self, conn: psycopg.AsyncConnection[Any], partitions: Iterable[Partition], topic_ids: Mapping[str, UUID]
    ) -> set[Partition]:
        """Those of the partitions whose position was reached in an earlier topic of the name."""
        wanted = sorted(partitions)
        parameters = self._parameters(wanted) | {"topic_ids": [topic_ids[topic] for topic, _ in wanted]}
        rows = await (await conn.execute(query("views/position_of_other_topic"), parameters)).fetchall()
        return {Partition(topic, partition) for topic, partition, _ in rows}

    async def _expect_topics(self, conn: psycopg.AsyncConnection[Any], parameters: dict[str, Any]) -> None:
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
        moved: Mapping[Partition, Position],
    ) -> None:
        """Moves the positions to `moved`, all of them, if they are still as `known`; first in a transaction.

        Raises LOST when somebody else has moved one: what was folded on top of it is void.
        """
        swap = sql.SQL(query("views/position_swap")) + sql.SQL("select held from swapped")
        await conn.execute(swap, self.swapping(known, moved))

    def swapping(self, known: Mapping[Partition, Position], moved: Mapping[Partition, Position]) -> dict[str, Any]:
        """The parameters of `views/position_swap`, for a statement that does more than the swap."""
        # Always in the same order, so that two workers never wait for each other.
        partitions = sorted(moved)
        reached = [moved[partition].reached for partition in partitions]
        return self._parameters(partitions) | {
            "expected": [known[partition].next_offset for partition in partitions],
            "revisions": [known[partition].revision for partition in partitions],
            "next_offsets": [moved[partition].next_offset for partition in partitions],
            "reached": [None if place is None else str(place) for place in reached],
            "wanted": len(partitions),
        }

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
            "base": self.view,
            "cluster": self.cluster,
            "fold_version": FOLD_VERSION,
            "topics": [partition.topic for partition in partitions],
            "partitions": [partition.partition for partition in partitions],
        }
