"""Folds batches of messages into a view's rows: rows, dead letters and positions in one transaction.

Fetch order is the caller's affair; crashes, repeats and rivals are not: whatever happens, a row is the fold of all
changes below the position that was committed with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg

from projector import crash, metrics
from projector.errors import PositionOutOfRangeError
from projector.fold import Counters
from projector.logging import get
from projector.views import deadletters
from projector.views.cache import Cache
from projector.views.declared import Identity, View
from projector.views.held import Held
from projector.views.inbox import DeadLetter, Fold, Message, Reload, Truncation, sort
from projector.views.positions import Partition, Position, Positions, SwapLostError
from projector.views.reload import reload
from projector.views.store import Store
from projector.views.truncate import reload_partition

IDLE_ADVANCE_S = 1.0
"""How long a position may stay behind when nothing but other views' records came."""

log = get("views")


@dataclass(slots=True)
class Owned:
    """A partition that this engine works on. `read_to` runs ahead of the position over foreign records."""

    position: Position
    read_to: int
    cache: Cache = field(default_factory=Cache)
    gap_at: int | None = None


@dataclass(slots=True)
class Batch:
    """What one fetch comes to, before it is committed."""

    events: dict[Identity, list[Fold | Reload]] = field(default_factory=dict)
    partition_of: dict[Identity, Partition] = field(default_factory=dict)
    letters: list[DeadLetter] = field(default_factory=list)
    held: dict[Identity, Held] = field(default_factory=dict)
    gone: list[Identity] = field(default_factory=list)
    erased: list[str] = field(default_factory=list)
    truncated: dict[Partition, Truncation] = field(default_factory=dict)
    noticed: Counters = field(default_factory=Counters)
    changes: int = 0
    newest_commit_us: int | None = None

    @property
    def is_empty(self) -> bool:
        return not self.events and not self.letters and not self.truncated


@dataclass(frozen=True, slots=True)
class Applied:
    """`committed`: the next offsets that are now in the database. `seek`: where the caller must fetch from instead."""

    changes: int = 0
    rows: int = 0
    committed: Mapping[Partition, int] = field(default_factory=dict)
    seek: Mapping[Partition, int] = field(default_factory=dict)


