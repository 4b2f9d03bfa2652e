"""What the views ask of Kafka: which cluster this is, which topics exist, and consumers set for low latency."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaConnectionError

from projector.config import Settings
from projector.errors import PositionOutOfRangeError
from projector.kafka import admin, client_options, explain_failure
from projector.log.topics import Topics
from projector.views.declared import View
from projector.views.positions import Partition
from projector.waiting import pause

# A broker answers a fetch as soon as there is anything. This only bounds how long a partition that was drained
# meanwhile has to wait for the fetch of the others.
FETCH_MAX_WAIT_MS = 200
IDLE_WAIT_MS = 1000
"""For who asks for all its partitions whenever it asks: then it is only how often an idle consumer costs something."""
FETCH_PARTITION_BYTES = 1024 * 1024
TOPIC_POLL_S = 0.25
# How long the partitions of a killed worker stay without one; the shortest that brokers accept by default.
SESSION_TIMEOUT_MS = 6_000
HEARTBEAT_MS = 2_000


def topics_of(settings: Settings, view: View) -> list[str]:
    """The topics that hold the view's records."""
    topics = Topics(settings.topic_prefix)
    return [topics.changes(app) for app in view.apps(settings.apps)]


@asynccontextmanager
async def consumer(
    settings: Settings, group: str | None = None, *, wait_ms: int = FETCH_MAX_WAIT_MS
) -> AsyncIterator[AIOKafkaConsumer]:
    """A started consumer of nothing yet; raises BrokerUnavailableError, BrokerRefusedError."""
    client = AIOKafkaConsumer(
        **client_options(settings),
        group_id=group,
        enable_auto_commit=False,
        # Positions come from the database; what the broker would choose is never used.
        auto_offset_reset="earliest",
        fetch_max_wait_ms=wait_ms,
        max_partition_fetch_bytes=FETCH_PARTITION_BYTES,
        session_timeout_ms=SESSION_TIMEOUT_MS,
        heartbeat_interval_ms=HEARTBEAT_MS,
    )
    try:
        await client.start()
    except KafkaConnectionError as error:
        await client.stop()
        raise await explain_failure(settings, error, "cannot connect to Kafka") from error
    # A task that it made has to have begun: stopped before, its end would look like a cancellation of ours, and hide
    # what went wrong.
    await asyncio.sleep(0)
    try:
        yield client
    finally:
        await client.stop()


async def cluster_id(settings: Settings) -> str:
    """The id that the cluster was formatted with."""
    async with admin(settings) as client:
        return str((await client.describe_cluster())["cluster_id"])


async def wait_for_topics(settings: Settings, topics: Iterable[str], stop: asyncio.Event) -> bool:
    """Waits until all exist (the publisher makes them); False when `stop` came first."""
    wanted = set(topics)
    async with admin(settings) as client:
        while not stop.is_set():
            if wanted <= set(await client.list_topics()):
                return True
            await pause(TOPIC_POLL_S, stop)
    return False


async def partitions_of(settings: Settings, topics: Iterable[str]) -> list[Partition]:
    """Every partition of these topics."""
    async with admin(settings) as client:
        return sorted(
            Partition(topic["topic"], partition["partition"])
            for topic in await client.describe_topics(list(topics))
            for partition in topic["partitions"]
        )


async def check_range(client: AIOKafkaConsumer, view: str, positions: Mapping[Partition, int]) -> None:
    """Raises PositionOutOfRangeError when a partition does not reach from before the position to after it."""
    partitions = [TopicPartition(*partition) for partition in positions]
    beginnings = await client.beginning_offsets(partitions)
    ends = await client.end_offsets(partitions)
    for partition, next_offset in positions.items():
        first, end = beginnings[TopicPartition(*partition)], ends[TopicPartition(*partition)]
        if not first <= next_offset <= end:
            raise PositionOutOfRangeError(
                f"view {view} goes on at offset {next_offset} of {partition.topic}-{partition.partition}, "
                f"which holds {first} to {end}"
            )
