"""Tells a row that is wrong from one that is merely behind, and finds the change that a wrong one lacks.

The log runs ahead of a view. In the snapshot in which a row was compared, every change of its record is either applied,
or lies in the topic at or above the view's position, or has not reached the topic. A row that is the fold of the log
without some changes of the second kind is right at its position. For those of the third kind the stream is waited for,
until a watermark says that everything in the snapshot is published.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import psycopg

from projector.config import Settings
from projector.errors import NotReachedError
from projector.log.change import Change
from projector.log.place import parse_lsn
from projector.log.watermark import Watermark
from projector.sql import query
from projector.views.compare import Compared, Comparison, Differing, Keys, Scope, snapshot
from projector.views.declared import Identity, View
from projector.views.differences import Difference, Kind, kind_of, shown
from projector.views.jsondiff import show_path
from projector.views.positions import Partition, Positions, widths_of
from projector.views.published import Published, Tail, published
from projector.views.reading import reading_of
from projector.views.topic_ids import topic_ids
from projector.views.wait import wait_until_published

POLL_S = 0.2


class Judge:
    """For one view; `conn` sees every row. Kafka is asked for nothing while nothing differs."""

    def __init__(
        self,
        settings: Settings,
        view: View,
        comparison: Comparison,
        conn: psycopg.AsyncConnection[Any],
        open_later: AsyncExitStack,
    ) -> None:
        self._settings = settings
        self._view = view
        self._reading = reading_of(view)
        self._comparison = comparison
        self._conn = conn
        self._open_later = open_later
        self._opened: Published | None = None
        self._fields = {column.name: column.field for column in view.columns if column.field is not None}

    async def judge(self, scope: Scope, settle_s: float, room: int) -> tuple[Compared, int, list[Difference]]:
        """Compares the scope: (what was compared, records that differ and are not behind, up to `room` explained).

        Waits up to `settle_s` seconds for the stream to publish what the snapshot holds, and for the view to fold
        records anew whose rows were erased from the log.
        """
        deadline = time.monotonic() + settle_s
        first: Compared | None = None
        while True:
            async with snapshot(self._conn):
                compared = await self._comparison.compare(self._conn, scope)
                first = first or compared
                if not compared.differing:
                    return first, 0, []
                found = await self._look(compared.differing, deadline)
                if not found.left:
                    return first, 0, []
                if not found.unsettled or time.monotonic() >= deadline:
                    return first, len(found.left), await self._explain(found, room)
            await asyncio.sleep(POLL_S)
            scope = Keys([one.identity for one in found.left])

    async def _look(self, differing: Sequence[Differing], deadline: float) -> _Look:
        topics = await self._topics()
        positions, lsn = await self._positions(topics.cluster)
        wanted = {topics.partition(one.identity) for one in differing}
        look = _Look(list(differing), {place: positions.get(place, 0) for place in wanted if place is not None})
        async with self._wait(lsn, deadline) as waiting:
            while True:
                # Asked before the tail is read: what was published then is in it.
                complete = waiting is None or waiting.done()
                look.tail = await topics.tail(look.positions)
                await self._leave_out(look)
                look.unsettled = any(
                    one.identity in look.tail.erased or topics.partition(one.identity) in look.tail.truncated
                    for one in look.left
                )
                # What is to be folded anew from the log will not agree with this snapshot, however long it is waited.
                if complete or look.unsettled or not look.left:
                    return look
                await asyncio.wait({waiting} if waiting is not None else (), timeout=POLL_S)

    async def _leave_out(self, look: _Look) -> None:
        """Compares again without the changes that the view has still before it, and keeps what differs still."""
        if not look.tail.changes:
            return
        changes = await self._comparison.changes(self._conn, [one.identity for one in look.left])
        ahead: list[Identity] = []
        for one in look.left:
            # The view may have folded some of them already, when it read a record anew from the log.
            missing = self._reading.missing(one.state, [c for c in changes[one.identity] if c.id in look.tail.changes])
            look.without[one.identity] = missing
            if missing:
                ahead.append(one.identity)
        again = {one.identity: one for one in await self._compare_without(ahead, look.without)}
        look.left = [
            again.get(one.identity, one) for one in look.left if one.identity in again or not look.without[one.identity]
        ]

    async def _compare_without(
        self, identities: Sequence[Identity], without: dict[Identity, set[str]]
    ) -> list[Differing]:
        ids = {change_id for identity in identities for change_id in without[identity]}
        return (await self._comparison.compare(self._conn, Keys(identities, ids))).differing if identities else []

    async def _explain(self, look: _Look, room: int) -> list[Difference]:
        chosen = look.left[:room]
        if not chosen:
            return []
        topics = await self._topics()
        log = await self._comparison.changes(self._conn, [one.identity for one in chosen])
        changes = {
            identity: [change for change in found if change.id not in look.without.get(identity, ())]
            for identity, found in log.items()
        }
        offsets = await _offsets(topics, changes)
        letters = await self._letters([change.id for found in changes.values() for change in found])
        differences = []
        for one in chosen:
            rows = sorted(changes[one.identity], key=lambda change: _order(change, offsets))
            absent = self._reading.missing(one.state, [c for c in rows if c.id not in offsets])
            parting = self._reading.parting(one.state, rows, self._source(one.found.names))
            kind = _kind(one)
            if absent and not letters.keys() & absent:
                without = {one.identity: absent | look.without.get(one.identity, set())}
                if not await self._compare_without([one.identity], without):
                    kind = "not in the topic"
            where = ""
            if parting is not None and parting.why != "not in the log":
                where = letters.get(parting.change_id) or await _where(topics, one.identity, offsets, parting.change_id)
            serving, folded = shown(one.found, self._comparison.instants)
            path = show_path(one.found.path)
            differences.append(Difference(one.identity, kind, path, serving, folded, parting, where))
        return differences

    def _source(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """Of a typed column, the field of the record that it shows."""
        field = self._fields.get(path[0]) if path else None
        return path if field is None else ("record", field)

    async def _topics(self) -> Published:
        """Raises ForeignClusterError or TopicRecreatedError when the view's positions are of other topics than these.

        What lies above such positions is not what the view has still before it.
        """
        if self._opened is None:
            found = await self._open_later.enter_async_context(published(self._settings, self._view))
            ids = await topic_ids(self._settings, widths_of(found.partitions))
            await Positions(self._view.name, found.cluster).expect(self._conn, found.partitions, ids)
            self._opened = found
        return self._opened

    async def _positions(self, cluster: str) -> tuple[dict[Partition, int], int]:
        """The view's positions, and how far the server had written when the snapshot was taken, or later."""
        cursor = await self._conn.execute(query("views/verify_positions"), {"view": self._view.name})
        rows = await cursor.fetchall()
        positions = {Partition(topic, number): offset for of, topic, number, offset, _ in rows if of == cluster}
        return positions, max((parse_lsn(row[4]) for row in rows), default=0)

    async def _letters(self, change_ids: Sequence[str]) -> dict[str, str]:
        parameters = {"view": self._view.name, "change_ids": list(change_ids)}
        return dict(await (await self._conn.execute(query("views/verify_letters"), parameters)).fetchall())

    @asynccontextmanager
    async def _wait(self, lsn: int, deadline: float) -> AsyncIterator[asyncio.Task[Watermark] | None]:
        """A task that ends when everything up to `lsn` is published, or at the deadline; None when that is past."""
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            yield None
            return
        waiting = asyncio.create_task(wait_until_published(self._settings, self._conn, lsn, seconds))
        try:
            yield waiting
        finally:
            waiting.cancel()
            [outcome] = await asyncio.gather(waiting, return_exceptions=True)
        # Without the stream nobody can say; what is missing is then reported as not in the topic.
        if isinstance(outcome, Exception) and not isinstance(outcome, NotReachedError):
            raise outcome