class Engine:
    """Works for one view on one connection. Not to be entered by two tasks at once.

    When a call raises anything, the engine is done for: nothing that it remembers may be trusted then.
    """

    def __init__(
        self,
        view: View,
        store: Store,
        positions: Positions,
        conn: psycopg.AsyncConnection[Any],
        widths: Mapping[str, int],
        *,
        keep_letters: bool = True,
    ) -> None:
        """`widths`: how many partitions each topic of the view has."""
        self._view = view
        self._store = store
        self._positions = positions
        self._conn = conn
        self._widths = widths
        self._keep_letters = keep_letters
        self._owned: dict[Partition, Owned] = {}
        self.applied_to: dict[Partition, int] = {}
        """By partition, the offset below which every record of the view is in its rows. To be read only."""
        self._swapped_at = time.monotonic()

    async def open(
        self, partitions: Iterable[Partition], topic_ids: Mapping[str, UUID] | None = None
    ) -> dict[Partition, int]:
        """Takes partitions over; returns the offset at which to go on in each. As `Positions.load`."""
        positions = await self._positions.load(self._conn, partitions, topic_ids)
        for partition, position in positions.items():
            self._owned[partition] = Owned(position, position.next_offset)
            self.applied_to[partition] = position.next_offset
        return {partition: position.next_offset for partition, position in positions.items()}

    def release(self, partitions: Iterable[Partition]) -> None:
        """Gives partitions up, and all that is remembered of their records."""
        for partition in partitions:
            self._owned.pop(partition, None)
            self.applied_to.pop(partition, None)

    def read_to(self, partition: Partition) -> int:
        """The next offset that this engine wants of a partition it has opened."""
        return self._owned[partition].read_to

    async def apply(self, messages: Mapping[Partition, Sequence[Message]], *, flush: bool = False) -> Applied:
        """Folds and commits what was fetched; also to be called without messages, about once a second.

        Records of other views move the position no more often than that, unless `flush` is set.
        Raises PositionOutOfRangeError when the topic lacks offsets that were not applied yet.
        """
        batch = Batch()
        seek = {}
        for partition, fetched in messages.items():
            owned = self._owned.get(partition)
            if owned is None or not fetched:
                continue
            if fetched[0].offset > owned.read_to:
                seek[partition] = self._gap(partition, owned, fetched[0].offset)
            else:
                self._read(batch, partition, owned, fetched)
        await self._fold(batch)
        ahead = {p: owned.read_to for p, owned in self._owned.items() if owned.read_to > owned.position.next_offset}
        idle = batch.is_empty and not flush and time.monotonic() - self._swapped_at < IDLE_ADVANCE_S
        if idle or not ahead:
            self.applied_to |= ahead
            return Applied(seek=seek)
        started = time.monotonic()
        try:
            await self._commit(batch, ahead)
        except (SwapLostError, psycopg.errors.DeadlockDetected):
            metrics.VIEW_SWAPS_LOST.labels(self._view.name).inc()
            return Applied(seek=seek | await self.open(ahead))
        self._settle(batch, ahead, time.monotonic() - started)
        return Applied(batch.changes, len(batch.held), ahead, seek)

    def _gap(self, partition: Partition, owned: Owned, offset: int) -> int:
        """A fetch may have been on its way when the partition was opened: ask again, but only once."""
        if owned.gap_at == offset:
            raise PositionOutOfRangeError(
                f"view {self._view.name} needs offset {owned.read_to} of {partition.topic}-{partition.partition}, "
                f"which begins at {offset}"
            )
        owned.gap_at = offset
        return owned.read_to

    def _read(self, batch: Batch, partition: Partition, owned: Owned, fetched: Sequence[Message]) -> None:
        for message in fetched:
            if message.offset < owned.read_to:
                continue
            owned.read_to = message.offset + 1
            event = sort(self._view, message)
            if event is None:
                continue
            if isinstance(event, Truncation):
                batch.truncated[partition] = event
                continue
            if isinstance(event, DeadLetter):
                batch.letters.append(event)
                continue
            batch.changes += 1
            batch.partition_of[event.identity] = partition
            batch.events.setdefault(event.identity, []).append(event)
            if isinstance(event, Fold) and not event.filled:
                batch.newest_commit_us = message.timestamp * 1000
        owned.gap_at = None

    async def _fold(self, batch: Batch) -> None:
        missing = []
        for identity in batch.events:
            held = self._owned[batch.partition_of[identity]].cache.take(identity)
            if held is None:
                missing.append(identity)
            else:
                batch.held[identity] = held
        batch.held.update(await self._store.load(self._conn, missing))
        for identity, events in batch.events.items():
            held = batch.held.get(identity)
            for event in events:
                if isinstance(event, Reload):
                    batch.erased.append(event.change_id)
                    held = await reload(self._conn, identity, held, event.place)
                else:
                    held = Held() if held is None else held
                    held.take(event.change, event.place, batch.noticed)
            if held is None:
                batch.held.pop(identity, None)
                batch.gone.append(identity)
            else:
                batch.held[identity] = held

    async def _commit(self, batch: Batch, ahead: Mapping[Partition, int]) -> None:
        rows = [held.row(self._view, identity) for identity, held in batch.held.items()]
        known = {partition: self._owned[partition].position for partition in ahead}
        async with self._conn.transaction():
            # First, because it makes rivals wait before they touch a row.
            await self._positions.swap(self._conn, known, ahead)
            await self._store.write(self._conn, rows)
            await self._store.delete(self._conn, batch.gone)
            if batch.erased:
                await deadletters.erase(self._conn, self._positions.name, batch.erased)
            if batch.letters and self._keep_letters:
                await deadletters.insert(self._conn, self._positions.name, self._positions.cluster, batch.letters)
            # What followed in the same batch is in the log by now, so it is reloaded too.
            for partition, truncation in batch.truncated.items():
                await self._truncate(partition, truncation)
            crash.point("views.before_commit")
        crash.point("views.after_commit")

    async def _truncate(self, partition: Partition, truncation: Truncation) -> None:
        name, cluster = self._positions.name, self._positions.cluster
        await reload_partition(self._conn, self._store, partition, self._widths[partition.topic], truncation.place)
        await deadletters.erase_below(self._conn, name, cluster, partition, truncation.offset)
        log.info("log truncated, partition reloaded", view=name, topic=partition.topic, partition=partition.partition)

    def _settle(self, batch: Batch, ahead: Mapping[Partition, int], seconds: float) -> None:
        """The transaction is committed: what was folded may be remembered."""
        self._swapped_at = time.monotonic()
        for partition, next_offset in ahead.items():
            owned = self._owned[partition]
            owned.position = Position(next_offset, owned.position.revision)
        for identity, held in batch.held.items():
            self._owned[batch.partition_of[identity]].cache.put(identity, held)
        for partition in batch.truncated:
            self._owned[partition].cache.clear()
        self.applied_to |= ahead
        name = self._view.name
        metrics.VIEW_CHANGES.labels(name).inc(batch.changes)
        metrics.VIEW_ROWS.labels(name).inc(len(batch.held))
        metrics.VIEW_TRANSACTION_SECONDS.labels(name).observe(seconds)
        for kind in ("unstamped_keys", "invalid_stamps", "future_stamps", "null_data", "stripped_keys"):
            if count := getattr(batch.noticed, kind):
                metrics.VIEW_NOTICED.labels(name, kind).inc(count)
        for letter in batch.letters:
            metrics.VIEW_DEAD_LETTERS.labels(name, letter.reason).inc()
        if batch.newest_commit_us is not None:
            metrics.VIEW_COMMIT_TO_ROW_SECONDS.labels(name).observe(
                max(0.0, time.time() - batch.newest_commit_us / 1e6)
            )
