"""Where everything stands: the source, a fill that runs, the topics, each view, dead letters, runs.

Each part is asked for itself, so one server that is away leaves the others' answers; times are by the database's clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import psycopg
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from projector.cdc.fill_progress import Step
from projector.cdc.health import Health, sample
from projector.config import Settings
from projector.errors import (
    BrokerUnavailableError,
    DatabaseUnavailableError,
    ForeignSourceError,
    NotMigratedError,
    ProjectorError,
)
from projector.kafka import admin
from projector.log import watermark
from projector.log.place import lsn_text
from projector.log.topics import Topics
from projector.log.watermark import Watermark
from projector.sql import query
from projector.sql.connection import Role, connect
from projector.views import kafka
from projector.views.declared import VIEWS, View
from projector.views.positions import Partition

KAFKA_TIMEOUT_S = 10.0
BETWEEN_LOOKS_S = 0.5
"""Two looks at the slot give the rate at which WAL is written."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What a part said, or why it could not."""

    value: T | None = None
    problem: str = ""


class Source(NamedTuple):
    """`generation` is None before the first start, `lag_s` before the first watermark."""

    health: Health | None
    generation: int | None
    lag_s: float | None


class Fill(NamedTuple):
    """Rows published out of the table. `per_s` since `step` began or went on; `silent_s` since its last report."""

    reason: str
    apps: list[str]
    step: Step
    done: int
    total: int | None
    per_s: float | None
    eta_s: float | None
    silent_s: float


class Mark(NamedTuple):
    """The newest watermark: how far the topics go, and how long ago that was all there was."""

    lsn: int
    age_s: float


class ViewStatus(NamedTuple):
    """`lag_events` are records of its topics still to be read, None without Kafka.

    `lsn` is the newest watermark that the view has applied: nothing that committed below it is missing in the view.
    `staleness_s` is the one figure to go by: nothing that committed longer ago is missing. They and `lag_bytes`, the
    WAL since that moment, are None until the view has applied a first watermark.
    """

    view: str
    lsn: int | None
    lag_events: int | None
    lag_bytes: int | None
    staleness_s: float | None
    ahead: bool
    """Whether it stands behind the end of a topic, which was made anew then."""


class Brokers(NamedTuple):
    """The ends of the topics that exist, and the newest record of the watermark topic."""

    cluster: str
    ends: dict[Partition, int]
    mark: Watermark | None


@dataclass(slots=True)
class Status:
    source: Answer[Source]
    fills: Answer[list[Fill]]
    topics: Answer[Mark | None]
    views: dict[str, Answer[ViewStatus]] = field(default_factory=dict)
    letters: Answer[dict[str, int]] = field(default_factory=Answer)
    runs: Answer[dict[str, int]] = field(default_factory=Answer)

    @property
    def problems(self) -> list[str]:
        """What could not be asked, each once."""
        parts: list[Answer[Any]] = [self.source, self.fills, self.topics, *self.views.values(), self.letters, self.runs]
        return list(dict.fromkeys(part.problem for part in parts if part.problem))


async def read_status(settings: Settings, previous: Health | None = None) -> Status:
    """Asks PostgreSQL and Kafka. `previous`, an earlier look at the slot, saves the wait for a second one."""
    brokers, source = await asyncio.gather(_ask(read_brokers(settings)), _ask(read_source(settings, previous)))
    status = Status(
        source,
        await _ask(read_fills(settings)),
        Answer(problem=brokers.problem) if brokers.value is None else await _ask(read_mark(settings, brokers.value)),
        letters=await _ask(count_letters(settings)),
        runs=await _ask(count_runs(settings)),
    )
    for view in VIEWS.values():
        if kafka.topics_of(settings, view):
            status.views[view.name] = await _ask(read_view(settings, view, brokers.value))
    return status


async def _ask(question: Awaitable[T]) -> Answer[T]:
    try:
        return Answer(await question)
    except ProjectorError as error:
        return Answer(problem=error.message)


@asynccontextmanager
async def _session(settings: Settings, role: Role) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """Raises DatabaseUnavailableError or NotMigratedError, also for what goes wrong inside."""
    try:
        async with await connect(settings, role) as conn:
            yield conn
    except (
        psycopg.errors.UndefinedTable,
        psycopg.errors.UndefinedColumn,
        psycopg.errors.InsufficientPrivilege,
    ) as error:
        raise NotMigratedError(f"the database is not up to date: {error.diag.message_primary}") from error
    except psycopg.OperationalError as error:
        raise DatabaseUnavailableError(f"the connection to PostgreSQL ended: {error}") from error


