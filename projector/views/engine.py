"""Folds batches of messages into a view's rows: rows, dead letters and positions in one transaction.

Fetch order is the caller's affair; crashes, repeats and rivals are not: whatever happens, a row is the fold of all
changes below the position that was committed with it.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import Task, create_task
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any
from uuid import UUID

import psycopg

from projector import crash, metrics
from projector.errors import PositionOutOfRangeError
from projector.log.order import PartitionOrder
from projector.logging import get
from projector.views.batch import Applied, Batch
from projector.views.beside import write_beside
from projector.views.cache import Cache
from projector.views.declared import Identity, View
from projector.views.held import Row
from projector.views.inbox import DeadLetter, Erasure, Fold, Message, Reload, Truncation, in_order, sort
from projector.views.positions import LOST, Partition, Position, Positions
from projector.views.reload import take_in
from projector.views.store import Store

ROWS_AT_ONCE = 500
"""So many are made before other tasks, the group's heartbeat among them, have their turn."""
IDLE_ADVANCE_S = 1.0
"""How long a position may stay behind when nothing but other views' records came."""

log = get("views")


@dataclass(slots=True)
class Owned:
    """A partition that this engine works on. `read_to` and `order` run ahead of the position over what is not
    committed."""

    position: Position
    read_to: int
    order: PartitionOrder
    cache: Cache
    gap_at: int | None = None

    @property
    def ahead(self) -> Position:
        """The position when all that was read is committed."""
        return Position(self.read_to, self.position.revision, self.order.reached)


@dataclass(frozen=True, slots=True)
class Writing:
    """A batch on its way into the database. Its records may be altered by the next one: its rows are made."""

    batch: Batch
    ahead: Mapping[Partition, Position]
    task: Task[None]
    started: float


