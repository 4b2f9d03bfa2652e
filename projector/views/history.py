"""All that is known of one record: its changes out of the partition that holds them, and what the database says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import psycopg
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from psycopg import sql

from projector.config import Settings
from projector.errors import ConfigError, MissingTopicError, UnknownRecordError
from projector.kafka import admin, explain_failure
from projector.log.change import BadChange, Change, decode
from projector.log.place import Place, parse_lsn
from projector.log.topics import Topics, partition_of
from projector.sql import query
from projector.sql.connection import connect
from projector.views import kafka
from projector.views.asof import Reach
from projector.views.collect import Collector, Erased, Letter
from projector.views.declared import IDENTITY, VIEWS, Identity, View
from projector.views.explain import Entry
from projector.views.positions import Partition
from projector.views.reload import LOG_VALUE
from projector.views.scan import Report, Scan
from projector.views.serving import Position, ServingRow, Standing, read_position, read_row, standing


@dataclass(frozen=True, slots=True)
class History:
    """All that is known of one record.

    `entries` are the changes that the fold takes, in the order of the topic: first those of before its beginning, last
    those that are not in it yet. `scanned` is how many records were read, from offset `begin` on.
    """

    view: View
    identity: Identity
    partition: Partition
    begin: int
    end: int
    scanned: int
    reach: Reach
    entries: list[Entry]
    erased: list[Erased]
    letters: list[Letter]
    letters_more: int
    repeats: int
    unlogged: int
    row: ServingRow | None
    position: Position

    @property
    def standing(self) -> Standing:
        """Whether the serving row is the fold of `entries`, or only of what its view has come to."""
        published = [entry for entry in self.entries if entry.whence != "not in the topic yet"]
        return standing(self.row, _changes(self.entries), _changes(published), _changes(self._applied()))

    @property
    def to_come(self) -> int:
        """Changes that the view has not come to."""
        applied = {entry.change.id for entry in self._applied()}
        return sum(entry.change.id not in applied for entry in self.entries)

    def _applied(self) -> list[Entry]:
        """What lies below the view's position, with what only a record above it says was erased."""
        upto = self.position.next_offset or 0
        entries = [e for e in self.entries if e.whence != "not in the topic yet" and (e.offset or 0) < upto]
        late = [e.entry for e in self.erased if e.entry is not None and (e.entry.offset or 0) < upto <= e.by.offset]
        return entries + late


def _changes(entries: list[Entry]) -> list[Change]:
    return [entry.change for entry in entries]


class _Log(NamedTuple):
    """What the database says, as of one moment. `good` and `bad` are rows of sync_changes by change id."""

    good: dict[str, Change]
    bad: dict[str, BadChange]
    unpublished: set[str]
    too_large: list[Letter]
    row: ServingRow | None
    position: Position
    newest_source: int


def view_of(app_id: str, table: str) -> View:
    """The view that keeps the records of this table."""
    return next(view for view in VIEWS.values() if view.takes(app_id, table))


async def read_history(settings: Settings, identity: Identity, report: Report | None = None) -> History:
    """Reads the record's partition and the database; writes nothing.

    Raises ConfigError for an app that is not followed, MissingTopicError, UnknownRecordError, and what connections do.
    """
    view = view_of(*identity[1:3])
    partition = await _partition_of(settings, identity)
    cluster = await kafka.cluster_id(settings)
    async with (
        await connect(settings, "projector_engine") as conn,
        kafka.consumer(settings) as consumer,
    ):
        scan = Scan(consumer, TopicPartition(*partition), Collector(view, identity), report)
        try:
            await scan.from_time(await _created_ms(conn, identity))
            log = await _read_log(conn, settings, view, identity, partition, cluster)
            # The view may have moved on meanwhile, and what it has applied belongs to what it is compared with.
            await scan.to_offset(log.position.next_offset or 0)
            if _missing(scan.collector, log):
                await scan.from_beginning()
            beginning = await scan.beginning()
        except KafkaError as error:
            raise await explain_failure(settings, error, f"cannot read {partition.topic}") from error
    found = scan.collector
    entries = list(_entries(found, log, cut=beginning > 0))
    letters = list(_letters(found, log))
    erased = list(_erased(found, log))
    if not entries and not letters and not erased and log.row is None:
        raise UnknownRecordError(f"there is no record {'/'.join(identity)}")
    return History(
        view=view,
        identity=identity,
        partition=partition,
        begin=scan.begin,
        end=scan.end,
        scanned=scan.done,
        reach=_reach(found, log, beginning),
        entries=entries,
        erased=erased,
        letters=letters,
        letters_more=found.letters_more,
        repeats=found.repeats,
        unlogged=sum(entry.change.id not in log.good for entry in entries),
        row=log.row,
        position=log.position,
    )


async def read_serving(settings: Settings, identity: Identity) -> tuple[ServingRow, Position]:
    """The serving row alone, with the position of its view; raises UnknownRecordError when there is none."""
    view = view_of(*identity[1:3])
    partition = await _partition_of(settings, identity)
    cluster = await kafka.cluster_id(settings)
    async with await connect(settings, "projector_engine") as conn, _snapshot(conn):
        row = await read_row(conn, view, identity)
        position = await read_position(conn, view, cluster, partition, kafka.topics_of(settings, view))
    if row is None:
        raise UnknownRecordError(
            f"view {view.name} has no row {'/'.join(identity)}",
            "`projector explain` tells whether the log has the record, and how far the view is",
        )
    return row, position


