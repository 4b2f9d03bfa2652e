"""An installation whose change stream is left alone, with several workers of the views, and what is true of it."""

from __future__ import annotations

import asyncio
import time

from aiokafka import AIOKafkaConsumer, TopicPartition
from psycopg import sql

from projector.embedded.database import STREAM_LOGIN
from projector.errors import NotReachedError
from projector.sql.connection import connect
from projector.views import generations, kafka
from projector.views.declared import VIEWS, View
from projector.views.generations import EMPTY, Generations
from projector.views.verify import verify
from projector.views.wait import wait_for_lsn, wait_for_offset
from tests.faults.judge import NOTHING, Allowed, Violation
from tests.faults.servers import Servers
from tests.faults.stream import Stream
from tests.faults.world import NotRecovered, World
from tests.view_faults.load import ERASED_APP, NEWER, DeviceLoad
from tests.view_faults.strays import Strays

WORKERS = 2
RECOVERY_LIMIT_S = 180.0
COMMAND_LIMIT_S = 180.0
LONG_SENDER_TIMEOUT = "60s"


def know_less() -> None:
    """In a worker: a program that waits for its upgrade."""
    import projector.log.change

    projector.log.change.SUPPORTED_SCHEMA_VERSION = NEWER - 1


class ViewWorld(World):
    """`workers` are those at work; what the load writes follows from `seed`."""

    load: DeviceLoad  # type: ignore[assignment]

    def __init__(self, servers: Servers, name: str, seed: str, rate: float) -> None:
        super().__init__(servers, name, seed, rate)
        # The stream is no part of this, and a crowded machine must not cost it its connection.
        self.ask(f"alter role {STREAM_LOGIN} in database {name} set wal_sender_timeout = '{LONG_SENDER_TIMEOUT}'")
        self.load = DeviceLoad(self.admin_url, seed, rate)
        self.strays = Strays(self.settings)
        self.workers: list[Stream] = []
        self.over = time.monotonic()
        self.verified = 0
        """Rows of the views that were compared with the log."""

    def start(self) -> None:
        self.start_stream().wait_ready()
        self.complete()
        self.load.start()
        # A rebuild goes as far as the topics while the view has no position, and then waits for the view.
        self.recover()

    def stop(self) -> None:
        for worker in self.workers:
            worker.kill()
        super().stop()

    # Workers and commands

    def start_worker(self, crash_at: str = "") -> Stream:
        log_file = self.servers.directory / f"{self.name}.views.log"
        worker = Stream(self.settings, log_file, crash_at, name="views", first=know_less)
        self.workers.append(worker)
        return worker

    def complete(self) -> None:
        """Starts as many workers as are missing."""
        while len(self.workers) < WORKERS:
            self.start_worker()

    def begin(self, *words: str, crash_at: str = "") -> Stream:
        """A command of the newer program."""
        return Stream(self.settings, self.servers.directory / f"{self.name}.commands.log", crash_at, words=words)

    def command(self, *words: str) -> None:
        """Runs a command to its end, which must be a good one."""
        done = self.begin(*words)
        ended = done.joined(COMMAND_LIMIT_S)
        done.kill()
        if ended is None:
            raise NotRecovered(f"{' '.join(words)} has not ended after {COMMAND_LIMIT_S:.0f} s:\n{done.tail()}")
        if ended != 0:
            raise Violation(f"{' '.join(words)} ended with {ended}:\n{done.tail(40)}")

    def generations(self, view: str) -> Generations:
        async def read() -> Generations:
            async with await connect(self.settings, "projector_engine") as conn:
                return await generations.load_one(conn, VIEWS[view])

        return asyncio.run(read())

    # What must be true

    def recover(self, limit_s: float = RECOVERY_LIMIT_S) -> float:
        """Waits until every view has applied what has been committed by now; returns the seconds since the fault."""
        self.complete()
        self._check()
        lsn = self.lsn()
        try:
            asyncio.run(self._applied(lsn, limit_s))
        except NotReachedError as error:
            self._check()
            raise NotRecovered(f"{error.message}\n{self.workers[-1].tail()}\n{self.stream.tail()}") from error
        return time.monotonic() - self.over

    def verify(self, allowed: Allowed = NOTHING) -> None:
        """Stops the load for a moment and compares everything with the log. Raises Violation."""
        with self.load.lock:
            self.recover()
            asyncio.run(self._stray())
            self._letters_as_expected()
            if self.letters():
                self.command("dlq", "retry", "--all")
            if left := self.ask("select view, change_id, reason from mana_ai.dead_letters limit 5"):
                raise Violation(f"dead letters are left after a retry: {left}")
            asyncio.run(self._at_the_ends())
            for view in VIEWS.values():
                self._compare(view)
        self.load.letters = False

    def finish(self, allowed: Allowed = NOTHING) -> None:
        """Ends the load, verifies, and folds every view anew: the rebuilt rows must be those that serve."""
        self.load.stop()
        self.verify(allowed)
        if held := [view for view in VIEWS if self.generations(view).state != EMPTY]:
            self.command("rebuild", "cancel", *held, "--yes")
        self.command("rebuild", "start")
        self.command("rebuild", "diff")
        self.stop()

    def letters(self) -> int:
        """In how many partitions of the views there are dead letters: a retry takes those of each together."""
        [(count,)] = self.ask("select count(distinct (view, topic, partition)) from mana_ai.dead_letters")
        return int(count)

    def _letters_as_expected(self) -> None:
        wrong = self.ask(
            sql.SQL(
                "select l.view, l.change_id, l.reason from mana_ai.dead_letters l"
                " where reason <> 'unknown-schema-version' or not exists"
                " (select from sync_changes c where c.id::text = l.change_id and c.schema_version = {}) limit 5"
            ).format(sql.Literal(NEWER))
        )
        if wrong:
            raise Violation(f"dead letters that nobody wrote: {wrong}")

    def _compare(self, view: View) -> None:
        report = asyncio.run(verify(self.settings, view))
        self.verified += report.rows
        if report.differences:
            shown = "\n".join(map(str, report.examples[:5]))
            raise Violation(f"{report.differences} of {report.rows} rows of {view.name} are not the log's:\n{shown}")

    def _check(self) -> None:
        self.load.check()
        for worker in self.workers:
            if worker.exit_code is not None:
                raise NotRecovered(f"a worker ended with {worker.exit_code}:\n{worker.tail(40)}")

    async def _applied(self, lsn: int, limit_s: float) -> None:
        limit = time.monotonic() + limit_s
        async with await connect(self.settings, "projector_engine") as conn:
            for view in VIEWS.values():
                await wait_for_lsn(self.settings, conn, view, lsn, limit - time.monotonic())

    async def _stray(self) -> None:
        """What was erased comes again, and everybody takes it in."""
        ends = await self.strays.send()
        async with await connect(self.settings, "projector_engine") as conn:
            for view in VIEWS.values():
                if ERASED_APP in view.apps(self.settings.apps):
                    await wait_for_offset(conn, view, ends, COMMAND_LIMIT_S)

    async def _at_the_ends(self) -> None:
        """Every position is the end of its partition, as nothing is being written."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.servers.bootstrap_servers)
        await consumer.start()
        try:
            async with await connect(self.settings, "projector_engine") as conn:
                for view in VIEWS.values():
                    topics = kafka.topics_of(self.settings, view)
                    ends = await consumer.end_offsets([tp for tp in self.reader.log if tp.topic in topics])
                    found = await conn.execute(
                        "select topic, partition, next_offset from mana_ai.stream_positions where view = %s",
                        [view.name],
                    )
                    at = {TopicPartition(topic, number): offset for topic, number, offset in await found.fetchall()}
                    if at != ends:
                        raise Violation(f"view {view.name} is at {at}, its partitions end at {ends}")
        finally:
            await consumer.stop()
