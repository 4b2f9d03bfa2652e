"""Acknowledgements as the broker gives them."""

from __future__ import annotations

import asyncio

from projector.cdc.producer import start_producer, stop_producer
from projector.cdc.progress import Progress
from projector.cdc.publisher import Publisher
from projector.cdc.tail import Tails
from projector.cdc.topics import ensure_topics
from projector.log.topics import Topics


async def test_an_acknowledgement_that_cannot_be_taken_in_is_a_failure_and_not_a_wait_without_end(settings) -> None:
    await ensure_topics(settings)
    topic = Topics(settings.topic_prefix).changes("ai")
    woken = asyncio.Event()
    producer = await start_producer(settings)
    try:
        publisher = Publisher(
            producer, Progress(0), settings.topic_partitions, 1, Tails({}, ends={}, watermark=None), woken.set
        )
        publisher.append(publisher.find_lane(topic, b"anna"), (1, 0), 0, b"anna", b"{}", [])
        await publisher.send()
        await asyncio.wait_for(woken.wait(), 10)
    finally:
        await stop_producer(producer)
    assert isinstance(publisher.failure, KeyError), "the ends of this topic were not given"
