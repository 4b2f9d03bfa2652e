"""Everything at once: real streams as processes, devices that keep writing, and the questions that must hold."""

from __future__ import annotations

import asyncio
import random
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition

from projector.cli.demo.story import mission
from projector.config import Settings
from projector.devices import AGENTS, MISSIONS, NOTES, Replica, SyncServer
from projector.embedded.pipeline import Pipeline
from projector.log.ids import restored_change_id
from projector.log.place import Place, from_headers
from projector.log.topics import Topics
from projector.views.declared import VIEWS
from projector.views.verify import verify
from tests.fixtures.settings import Database

USERS = ("ada", "ben", "cleo")
AGENT = {"name": "Mana", "role": "", "state": "active", "maxConcurrentMissions": 4}
SETTLE_S = 40.0


@dataclass(frozen=True, slots=True)
class Published:
    """One record of a topic of changes."""

    topic: str
    partition: int
    offset: int
    place: Place
    id: str
    user_id: str
    client_id: str | None
    created_at: str | None


class World:
    """A pipeline on a database of its own. `seed` decides what the devices write."""

    def __init__(self, settings: Settings, database: Database, log_dir: Path, seed: int) -> None:
        # One run at a time, so that a kill can lose one answer of the model and no more.
        self.settings = settings.model_copy(
            update={"due_interval_s": 0.1, "lease_s": 1.5, "reannounce_interval_s": 0.5, "planner_workers": 1}
        )
        self.database = database
        self.seed = seed
        self.pipeline = Pipeline(self.settings, log_dir)
        self.model_url = ""
        self.lost_answers = 0
        self._random = random.Random(seed)
        self._devices = {user: Replica(user) for user in USERS}
        self._missions: dict[str, list[str]] = {user: [] for user in USERS}
        self._notes: dict[str, list[str]] = {user: [] for user in USERS}

    def start(self) -> None:
        self.model_url = self.pipeline.start_scripted_model()
        self.pipeline.start_all()
        with SyncServer(self.database.logins.sync) as server:
            for device in self._devices.values():
                device.create(AGENTS, AGENT, "legacy:ai-default")
                server.push(device)

    # Writing

    def write_while(self, going: Callable[[], bool], limit_s: float) -> bool:
        """Lets the devices write until `going` is false; False when it still was true after `limit_s` seconds."""
        done = threading.Event()
        failures: list[BaseException] = []

        def work() -> None:
            try:
                with SyncServer(self.database.logins.sync) as server:
                    while not done.is_set():
                        self._one_edit(server)
                        time.sleep(0.003)
            except BaseException as error:
                failures.append(error)

        writer = threading.Thread(target=work)
        writer.start()
        try:
            limit = time.monotonic() + limit_s
            while going() and time.monotonic() < limit and not failures:
                time.sleep(0.02)
            return not going()
        finally:
            done.set()
            writer.join()
            if failures:
                raise failures[0]

    def make_missions_due(self) -> None:
        """One more due mission for every user."""
        with SyncServer(self.database.logins.sync) as server:
            for user, device in self._devices.items():
                fields = mission(f"Mission {len(self._missions[user])}", "legacy:ai-default", minutes_ago=1)
                self._missions[user].append(device.create(MISSIONS, fields))
                server.push(device)

    def write_rows_in_one_transaction(self, count: int) -> None:
        """As a server program does: several rows of several users, committed at once."""
        rows = [
            (user, f"bulk-{self._random.getrandbits(48):x}", orjson.dumps({"title": f"Zeile {number}"}).decode())
            for number in range(count)
            for user in USERS
        ]
        with psycopg.connect(self.database.admin_url, autocommit=True) as conn, conn.transaction():
            conn.cursor().executemany(
                "insert into sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)"
                " values ('notes', 'notes', %s, %s, 'insert', %s, 'bulk')",
                [(record_id, user, data) for user, record_id, data in rows],
            )

    def _one_edit(self, server: SyncServer) -> None:
        user = self._random.choice(USERS)
        device = self._devices[user]
        notes, missions = self._notes[user], self._missions[user]
        choice = self._random.random()
        if choice < 0.3 or not notes:
            notes.append(device.create(NOTES, {"title": "„Notiz“ 🌱", "content": "x" * self._random.randrange(400)}))
        elif choice < 0.8:
            device.edit(NOTES, self._random.choice(notes), {"title": f"Titel {self._random.random()}"})
        elif choice < 0.9 and missions:
            device.edit(MISSIONS, self._random.choice(missions), {"title": f"Plan {self._random.random()}"})
        elif choice < 0.95:
            device.delete(NOTES, self._random.choice(notes))
        else:
            device.restore(NOTES, self._random.choice(notes))
        server.sync(device, "ai")

    # Settling

    async def settle(self) -> None:
        """Waits until every stream has done what there was to do; fails when it does not come to that."""
        limit = time.monotonic() + SETTLE_S
        while not await self._settled():
            assert not self.pipeline.exited(), f"{self.pipeline.exited()} ended (seed {self.seed})"
            assert time.monotonic() < limit, f"not settled after {SETTLE_S} s (seed {self.seed}): {self._state()}"
            await asyncio.sleep(0.1)

    async def _settled(self) -> bool:
        ids = self.change_ids()
        if {record.id for record in await self.published()} != ids or not await self._views_are_there():
            return False
        # Only now: what the views have not seen yet is not due for anybody.
        unfinished = "select count(*) from mana_ai.mission_runs where state in ('due', 'running', 'planned', 'held')"
        due = (
            "select count(*) from mana_ai.mission_snapshots where status = 'active' and complete and not deleted"
            " and next_run_at <= now()"
        )
        return not self.ask(unfinished)[0][0] and not self.ask(due)[0][0] and self.change_ids() == ids

    async def _views_are_there(self) -> bool:
        reached = {
            (view, topic, partition): offset
            for view, topic, partition, offset in self.ask(
                "select view, topic, partition, next_offset from mana_ai.stream_positions"
            )
        }
        ends = await self._ends()
        return all(
            reached.get((view.name, topic, partition), 0) >= end
            for view in VIEWS.values()
            for (topic, partition), end in ends.items()
            if topic.rpartition(".")[2] in view.apps(self.settings.apps)
        )

    def _state(self) -> str:
        runs = self.ask("select state, reason, count(*) from mana_ai.mission_runs group by 1, 2")
        return f"runs {runs}, rows {len(self.change_ids())}"

    # Questions

    def ask(self, text: Any, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database.admin_url, autocommit=True) as conn:
            return conn.execute(text, parameters or None).fetchall()

    def change_ids(self) -> set[str]:
        return {str(row[0]) for row in self.ask("select id from sync_changes where app_id in ('ai', 'notes')")}

    def calls_of_runs(self) -> dict[str, int]:
        """How often the model's double was asked, by run."""
        with urllib.request.urlopen(f"{self.model_url}/calls", timeout=5) as answer:  # noqa: S310 - loopback
            calls: dict[str, int] = orjson.loads(answer.read())["runs"]
            return calls

    async def published(self) -> list[Published]:
        """Every record of the topics of changes, in the order of each partition."""
        found = []
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.settings.kafka_bootstrap_servers, enable_auto_commit=False, fetch_max_wait_ms=50
        )
        await consumer.start()
        try:
            ends = {TopicPartition(*name): end for name, end in (await self._ends(consumer)).items() if end}
            consumer.assign(list(ends))
            for partition in ends:
                consumer.seek(partition, 0)
            left = sum(ends.values())
            while left > 0:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    found += [_published(record) for record in records]
                    left -= len(records)
        finally:
            await consumer.stop()
        return found

    async def _ends(self, consumer: AIOKafkaConsumer | None = None) -> dict[tuple[str, int], int]:
        if consumer is None:
            consumer = AIOKafkaConsumer(bootstrap_servers=self.settings.kafka_bootstrap_servers)
            await consumer.start()
            try:
                return await self._ends(consumer)
            finally:
                await consumer.stop()
        topics = Topics(self.settings.topic_prefix)
        partitions = [
            TopicPartition(topics.changes(app), number)
            for app in self.settings.apps
            for number in range(self.settings.topic_partitions)
        ]
        return {(tp.topic, tp.partition): end for tp, end in (await consumer.end_offsets(partitions)).items()}

    # What must hold

    async def check_everything(self) -> None:
        await self.check_topics()
        await self.check_views()
        self.check_iterations()
        self.check_calls()

    async def check_topics(self) -> None:
        """Every change is in its topic, once, in commit order for each user and app."""
        before = self.change_ids()
        records = await self.published()
        ids = [record.id for record in records]
        assert len(ids) == len(set(ids)), f"repeated: {sorted({i for i in ids if ids.count(i) > 1})[:5]}"
        assert before <= set(ids) <= self.change_ids()
        places: dict[tuple[str, int], Place] = {}
        written: dict[tuple[str, str], str] = defaultdict(str)
        devices = {device.client_id for device in self._devices.values()}
        for record in records:
            lane = (record.topic, record.partition)
            assert lane not in places or places[lane] < record.place, f"out of order: {record}"
            places[lane] = record.place
            if record.client_id in devices:  # one connection wrote them, so created_at is commit order there
                assert record.created_at is not None
                assert written[record.topic, record.user_id] <= record.created_at, f"out of order: {record}"
                written[record.topic, record.user_id] = record.created_at

    async def check_views(self) -> None:
        """Every row is the fold of the log, by the second implementation in SQL."""
        for view in VIEWS.values():
            report = await verify(self.settings, view)
            assert report.differences == 0, report.examples
            assert report.rows > 0

    def check_iterations(self) -> None:
        """One iteration per user, mission and due time; each in the log exactly once, and again where a device's array
        dropped it.
        """
        runs, rows = self.runs_and_rows()
        written = {run[0]: run for run in runs}
        changes = {row[0]: row for row in rows if row[0] not in _restores(runs)}
        assert len(written) == len(runs), runs
        assert written.keys() == changes.keys(), (
            f"runs without a change: {[written[i] for i in written.keys() - changes.keys()]};"
            f" changes without a run: {[changes[i] for i in changes.keys() - written.keys()]}"
        )
        assert len(rows) == len(changes) + len(_restores(runs)), runs
        for _, _, iterations in rows:
            ids = [iteration["id"] for iteration in iterations]
            assert len(ids) == len(set(ids)), ids
        others = self.ask("select state, decision, reason from mana_ai.mission_runs where state <> 'written'")
        assert others == [], others

    def effects(self) -> set[UUID]:
        """Changes that the projector wrote, but for iterations that it only put back."""
        runs, rows = self.runs_and_rows()
        return {row[0] for row in rows} - _restores(runs)

    def runs_and_rows(self) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """Written runs `(change_id, run_id, mission_id, reason, restores)`, and the projector's changes
        `(id, record_id, iterations)`, both of one moment: an iteration may be put back at any time.
        """
        with psycopg.connect(self.database.admin_url) as conn:
            conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            runs = conn.execute(
                "select change_id, run_id, mission_id, reason, restores from mana_ai.mission_runs"
                " where state = 'written'"
            ).fetchall()
            rows = conn.execute(
                "select id, record_id, data -> 'iterations' from sync_changes where client_id = 'mana-ai-runner'"
            ).fetchall()
            return runs, rows

    def check_calls(self) -> None:
        """Nobody paid twice: the model was asked once for each answer that a run has stored.

        But for `lost_answers`: those that a kill took between the answer and its storing.
        """
        stored = dict(
            self.ask("select run_id::text, count(*) from mana_ai.run_steps where kind = 'llm' group by run_id")
        )
        calls = self.calls_of_runs()
        assert calls.keys() == stored.keys()
        assert all(calls[run] >= stored[run] for run in stored), "an answer from nowhere"
        again = {run: calls[run] - stored[run] for run in stored if calls[run] > stored[run]}
        assert sum(again.values()) == self.lost_answers, f"asked again: {again}"


def _restores(runs: list[tuple[Any, ...]]) -> set[UUID]:
    # A mission of this world runs once, so that each is put back alone.
    return {restored_change_id([run_id], time) for _, run_id, _, _, restores in runs for time in range(1, restores + 1)}


def _published(record: Any) -> Published:
    headers = dict(record.headers)
    value = orjson.loads(record.value)
    return Published(
        record.topic,
        record.partition,
        record.offset,
        from_headers(dict(record.headers)),
        headers["id"].decode(),
        value["user_id"],
        value.get("client_id"),
        value.get("created_at"),
    )