async def _partition_of(settings: Settings, identity: Identity) -> Partition:
    user_id, app_id, _, _ = identity
    if app_id not in settings.apps:
        raise ConfigError(f"app {app_id!r} is not among PROJECTOR_APPS: {', '.join(settings.apps)}")
    topic = Topics(settings.topic_prefix).changes(app_id)
    async with admin(settings) as client:
        if topic not in await client.list_topics():
            raise MissingTopicError(f"there is no topic {topic}")
    width = len(await kafka.partitions_of(settings, [topic]))
    return Partition(topic, partition_of(user_id.encode(), width))


@asynccontextmanager
async def _snapshot(conn: psycopg.AsyncConnection[Any]) -> AsyncIterator[None]:
    """Everything inside is read as of one moment."""
    async with conn.transaction():
        await conn.execute("set transaction isolation level repeatable read read only")
        yield


async def _created_ms(conn: psycopg.AsyncConnection[Any], identity: Identity) -> float | None:
    parameters = dict(zip(IDENTITY, identity, strict=True))
    row = await (await conn.execute(query("views/history_begin"), parameters)).fetchone()
    return None if row is None else row[0]


async def _read_log(
    conn: psycopg.AsyncConnection[Any],
    settings: Settings,
    view: View,
    identity: Identity,
    partition: Partition,
    cluster: str,
) -> _Log:
    parameters: dict[str, Any] = dict(zip(IDENTITY, identity, strict=True)) | {"since": "-infinity"}
    rows = sql.SQL("select value::json ->> 'id', value from ({}) as found (value)").format(
        sql.SQL(query("views/reload")).format(value=LOG_VALUE)
    )
    good: dict[str, Change] = {}
    bad: dict[str, BadChange] = {}
    async with _snapshot(conn):
        for change_id, value in await (await conn.execute(rows, parameters)).fetchall():
            try:
                good[change_id] = decode(value.encode())
            except BadChange as error:
                bad[change_id] = error
        unpublished = await (await conn.execute(query("views/history_unpublished"), parameters)).fetchall()
        letters = {"user_id": identity[0], "ids": [*good, *bad]}
        too_large = [
            Letter(reason, f"{size} bytes", change_id, Place(source, parse_lsn(lsn), ordinal), None, names_record=True)
            for change_id, source, lsn, ordinal, reason, size in await (
                await conn.execute(query("views/history_letters"), letters)
            ).fetchall()
        ]
        row = await read_row(conn, view, identity)
        position = await read_position(conn, view, cluster, partition, kafka.topics_of(settings, view))
        newest = await (await conn.execute("select coalesce(max(generation), 0) from mana_ai.cdc_sources")).fetchone()
    assert newest is not None
    return _Log(good, bad, {one for (one,) in unpublished}, too_large, row, position, newest[0])


def _missing(found: Collector, log: _Log) -> set[str]:
    """Changes that the topic should hold and that were not found where it was read."""
    elsewhere = {letter.change_id for letter in (*found.letters.values(), *log.too_large)}
    return (log.good.keys() | log.bad.keys()) - found.entries.keys() - elsewhere - log.unpublished


def _entries(found: Collector, log: _Log, *, cut: bool) -> Iterator[Entry]:
    """What the fold takes. A row of sync_changes counts as it is now, whatever was erased before."""
    folded = {i: c for i, c in log.good.items() if i not in found.entries}
    for letter in (*found.letters.values(), *log.too_large):
        if letter.change_id is not None:
            folded.pop(letter.change_id, None)
    without = sorted(folded.values(), key=lambda change: (change.created_at_us, change.id))
    lost = {change.id for change in without if cut and change.id not in log.unpublished}
    for change in without:
        if change.id in lost:
            yield Entry(change, change.created_at_us, whence="before the topic's beginning")
    for entry in sorted(found.entries.values(), key=lambda entry: entry.offset or 0):
        now = log.good.get(entry.change.id)
        if now is not None and entry.change.id in found.erasures:
            yield replace(entry, change=now)
        elif now is not None or found.erasure_of(entry.change.id, entry.offset) is None:
            yield entry
    for change in without:
        if change.id not in lost:
            yield Entry(change, change.created_at_us, whence="not in the topic yet")


def _erased(found: Collector, log: _Log) -> Iterator[Erased]:
    logged = log.good.keys() | log.bad.keys()
    for change_id, entry in found.entries.items():
        by = found.erasure_of(change_id, entry.offset)
        if by is not None and change_id not in logged:
            yield Erased(change_id, by, entry)
    for change_id, by in found.erasures.items():
        if change_id not in logged and change_id not in found.entries:
            yield Erased(change_id, by, None)


def _letters(found: Collector, log: _Log) -> Iterator[Letter]:
    """Dead letters of the topic in its order, then rows of sync_changes that are bad wherever they come from."""
    told = set()
    for offset, letter in sorted(found.letters.items()):
        logged = letter.change_id in log.good or letter.change_id in log.bad
        if letter.change_id is not None:
            told.add(letter.change_id)
            if not logged and found.erasure_of(letter.change_id, offset) is not None:
                continue
        yield letter._replace(names_record=letter.names_record or logged)
    for change_id, error in log.bad.items():
        if change_id not in told:
            yield Letter(error.code, error.detail, change_id, None, None, names_record=True)
    yield from (letter for letter in log.too_large if letter.change_id not in found.entries)


def _reach(found: Collector, log: _Log, beginning: int) -> Reach:
    sources = [entry.place.source for entry in found.entries.values() if entry.place is not None]
    first = None if found.first is None else found.first[1]
    return Reach(beginning, first, max([log.newest_source, *sources]))
