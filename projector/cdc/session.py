"""One life of the change stream: everything from connecting to the slot to the last confirmation."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import NamedTuple

from aiokafka import AIOKafkaProducer

from projector.cdc import dead_letters, fill, republish
from projector.cdc.heartbeat import Heartbeat
from projector.cdc.producer import start_producer, stop_producer
from projector.cdc.progress import Progress
from projector.cdc.publication import Published, require_publication
from projector.cdc.publisher import Publisher
from projector.cdc.pump import Pump
from projector.cdc.replication import Replication
from projector.cdc.server import Connection, holds_slot, read_server, read_snapshot
from projector.cdc.slot import confirmed_lsn, start_when_free
from projector.cdc.source import Source, ensure_source
from projector.cdc.tail import read_tails
from projector.cdc.topics import ensure_topics
from projector.cdc.translate import Translator
from projector.cdc.visibility import Snapshot, Visibility
from projector.cdc.writer import Writer
from projector.config import Settings
from projector.errors import NotMigratedError, ReplicationError
from projector.log.place import lsn_text
from projector.log.topics import Topics
from projector.logging import get
from projector.metrics import CDC_STREAMING
from projector.sql.connection import connect
from projector.waiting import alongside, unless_stopped

_QUERY_TIMEOUT_S = 10
_ASKED_S = 1.0

log = get("cdc")


async def stream(settings: Settings, stop: asyncio.Event, reached: asyncio.Event, *, adopt: bool = False) -> None:
    """Streams until `stop` is set; sets `reached` once both servers have answered as these settings want it.

    Waits while another process is the writer. Creates topics and slot when they are missing, publishes out of the table
    what the slot does not bring, and then begins after the last record of each partition, so a session may end
    anywhere: the next goes on where this one stopped. Raises what ended it.
    """
    async with AsyncExitStack() as stack:
        await ensure_topics(settings)
        conn = await connect(settings, "projector_cdc")
        stack.push_async_callback(conn.close)
        # Heartbeats have a session of their own: transactions of two tasks must not mix.
        side = await connect(settings, "projector_cdc")
        stack.push_async_callback(side.close)
        await require_publication(conn, settings)
        writer = Writer(conn, settings, (await read_server(conn)).wal_sender_timeout)
        reached.set()
        if await writer.acquire(stop):
            await alongside(writer.keep(), _write(settings, writer, side, stop, adopt, stack))


class _Ready(NamedTuple):
    """All that a session needs before it writes its first record."""

    published: Published
    replication: Replication
    source: Source
    producer: AIOKafkaProducer


async def _prepare(settings: Settings, conn: Connection, adopt: bool, stack: AsyncExitStack) -> _Ready:
    published = await require_publication(conn, settings)
    replication = await Replication.connect(settings)
    stack.push_async_callback(replication.close)
    source = await ensure_source(conn, replication, settings, published, await read_tails(settings), adopt=adopt)
    producer = await start_producer(settings)
    stack.push_async_callback(stop_producer, producer)
    return _Ready(published, replication, source, producer)


async def _write(
    settings: Settings,
    writer: Writer,
    side: Connection,
    stop: asyncio.Event,
    adopt: bool,
    stack: AsyncExitStack,
) -> None:
    # It may wait for as long as others keep a transaction open, and like a kill, its end leaves nothing to mend.
    ready = await unless_stopped(_prepare(settings, writer.conn, adopt, stack), stop)
    if ready is None:
        return
    published, replication, source, producer = ready
    if not await fill.run_all(settings, source.generation, producer, writer, stop):
        return
    if not await start_when_free(replication, settings, stop):
        return
    pump, heartbeat = await _assemble(settings, writer, side, replication, producer, source)
    CDC_STREAMING.set(1)
    try:
        await alongside(_until_asked(settings, side, source, published), alongside(heartbeat.run(), pump.run(stop)))
    finally:
        CDC_STREAMING.set(0)


async def _until_asked(settings: Settings, side: Connection, source: Source, published: Published) -> None:
    """Ends the session when apps are to be published again: the next one lays out their fill.

    It asks for that itself when the publication is away or leaves apps out, and raises NotMigratedError then: what
    commits meanwhile is decoded as nothing, and confirmed. That it was made anew, the next session sees as well.
    """
    while not (asked := await republish.asked(side, source.generation, source.apps)):
        try:
            found = await require_publication(side, settings)
        except NotMigratedError:
            await republish.ask(side, source.apps)
            raise
        if found.oid != published.oid:
            raise ReplicationError("the publication was made anew")
        await asyncio.sleep(_ASKED_S)
    raise ReplicationError(f"asked to publish again what topics lack, apps: {', '.join(asked)}")


async def _assemble(
    settings: Settings,
    writer: Writer,
    side: Connection,
    replication: Replication,
    producer: AIOKafkaProducer,
    source: Source,
) -> tuple[Pump, Heartbeat]:
    conn = writer.conn
    # Only now: the reader before us may have published, and confirmed, until it let go of the slot.
    confirmed = await confirmed_lsn(conn, settings)
    tails = await read_tails(settings)
    topics = Topics(settings.topic_prefix)
    wake = asyncio.Event()
    progress = Progress(confirmed)
    publisher = Publisher(producer, progress, settings.topic_partitions, source.generation, tails, wake.set)
    heartbeat = Heartbeat(
        side,
        producer,
        publisher,
        progress,
        source=source.generation,
        topic=topics.watermarks,
        interval=settings.heartbeat_s,
    )
    visibility = Visibility(await read_snapshot(conn))
    translator = Translator(
        publisher, progress, topics, source.apps, source.generation, settings.max_message_bytes, heartbeat, visibility
    )

    async def store_letters() -> None:
        letters, translator.letters = translator.letters, []
        await dead_letters.write(conn, [letter for letter, _ in letters])
        for _, hold in letters:
            progress.release(hold)

    async def still_ours() -> bool:
        async with asyncio.timeout(_QUERY_TIMEOUT_S):
            return await holds_slot(conn, settings.slot_name, replication.backend_pid)

    async def look() -> Snapshot:
        async with asyncio.timeout(_QUERY_TIMEOUT_S):
            return await read_snapshot(conn)

    pump = Pump(
        replication,
        translator,
        publisher,
        progress,
        heartbeat,
        visibility,
        wake,
        store_letters=store_letters,
        still_ours=still_ours,
        look=look,
        sender_timeout=writer.timeout,
    )
    log.info(
        "ready",
        slot=settings.slot_name,
        source=source.generation,
        confirmed=lsn_text(confirmed),
        tails=len(tails.places),
    )
    return pump, heartbeat
