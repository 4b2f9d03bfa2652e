"""One installation under load: its database, its topics, its stream, and what it owes."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from typing import Any

import psycopg
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from psycopg import conninfo, sql

from projector.config import Settings
from projector.embedded.database import STREAM_LOGIN, create_log, create_logins
from projector.embedded.environment import prepare
from projector.embedded.servers import create_database
from projector.log.place import parse_lsn
from projector.log.topics import Topics
from tests.faults.judge import NOTHING, Allowed, Claim, Judge, claim_of
from tests.faults.ledger import Ledger
from tests.faults.load import APPS, Load
from tests.faults.reader import Reader
from tests.faults.servers import Servers
from tests.faults.stream import POLL_S, Stream
from tests.fixtures.settings import drop_slot

PARTITIONS = 4
RECOVERY_LIMIT_S = 90.0
SENDER_TIMEOUT_S = 5
_PASSWORD = "only-on-loopback"
_SAMPLE_S = 0.1


class NotRecovered(AssertionError):
    """The stream did not come back by itself."""


class World:
    """`name` is that of the database, the slot and the topics; what the load writes follows from `seed`."""

    def __init__(self, servers: Servers, name: str, seed: str, rate: float) -> None:
        self.servers = servers
        self.name = name
        create_database(servers.postgres.url("postgres"), name)
        self.admin_url = servers.postgres.url(name)
        logins = create_logins(self.admin_url, _PASSWORD)
        create_log(self.admin_url)
        self.settings = Settings(
            database_url=servers.proxied(logins.streams),
            admin_database_url=self.admin_url,
            kafka_bootstrap_servers=servers.proxied_bootstrap_servers,
            topic_prefix=name,
            topic_partitions=PARTITIONS,
            slot_name=name,
            apps=APPS,
        )
        prepare(self.settings)
        self.ask(
            sql.SQL("alter role {} in database {} set wal_sender_timeout = {}").format(
                sql.Identifier(STREAM_LOGIN), sql.Identifier(name), sql.Literal(f"{SENDER_TIMEOUT_S}s")
            )
        )
        topics = Topics(name)
        self.ledger = Ledger()
        self.load = Load(self.admin_url, topics, self.ledger, seed, rate)
        self.judge = Judge(self.ledger)
        self.reader = Reader(servers.bootstrap_servers, topics, PARTITIONS)
        self.sampler = Sampler(self)
        self.streams: list[Stream] = []
        self.over = 0.0
        """When the last fault was over, by time.monotonic(): from then on the stream could recover."""

    def start(self) -> None:
        """The stream first: without rows from before its slot, there is no history."""
        self.start_stream().wait_ready()
        self.load.start()
        self.sampler.start()

    def stop(self) -> None:
        self.sampler.stop()
        for stream in self.streams:
            stream.kill()
        self.load.stop()

    # The stream

    def start_stream(self, crash_at: str = "") -> Stream:
        stream = Stream(self.settings, self.servers.directory / f"{self.name}.log", crash_at)
        self.streams.append(stream)
        return stream

    @property
    def stream(self) -> Stream:
        """The one that was started last."""
        return self.streams[-1]

    def kill_streams(self) -> None:
        while self.streams:
            self.streams.pop().kill()

    def recover(self, limit_s: float = RECOVERY_LIMIT_S) -> float:
        """Waits until all is in Kafka that has been committed by now; returns the seconds since the fault was over."""
        lsn = self.lsn()
        # A slot that has just been created has confirmed more than the stream has published.
        self.stream.wait_ready()
        self.confirmed_beyond(lsn, limit_s)
        return time.monotonic() - self.over

    def confirmed_beyond(self, lsn: int, limit_s: float = RECOVERY_LIMIT_S) -> None:
        limit = time.monotonic() + limit_s
        with psycopg.connect(self.admin_url, autocommit=True) as conn:
            while (confirmed := confirmed_lsn(conn, self.name)) is None or confirmed < lsn:
                if self.stream.exit_code is not None:
                    raise NotRecovered(f"the stream ended with {self.stream.exit_code}:\n{self.stream.tail()}")
                if time.monotonic() > limit:
                    raise NotRecovered(f"not recovered within {limit_s:.0f} s:\n{self.stream.tail()}")
                self.load.check()
                time.sleep(POLL_S)

    def wait_released(self, limit_s: float = 10.0) -> None:
        """Waits until the server has noticed that the streams are gone."""
        limit = time.monotonic() + limit_s
        while self.ask(
            sql.SQL("select from pg_stat_activity where usename = {} and datname = {}").format(
                sql.Literal(STREAM_LOGIN), sql.Literal(self.name)
            )
        ):
            assert time.monotonic() < limit, f"sessions of a stream that was killed are there after {limit_s:.0f} s"
            time.sleep(POLL_S)

    def lose_slot(self) -> None:
        """Somebody drops the slot while the stream is down."""
        self.kill_streams()
        self.wait_released()
        # One that was killed while it connected may begin to read only now, until the server sees that it is gone.
        with psycopg.connect(self.admin_url, autocommit=True) as conn, suppress(psycopg.errors.UndefinedObject):
            drop_slot(conn, self.name)

    # Verification

    def verify(self, allowed: Allowed = NOTHING) -> None:
        """Judges all that was committed until now, while the load goes on. Raises Violation."""
        owed = self.ledger.cut()
        self.confirmed_beyond(self.lsn())
        records, marks = self.reader.read()
        claims = [*self.sampler.take(), *map(claim_of, marks)]
        self.judge.judge(records, claims, owed, allowed)

    def finish(self, allowed: Allowed = NOTHING) -> None:
        """Ends the load and judges everything to the last record, then ends the stream."""
        self.load.stop()
        self.verify(allowed)
        self.judge.finish()
        self.stop()

    # The database

    def ask(self, text: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.admin_url, autocommit=True) as conn:
            done = conn.execute(text)
            return done.fetchall() if done.description else []

    def lsn(self) -> int:
        """Where the WAL ends, after a record that makes the stream confirm up to here."""
        with psycopg.connect(self.admin_url, autocommit=True) as conn:
            row = conn.execute("select pg_current_wal_insert_lsn()::text").fetchone()
            # Without it the last confirmation of an idle log may stop a few bytes short.
            conn.execute("select pg_logical_emit_message(true, 'faults', '')")
        assert row is not None
        return parse_lsn(row[0])

    def drop(self) -> None:
        """Takes the whole installation away."""
        self.stop()
        self.lose_slot()
        with psycopg.connect(self.servers.postgres.url("postgres"), autocommit=True) as conn:
            conn.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(self.name)))
        asyncio.run(self.reader.delete_topics())


def confirmed_lsn(conn: psycopg.Connection, slot: str) -> int | None:
    found = "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = %s"
    row = conn.execute(found, [slot]).fetchone()
    return parse_lsn(row[0]) if row and row[0] else None


class Sampler(threading.Thread):
    """Looks again and again what the slot has confirmed, and then where the topics end.

    In this order: whatever was below the confirmed LSN must lie below those ends, or it was confirmed too early.
    """

    def __init__(self, world: World) -> None:
        super().__init__(daemon=True)
        self.admin_url = conninfo.make_conninfo(world.admin_url, connect_timeout=5)
        self.slot = world.name
        self.reader = world.reader
        self._claims: list[Claim] = []
        self._halt = threading.Event()
        self.failure: BaseException | None = None

    def take(self) -> list[Claim]:
        """The samples since the last call."""
        if self.failure is not None:
            raise self.failure
        claims, self._claims = self._claims, []
        return claims

    def stop(self) -> None:
        self._halt.set()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        try:
            while not self._halt.is_set():
                try:
                    asyncio.run(self._sample())
                # A server is away; aiokafka may then end its own tasks, and hands out that they were cancelled.
                except (psycopg.OperationalError, KafkaError, TimeoutError, asyncio.CancelledError):
                    self._halt.wait(_SAMPLE_S)
        except BaseException as failure:
            self.failure = failure

    async def _sample(self) -> None:
        consumer = AIOKafkaConsumer(bootstrap_servers=self.reader.bootstrap_servers, request_timeout_ms=5000)
        try:
            await consumer.start()
            with psycopg.connect(self.admin_url, autocommit=True) as conn:
                while not self._halt.is_set():
                    confirmed = confirmed_lsn(conn, self.slot)
                    ends = await consumer.end_offsets(self.reader.log)
                    if confirmed is not None:
                        self._claims.append(Claim(confirmed, ends, "confirmed_flush_lsn"))
                    await asyncio.sleep(_SAMPLE_S)
        finally:
            await consumer.stop()