async def read_source(settings: Settings, previous: Health | None = None) -> Source:
    async with _session(settings, "projector_cdc") as conn:
        if previous is None:
            previous = await sample(conn, settings.slot_name)
            await asyncio.sleep(BETWEEN_LOOKS_S if previous is not None else 0)
        health = await sample(conn, settings.slot_name, previous)
        confirmed = lsn_text(health.confirmed if health else 0)
        row = await (await conn.execute(query("cdc/confirmed_age"), [confirmed])).fetchone()
        return Source(health, *(row or (None, None)))


async def read_fills(settings: Settings) -> list[Fill]:
    async with _session(settings, "projector_cdc") as conn:
        rows = await (await conn.execute(query("cdc/running_fills"))).fetchall()
    fills = []
    for reason, apps, step, done, total, lately, seconds, silent_s in rows:
        rate = lately / seconds if seconds and lately else None
        left = None if total is None or rate is None else max(0, total - done) / rate
        fills.append(Fill(reason, apps, step, done, total, rate, left, silent_s))
    return fills


async def read_mark(settings: Settings, brokers: Brokers) -> Mark | None:
    """The watermark topic's newest; its age needs the database's clock."""
    if brokers.mark is None:
        return None
    async with _session(settings, "projector_cdc") as conn:
        row = await (await conn.execute("select extract(epoch from clock_timestamp())::float8")).fetchone()
    assert row is not None
    return Mark(brokers.mark.lsn, row[0] - brokers.mark.committed_at / 1e6)


async def read_view(settings: Settings, view: View, brokers: Brokers | None) -> ViewStatus:
    topics = kafka.topics_of(settings, view)
    parameters: dict[str, Any] = {
        "view": view.name,
        "topics": topics,
        "cluster": None if brokers is None else brokers.cluster,
    }
    async with _session(settings, "projector_engine") as conn:
        rows = await (await conn.execute(query("views/position_all"), parameters)).fetchall()
        if rows:
            parameters["cluster"] = rows[0][0]
        row = await (await conn.execute(query("views/applied_watermark"), parameters)).fetchone()
    lsn, staleness_s, lag_bytes = row or (None, None, None)
    if brokers is None:
        return ViewStatus(view.name, lsn, None, lag_bytes, staleness_s, ahead=False)
    positions = {Partition(topic, partition): next_offset for _, topic, partition, next_offset in rows}
    behind = [end - positions.get(p, 0) for p, end in brokers.ends.items() if p.topic in topics]
    lag_events = sum(events for events in behind if events > 0)
    ahead = any(events < 0 for events in behind)
    return ViewStatus(view.name, lsn, lag_events, lag_bytes, staleness_s, ahead)


async def count_letters(settings: Settings) -> dict[str, int]:
    """By `part/reason`, where the part is `cdc` or a view."""
    async with _session(settings, "projector_engine") as conn:
        rows = await (await conn.execute(query("views/dead_letter_count"))).fetchall()
    return {f"{part}/{reason}": count for part, reason, count in rows}


async def count_runs(settings: Settings) -> dict[str, int]:
    """Runs of the ledger by their state."""
    async with _session(settings, "projector_planner") as conn:
        found = await conn.execute("select state, count(*) from mana_ai.mission_runs group by state order by state")
        return dict(await found.fetchall())


async def read_brokers(settings: Settings) -> Brokers:
    """Raises BrokerUnavailableError, also when the brokers do not answer in time."""
    topics = Topics(settings.topic_prefix)
    try:
        async with asyncio.timeout(KAFKA_TIMEOUT_S), admin(settings) as client, kafka.consumer(settings) as consumer:
            cluster = str((await client.describe_cluster())["cluster_id"])
            existing = set(await client.list_topics())
            names = [topic for topic in topics.all(settings.apps) if topic in existing]
            partitions = [
                TopicPartition(topic["topic"], partition["partition"])
                for topic in (await client.describe_topics(names) if names else [])
                for partition in topic["partitions"]
            ]
            ends = await consumer.end_offsets(partitions)
            mark = await _newest(consumer, topics.watermarks) if topics.watermarks in existing else None
            return Brokers(cluster, {Partition(*partition): end for partition, end in ends.items()}, mark)
    except TimeoutError as error:
        raise BrokerUnavailableError(f"Kafka did not answer within {KAFKA_TIMEOUT_S:g} s") from error
    except KafkaError as error:
        raise BrokerUnavailableError(f"Kafka did not answer: {error}") from error


async def _newest(consumer: Any, topic: str) -> Watermark | None:
    partition = TopicPartition(topic, 0)
    end = (await consumer.end_offsets([partition]))[partition]
    if end == 0:
        return None
    consumer.assign([partition])
    consumer.seek(partition, end - 1)
    try:
        return watermark.decode((await consumer.getone(partition)).value)
    except (KeyError, TypeError, ValueError):
        raise ForeignSourceError(
            f"the last record of {topic} is no watermark", "find out which other program writes there"
        ) from None