class _Look:
    """What is `left` to explain in one snapshot, without those changes of each record that the view has before it."""

    def __init__(self, left: list[Differing], positions: dict[Partition, int]) -> None:
        self.left = left
        self.positions = positions
        self.tail = Tail()
        self.without: dict[Identity, set[str]] = {}
        self.unsettled = False


def _kind(one: Differing) -> Kind:
    if not one.in_view:
        return "missing row"
    return kind_of(one.found.path) if one.in_log else "extra row"


def _order(change: Change, offsets: dict[str, int]) -> tuple[bool, int, str]:
    """As in the topic; what is not there comes last, as it was created."""
    offset = offsets.get(change.id)
    return offset is None, change.created_at_us if offset is None else offset, change.id


async def _offsets(topics: Published, changes: dict[Identity, list[Change]]) -> dict[str, int]:
    """Where the changes stand in their partitions; each partition is read once."""
    wanted: dict[Partition, list[Change]] = {}
    for identity, rows in changes.items():
        partition = topics.partition(identity)
        if partition is not None and rows:
            wanted.setdefault(partition, []).extend(rows)
    found: dict[str, int] = {}
    for partition, rows in wanted.items():
        found |= await topics.find(partition, {c.id for c in rows}, min(c.created_at_us for c in rows))
    return found


async def _where(topics: Published, identity: Identity, offsets: dict[str, int], change_id: str) -> str:
    partition = topics.partition(identity)
    if partition is None:
        return "not in the topic, which does not exist"
    place = f"{partition.topic}-{partition.partition}"
    if change_id in offsets:
        return f"{place} at offset {offsets[change_id]}"
    first, _ = await topics.range(partition)
    return f"not in {place}" + (f", which begins at offset {first}" if first else "")