class Engine:
    """Works for one view. Not to be entered by two tasks at once.

    When a call raises anything, the engine is done for: nothing that it remembers may be trusted then.
    """

    def __init__(
        self,
        view: View,
        positions: Positions,
        conn: psycopg.AsyncConnection[Any],
        widths: Mapping[str, int],
        *,
        reading: psycopg.AsyncConnection[Any] | None = None,
    ) -> None:
        """`widths`: how many partitions each topic of the view has.

        `reading`: a second connection, for who wants to fold a batch while `conn` writes the one before.
        """
        self._view = view
        self._stores = {number: Store(view, number) for number in (1, 2)}
        self._store: Store | None = None
        self._positions = positions
        self._conn = conn
        self._reading = conn if reading is None else reading
        self._widths = widths
        self._owned: dict[Partition, Owned] = {}
        self._batch = Batch()
        self._writing: Writing | None = None
        self.applied_to: dict[Partition, int] = {}
        """By partition, the offset below which every record of the view is in its rows. To be read only."""
        self._swapped_at = time.monotonic()

    async def open(
        self, partitions: Iterable[Partition], topic_ids: Mapping[str, UUID] | None = None
    ) -> dict[Partition, int]:
        """Takes partitions over; returns the offset at which to go on in each. As `Positions.load`."""
        # A promotion changes the generation and the revision of every position: what was folded for the other
        # generation loses its swap.
        generation, positions = await self._positions.load(self._conn, partitions, topic_ids)
        if self._store is None:
            await self._stores[generation].prepare(self._conn)
        self._store = self._stores[generation]
        for partition, position in positions.items():
            self._owned[partition] = Owned(position, position.next_offset, PartitionOrder(position.reached), Cache())
            self.applied_to[partition] = position.next_offset
        crash.point("views.opened")
        return {partition: position.next_offset for partition, position in positions.items()}

    def release(self, partitions: Iterable[Partition]) -> None:
        """Gives partitions up, and all that is remembered of their records; only when all is committed."""
        for partition in partitions:
            self._owned.pop(partition, None)
            self.applied_to.pop(partition, None)

    @property
    def name(self) -> str:
        """The view's."""
        return self._view.name

    @property
    def partitions(self) -> Collection[Partition]:
        """Those that are open."""
        return self._owned.keys()

    def read_to(self, partition: Partition) -> int:
        """The next offset that this engine wants of a partition it has opened."""
        return self._owned[partition].read_to

    @property
    def waiting_octets(self) -> int:
        """How much was taken and not committed."""
        return self._batch.octets

    async def take(self, messages: Mapping[Partition, Sequence[Message]]) -> dict[Partition, int]:
        """Folds what was fetched, in memory; returns where the caller must fetch from instead.

        Raises PositionOutOfRangeError when the topic lacks offsets that were not applied yet.
        """
        seek: dict[Partition, int] = {}
        events: dict[Identity, list[Fold | Reload]] = {}
        for partition, fetched in messages.items():
            owned = self._owned.get(partition)
            if owned is None or not fetched:
                continue
            if fetched[0].offset > owned.read_to:
                seek[partition] = self._gap(partition, owned, fetched[0].offset)
            else:
                self._read(events, partition, owned, fetched)
        await self._load(events)
        for identity, its_events in events.items():
            await self._fold(identity, its_events)
        if events:
            crash.point("views.taken")
        return seek

    async def commit(self, *, flush: bool = False, wait: bool = True) -> Applied:
        """Commits what was taken. Records of other views alone move the position no more than once a second,
        unless `flush` is set.

        Without `wait`, which needs a second connection, the batch is written while the next one is taken, and what
        came of it is told by the next call.
        """
        before = await self._written()
        if before.seek:
            return before
        batch, self._batch = self._batch, Batch()
        ahead = {p: owned.ahead for p, owned in self._owned.items() if owned.read_to > owned.position.next_offset}
        idle = batch.is_empty and not flush and time.monotonic() - self._swapped_at < IDLE_ADVANCE_S
        if idle or not ahead:
            self.applied_to |= _offsets(ahead)
            return before
        # A truncation alters rows that the next batch could load meanwhile.
        alone = wait or bool(batch.truncated)
        # What is taken next must not come into these rows: they are made before it is.
        rows = batch.rows(self._view) if alone else await _made(batch.rows(self._view))
        task = create_task(self._commit(batch, rows, ahead))
        self._writing = Writing(batch, ahead, task, time.monotonic())
        return before + await self._written() if alone else before

    async def abandon(self) -> None:
        """Ends what is being written, if anything: it will be done again by whoever opens the partitions next."""
        if self._writing is not None:
            self._writing.task.cancel()
            await asyncio.wait((self._writing.task,))

    async def _written(self) -> Applied:
        """What came of the batch that was being written, when it is."""
        if self._writing is None:
            return Applied()
        batch, ahead = self._writing.batch, self._writing.ahead
        try:
            await self._writing.task
        except (LOST, psycopg.errors.DeadlockDetected):
            metrics.VIEW_SWAPS_LOST.labels(self._view.name).inc()
            self._writing, self._batch = None, Batch()
            # What was taken since is void as well.
            void = [p for p, owned in self._owned.items() if owned.read_to > owned.position.next_offset]
            return Applied(seek=await self.open(void))
        seconds = time.monotonic() - self._writing.started
        self._writing = None
        self._settle(batch, ahead, seconds)
        return Applied(batch.changes, len(batch.held), _offsets(ahead))

    def _gap(self, partition: Partition, owned: Owned, offset: int) -> int:
        """A fetch may have been on its way when the partition was opened: ask again, but only once."""
        if owned.gap_at == offset:
            raise PositionOutOfRangeError(
                f"view {self._view.name} needs offset {owned.read_to} of {partition.topic}-{partition.partition}, "
                f"which begins at {offset}"
            )
        owned.gap_at = offset
        return owned.read_to

    def _read(
        self,
        events: dict[Identity, list[Fold | Reload]],
        partition: Partition,
        owned: Owned,
        fetched: Sequence[Message],
    ) -> None:
        batch = self._batch
        for message in fetched:
            if message.offset < owned.read_to:
                continue
            owned.read_to = message.offset + 1
            sorted_out = sort(self._view, message)
            if sorted_out is None:
                continue
            event = in_order(owned.order, sorted_out)
            batch.again += event is not sorted_out
            if isinstance(event, Truncation):
                batch.truncated[partition] = event
                continue
            batch.octets += len(message.value or b"")
            if isinstance(event, DeadLetter):
                batch.letters.append(event)
                continue
            batch.changes += 1
            batch.partition_of[event.identity] = partition
            events.setdefault(event.identity, []).append(event)
            if isinstance(event, Fold) and not event.filled:
                batch.newest_commit_us = message.timestamp * 1000
        owned.gap_at = None

    async def _load(self, events: Iterable[Identity]) -> None:
        """Brings the records of `events` into the batch, as far as there are any."""
        batch, missing = self._batch, []
        writing = {} if self._writing is None else self._writing.batch.held
        for identity in events:
            if identity in batch.held:
                continue
            if identity in writing:
                batch.held[identity] = writing[identity]
                continue
            held = self._owned[batch.partition_of[identity]].cache.take(identity)
            if held is None:
                missing.append(identity)
            else:
                batch.octets += held.size
            batch.held[identity] = held
        if self._store is not None:
            loaded = await self._store.load(self._reading, missing)
            batch.octets += sum(held.size for held in loaded.values())
            batch.held |= loaded

    async def _fold(self, identity: Identity, events: Sequence[Fold | Reload]) -> None:
        batch = self._batch
        batch.erased += [event.change_id for event in events if isinstance(event, Erasure)]
        try:
            batch.held[identity] = await take_in(
                self._reading, self._view.fold, identity, batch.held[identity], events, batch.noticed
            )
        except Exception as error:
            partition = batch.partition_of[identity]
            error.add_note(f"in {'/'.join(identity)}, of {partition} below offset {self.read_to(partition)}")
            raise

    async def _commit(self, batch: Batch, rows: Iterable[Row], ahead: Mapping[Partition, Position]) -> None:
        assert self._store is not None, "nothing is ahead of its position before `open`"
        known = {partition: self._owned[partition].position for partition in ahead}
        if batch.is_small:
            crash.point("views.before_commit")
            await self._store.swap_and_write(self._conn, rows, self._positions.swapping(known, ahead))
        else:
            async with self._conn.transaction():
                # First, because it makes rivals wait before they touch a row.
                await self._positions.swap(self._conn, known, ahead)
                crash.point("views.swapped")
                await self._write(self._store, batch, rows)
                crash.point("views.before_commit")
        crash.point("views.after_commit")

    async def _write(self, store: Store, batch: Batch, rows: Iterable[Row]) -> None:
        gone = batch.gone
        await store.write(self._conn, rows, len(batch.held) - len(gone))
        await store.delete(self._conn, gone)
        await write_beside(
            self._conn, store, self._positions, self._widths, batch.letters, batch.erased, batch.truncated
        )

    def _settle(self, batch: Batch, ahead: Mapping[Partition, Position], seconds: float) -> None:
        """The transaction is committed: what was folded may be remembered."""
        self._swapped_at = time.monotonic()
        for partition, position in ahead.items():
            self._owned[partition].position = position
        for identity, held in batch.kept:
            # One that the next batch has taken over is put back with it.
            if identity not in self._batch.held:
                self._owned[batch.partition_of[identity]].cache.put(identity, held)
        for partition in batch.truncated:
            self._owned[partition].cache.clear()
        self.applied_to |= _offsets(ahead)
        name = self._view.name
        metrics.VIEW_CHANGES.labels(name).inc(batch.changes)
        metrics.VIEW_ROWS.labels(name).inc(len(batch.held))
        metrics.VIEW_CAME_AGAIN.labels(name).inc(batch.again)
        metrics.VIEW_TRANSACTION_SECONDS.labels(name).observe(seconds)
        for kind, count in asdict(batch.noticed).items():
            if count and kind != "changes":
                metrics.VIEW_NOTICED.labels(name, kind).inc(count)
        for letter in batch.letters:
            metrics.VIEW_DEAD_LETTERS.labels(name, letter.reason).inc()
        if batch.newest_commit_us is not None:
            metrics.VIEW_COMMIT_TO_ROW_SECONDS.labels(name).observe(
                max(0.0, time.time() - batch.newest_commit_us / 1e6)
            )


def _offsets(positions: Mapping[Partition, Position]) -> dict[Partition, int]:
    return {partition: position.next_offset for partition, position in positions.items()}


async def _made(rows: Iterator[Row]) -> list[Row]:
    made: list[Row] = []
    while some := list(islice(rows, ROWS_AT_ONCE)):
        made += some
        await asyncio.sleep(0)
    return made
