"""The idempotent producer of the change stream: started with our settings, ended within bounds."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import chain

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import MessageAccumulator

from projector.config import Settings
from projector.kafka import REQUEST_TIMEOUT_MS, client_options, explain_failure

BATCH_BYTES = 512 * 1024
"""A batch that has reached this size is full; a single larger record makes a batch of its own."""

_STOP_TIMEOUT_S = 2.0


async def start_producer(settings: Settings) -> AIOKafkaProducer:
    """Raises BrokerUnavailableError, BrokerRefusedError."""
    producer = AIOKafkaProducer(
        **client_options(settings),
        client_id="projector-cdc",
        acks="all",
        enable_idempotence=True,
        linger_ms=0,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
        max_batch_size=min(BATCH_BYTES, settings.max_message_bytes),
    )
    try:
        await producer.start()
    except asyncio.CancelledError:
        await stop_producer(producer)
        raise
    except KafkaError as error:
        await stop_producer(producer)
        raise await explain_failure(settings, error, "cannot start to produce") from error
    return producer


async def stop_producer(producer: AIOKafkaProducer) -> None:
    """Ends it, also while the broker is away: `stop` alone would wait for ever to deliver what is queued.

    What was not acknowledged is not lost: it has not been confirmed to Postgres and comes again.
    """
    try:
        async with asyncio.timeout(_STOP_TIMEOUT_S):
            await producer.stop()
    except TimeoutError:
        # The requests that are under way end first: they put back into the accumulator what they carried.
        await producer.client.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await producer._sender.close()
        _fail_all(producer._message_accumulator, KafkaError("the producer was ended"))


def _fail_all(accumulator: MessageAccumulator, error: KafkaError) -> None:
    """As its own `fail_all`, which makes asyncio report a batch that was to be tried again as an error of the program:
    it is not among those under way, where its end is looked for, and nobody asks what became of it."""
    waiting = set(chain.from_iterable(accumulator._batches.values()))
    accumulator._batches.clear()
    accumulator._pending_batches |= waiting
    accumulator.fail_all(error)
    for batch in waiting:
        batch._drain_waiter.exception()
