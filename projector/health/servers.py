"""Connections of the thread that looks: whether the servers answer, and how far the topics go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from projector.config import Settings
from projector.errors import ProjectorError
from projector.health.parts import Place
from projector.kafka import client_options
from projector.sql.connection import Role, connect

ANSWER_S = 5.0
"""A server that takes longer counts as one that is away."""
FRESH_S = 1.0
"""What was found out so long ago is told again, however often somebody asks."""

AWAY = (psycopg.Error, KafkaError, ProjectorError, OSError, TimeoutError)


class Server:
    """One server: `ask` raises when it does not answer."""

    def __init__(self, ask: Callable[[], Awaitable[object]]) -> None:
        self._ask = ask
        self._asking = asyncio.Lock()
        self._asked_at = -1e9
        self._away: str | None = None

    async def away(self) -> str | None:
        """None when it answers, else the kind of the error."""
        async with self._asking:
            if time.monotonic() - self._asked_at >= FRESH_S:
                try:
                    async with asyncio.timeout(ANSWER_S):
                        await self._ask()
                    self._away = None
                except AWAY as error:
                    self._away = type(error).__name__
                self._asked_at = time.monotonic()
            return self._away


class Connections:
    """To be used in one event loop. `role` None: this stream needs no database; `broker` False: no broker."""

    def __init__(self, settings: Settings, role: Role | None, *, broker: bool) -> None:
        self._settings = settings
        self._role = role
        self._conn: psycopg.AsyncConnection[Any] | None = None
        self._consumer: AIOKafkaConsumer | None = None
        self._connecting = asyncio.Lock()
        self.database = Server(self._select) if role else None
        self.broker = Server(self._metadata) if broker else None

    async def away(self) -> dict[str, str | None]:
        """By server, why it does not answer; None when it does."""
        found = {"database": self.database, "broker": self.broker}
        servers = {name: server for name, server in found.items() if server is not None}
        answers = await asyncio.gather(*(server.away() for server in servers.values()))
        return dict(zip(servers, answers, strict=True))

    async def ends(self, places: Collection[Place]) -> Mapping[Place, int]:
        """The end offset of each partition; raises one of AWAY."""
        if not places:
            return {}
        consumer = await self._connected()
        async with asyncio.timeout(ANSWER_S):
            ends = await consumer.end_offsets([TopicPartition(*place) for place in places])
        return {(place.topic, place.partition): end for place, end in ends.items()}

    async def close(self) -> None:
        if self._conn is not None:
            await self._conn.close()
        if self._consumer is not None:
            await self._consumer.stop()

    async def _select(self) -> None:
        if self._conn is None or self._conn.closed:
            assert self._role is not None, "only a stream with a role has a database to ask"
            self._conn = await connect(self._settings, self._role)
        try:
            await self._conn.execute("select")
        except BaseException:
            # One that hangs, or was cancelled in the middle of an answer, is of no more use.
            await self._conn.close()
            raise

    async def _metadata(self) -> None:
        # Asks a broker each time, which what the client remembers would not, and for no topic: a cluster may have
        # thousands, and `topics()` would have it list them all.
        client = (await self._connected())._client
        await client.send(client.get_random_node(), MetadataRequest([]))

    async def _connected(self) -> AIOKafkaConsumer:
        """Made at the first use; afterwards the client finds its brokers again by itself."""
        async with self._connecting:
            if self._consumer is None:
                consumer = AIOKafkaConsumer(
                    **client_options(self._settings), enable_auto_commit=False, request_timeout_ms=int(ANSWER_S * 1000)
                )
                try:
                    await consumer.start()
                except BaseException:
                    await consumer.stop()
                    raise
                self._consumer = consumer
            return self._consumer
