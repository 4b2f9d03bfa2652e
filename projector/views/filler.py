"""Brings a spare generation as far as given offsets, in bulk: many changes of a record become one row."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from itertools import islice
from typing import Any, TypeVar
from uuid import UUID

import psycopg

from projector import crash
from projector.log.order import PartitionOrder
from projector.views.beside import write_beside
from projector.views.declared import View
from projector.views.fetch import Fetcher
from projector.views.gathered import Gathered
from projector.views.inbox import Erasure
from projector.views.positions import LOST, Partition, Position, Positions
from projector.views.progress import Tell
from projector.views.reload import take_in
from projector.views.store import SMALL_BATCH, Store

WAITING_BYTES = 256 * 1024 * 1024
"""Of what was read and not folded."""
CHECKPOINT_S = 60.0
"""How long a fill may read before it commits: what a crash costs at most, beside the folding."""
RECORDS_AT_ONCE = 500
"""So many are folded and copied before other tasks have their turn."""
REPORT_S = 0.5

T = TypeVar("T")


class Filler:
    """Reads partitions one after the other, each up to a given offset and not one record further.

    As the engine does, it moves a position by compare-and-swap in the transaction that writes the rows: a row is the
    fold of all changes below the position that was committed with it.
    """

    def __init__(
        self,
        view: View,
        positions: Positions,
        conn: psycopg.AsyncConnection[Any],
        fetcher: Fetcher,
        widths: Mapping[str, int],
        topic_ids: Mapping[str, UUID],
        *,
        empty: bool,
        keep_letters: bool,
        tell: Tell,
    ) -> None:
        """`widths`: how many partitions each topic of the view has. `empty`: of a partition whose position is at its
        beginning there are no rows."""
        self._view = view
        self._positions = positions
        self._conn = conn
        self._fetcher = fetcher
        self._widths = widths
        self._topic_ids = topic_ids
        self._empty = empty
        self._keep_letters = keep_letters
        self._tell = tell
        self._known: dict[Partition, Position] = {}
        self._store: Store | None = None
        self._events = 0
        self._changes = 0
        self._told = time.monotonic()

    async def open(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Takes partitions over; returns the offset at which to go on in each. As `Positions.load`."""
        generation, known = await self._positions.load(self._conn, partitions, self._topic_ids)
        if self._store is None:
            self._store = Store(self._view, generation)
            await self._store.prepare(self._conn)
        self._known |= known
        return {partition: position.next_offset for partition, position in known.items()}

    def position(self, partition: Partition) -> int:
        """The next offset of a partition that was opened."""
        return self._known[partition].next_offset

    async def fill(self, ends: Mapping[Partition, int]) -> None:
        """Returns when everything below `ends`, all of them partitions that were opened, is committed."""
        for partition, end in ends.items():
            while (begin := self.position(partition)) < end:
                gathered, next_offset = await self._gather(partition, begin, end)
                crash.point("rebuild.mid_fill")
                try:
                    await self._commit(partition, gathered, next_offset)
                except (LOST, psycopg.errors.DeadlockDetected):
                    await self.open([partition])
                except psycopg.errors.UniqueViolation:
                    # A record of which another partition has brought changes too: the topic was given more partitions.
                    if not self._empty:
                        raise
                    self._empty = False
        self._tell(self._events, self._changes)

    async def _gather(self, partition: Partition, begin: int, end: int) -> tuple[Gathered, int]:
        """As much as may wait, and the offset to which it reaches."""
        gathered = Gathered(self._view, partition, PartitionOrder(self._known[partition].reached))
        began = time.monotonic()
        async with aclosing(self._fetcher.read(partition, begin, end)) as answers:
            async for messages, next_offset in answers:
                gathered.add(messages)
                begin = next_offset
                if gathered.octets >= WAITING_BYTES or time.monotonic() - began >= CHECKPOINT_S:
                    break
        return gathered, begin

    async def _commit(self, partition: Partition, gathered: Gathered, next_offset: int) -> None:
        known = self._known[partition]
        moved = Position(next_offset, known.revision, gathered.order.reached)
        async with self._conn.transaction():
            await self._positions.swap(self._conn, {partition: known}, {partition: moved})
            crash.point("views.swapped")
            await self._write(partition, gathered, next_offset)
            crash.point("views.before_commit")
        crash.point("views.after_commit")
        self._known[partition] = moved
        self._events += next_offset - known.next_offset
        self._changes += gathered.changes

    async def _write(self, partition: Partition, gathered: Gathered, next_offset: int) -> None:
        assert self._store is not None, "no partition is known before `open`"
        conn, store, known = self._conn, self._store, self._known[partition]
        new = self._empty and known == Position(0, 0)
        count, done = gathered.count, 0
        for some in _in_parts(gathered.records(), RECORDS_AT_ONCE):
            held = {} if new else await store.load(conn, [identity for identity, _ in some])
            await store.copy(conn, gathered.rows(some, held), len(some), new=new)
            done += len(some)
            if (now := time.monotonic()) - self._told >= REPORT_S:
                self._told = now
                events = (next_offset - known.next_offset) * done // count
                self._tell(self._events + events, self._changes + gathered.changes)
        if not new:
            await store.merge(conn)
        if gathered.again:
            async for messages, _ in self._fetcher.read(partition, min(gathered.again), max(gathered.again) + 1):
                gathered.sort_again(messages)
        erased = await self._write_later(store, gathered)
        letters = sorted(gathered.letters, key=lambda letter: letter.message.offset) if self._keep_letters else []
        truncated = {} if gathered.truncation is None else {partition: gathered.truncation}
        await write_beside(conn, store, self._positions, self._widths, letters, erased, truncated)

    async def _write_later(self, store: Store, gathered: Gathered) -> list[str]:
        """Does what was put off; returns the ids of the changes that were erased."""
        erased = []
        fold = self._view.fold
        for some in _in_parts(gathered.later.items(), SMALL_BATCH):
            held = {**dict.fromkeys(identity for identity, _ in some), **await store.load(self._conn, dict(some))}
            for identity, events in some:
                ordered = [event for _, event in sorted(events, key=lambda event: event[0])]
                erased += [event.change_id for event in ordered if isinstance(event, Erasure)]
                held[identity] = await take_in(self._conn, fold, identity, held[identity], ordered)
            rows = [one.row(self._view, identity) for identity, one in held.items() if one is not None]
            await store.write(self._conn, rows, len(rows))
            await store.delete(self._conn, [identity for identity, one in held.items() if one is None])
        return erased


def _in_parts(items: Iterable[T], size: int) -> Iterator[Sequence[T]]:
    left = iter(items)
    while some := list(islice(left, size)):
        yield some
