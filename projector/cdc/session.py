"""One life of the change stream: everything from connecting to the slot to the last confirmation."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import psycopg

from projector.cdc import dead_letters
from projector.cdc.producer import start_producer, stop_producer
from projector.cdc.progress import Progress
from projector.cdc.publisher import Publisher
from projector.cdc.pump import Pump
from projector.cdc.replication import Replication
from projector.cdc.source import Server, Source, confirmed_now, ensure_slot, holds_slot, read_server, start_when_free
from projector.cdc.tail import Tails, read_tails
from projector.cdc.topics import ensure_topics
from projector.cdc.translate import Translator
from projector.config import Settings
from projector.errors import ForeignSourceError, NotMigratedError
from projector.log.place import lsn_text
from projector.log.topics import Topics
from projector.logging import get
from projector.metrics import CDC_STREAMING
from projector.sql.connection import connect

_QUERY_TIMEOUT_S = 10

log = get("cdc")


async def stream(settings: Settings, stop: asyncio.Event, streaming: asyncio.Event) -> None:
    """Streams until `stop` is set; sets `streaming` once it reads the slot.

    Creates topics and slot when they are missing, waits for the slot while another session holds it, and begins
    after the last record of each partition, so a session may end anywhere. Raises what ended it; every session
    after it goes on where this one stopped.
    """
    topics = Topics(settings.topic_prefix)
    async with AsyncExitStack() as stack:
        await ensure_topics(settings)
        conn = await connect(settings, "projector_cdc")
        stack.push_async_callback(conn.close)
        await _require_publication(conn, settings)
        replication = await Replication.connect(settings)
        stack.push_async_callback(replication.close)
        source = await ensure_slot(conn, replication, settings)
        if not await start_when_free(replication, settings, stop):
            return
        # Only now: the reader before us may have published, and confirmed, until it let go of the slot.
        source = await confirmed_now(conn, settings, source)
        server = await read_server(conn)
        names = topics.all(settings.apps)
        tails = await read_tails(settings.require_kafka(), names, settings.topic_partitions)
        _require_same_log(tails, source, server)
        producer = await start_producer(settings)
        stack.push_async_callback(stop_producer, producer)

        wake = asyncio.Event()
        progress = Progress(source.confirmed)
        publisher = Publisher(producer, progress, settings.topic_partitions, source.generation, tails, wake.set)
        translator = Translator(
            publisher, progress, topics, settings.apps, source.generation, settings.max_message_bytes
        )

        async def store_letters() -> None:
            letters, translator.letters = translator.letters, []
            await dead_letters.write(conn, [letter for letter, _ in letters])
            for _, hold in letters:
                progress.release(hold)

        async def still_ours() -> bool:
            async with asyncio.timeout(_QUERY_TIMEOUT_S):
                return await holds_slot(conn, settings, replication.backend_pid)

        pump = Pump(
            replication,
            translator,
            publisher,
            progress,
            wake,
            store_letters=store_letters,
            still_ours=still_ours,
            sender_timeout=server.wal_sender_timeout,
        )
        log.info(
            "ready",
            slot=settings.slot_name,
            source=source.generation,
            confirmed=lsn_text(source.confirmed),
            tails=len(tails),
        )
        streaming.set()
        CDC_STREAMING.set(1)
        try:
            await pump.run(stop)
        finally:
            CDC_STREAMING.set(0)
        log.info("stopped", confirmed=lsn_text(progress.flushed), outstanding=progress.outstanding)


async def _require_publication(conn: psycopg.AsyncConnection[Any], settings: Settings) -> None:
    found = await conn.execute("select from pg_publication where pubname = %s", [settings.publication_name])
    if await found.fetchone() is None:
        raise NotMigratedError(f"there is no publication {settings.publication_name} in this database")


def _require_same_log(tails: Tails, source: Source, server: Server) -> None:
    """A topic that is ahead of the server was filled from another one, or from a state that the server lost."""
    for (topic, partition), place in tails.items():
        if place.source > source.generation or (place.source == source.generation and place.lsn > server.lsn):
            raise ForeignSourceError(
                f"{topic}/{partition} ends at {place}, ahead of this server's {lsn_text(server.lsn)}"
                f" in generation {source.generation}"
            )
