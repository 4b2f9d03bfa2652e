"""A continuous load: devices whose missions become due at a steady rate, and who remember what became due."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import psycopg
from psycopg.types.json import Jsonb

from projector.log.clock import from_datetime
from projector.log.ids import run_id
from projector.planner.iteration import iso_ms

USERS = tuple(f"user-{n}" for n in range(6))
NARROW, WIDE, CAPPED = "narrow", "wide", "capped"
AGENTS: dict[str, dict[str, Any]] = {
    NARROW: {"maxConcurrentMissions": 1},
    WIDE: {"maxConcurrentMissions": 4},
    CAPPED: {"maxConcurrentMissions": 4, "maxTokensPerDay": 10**12},
}
"""Each user has these: one that runs a single mission at once, and one of whose tokens each run reserves some."""
BURST = 3
DEEP, DEEP_SHARE = "Ein deep dive über Pflanzen", 0.2
"""What a mission wants that is to be researched before it is planned, and how many are."""
MOST_OPEN = 25
"""Due times without an iteration: a slow machine gets as many as it can bear."""
INSERT = """
    insert into sync_changes
        (id, app_id, table_name, record_id, user_id, op, data, field_meta, client_id, created_at)
    values (%s, 'ai', %s, %s, %s, %s, %s, %s, 'device', clock_timestamp())
"""


class Due(NamedTuple):
    """A time at which a mission has to run."""

    user: str
    mission: str
    at: datetime

    @property
    def run(self) -> UUID:
        return run_id(self.user, self.mission, from_datetime(self.at))


class Load(threading.Thread):
    """Writes as the sync server does, as one user at a time and under row-level security.

    `rate`: missions a second that become due, unless MOST_OPEN wait already. `finished` holds missions that have run,
    to be used once more: due again, or with their iterations dropped by a device that never saw them.
    """

    def __init__(self, sync_url: str, admin_url: str, seed: str, rate: float) -> None:
        super().__init__(daemon=True)
        self.rate = rate
        self._admin_url = admin_url
        self.finished: deque[tuple[str, str]] = deque(maxlen=500)
        self._url = sync_url
        self._numbers = random.Random(seed)
        self._owed: list[Due] = []
        self._lock = threading.Lock()
        self._halt = threading.Event()
        self._number = 0
        self._due = 0
        self.failure: BaseException | None = None

    def take(self) -> list[Due]:
        """What became due since the last call and has been committed; raises what ended the load."""
        if self.failure is not None:
            raise self.failure
        with self._lock:
            owed, self._owed = self._owed, []
        return owed

    def stop(self) -> None:
        self._halt.set()
        if self.is_alive():
            self.join()

    def agents(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as conn:
            for user in USERS:
                with conn.transaction():
                    self._enter(conn, user)
                    for agent, limits in AGENTS.items():
                        fields = {"name": agent, "role": "", "state": "active"} | limits
                        self._write(conn, user, "agents", agent, "insert", fields)

    def run(self) -> None:
        try:
            with (
                psycopg.connect(self._url, autocommit=True) as conn,
                psycopg.connect(self._admin_url, autocommit=True) as ledger,
            ):
                while not self._halt.is_set():
                    began = time.monotonic()
                    due = self._step(conn, busy=self._open(ledger) >= MOST_OPEN)
                    with self._lock:
                        self._owed += due
                    self._due += len(due)
                    pause_s = max(1, len(due)) / self.rate * self._numbers.uniform(0.5, 1.5)
                    self._halt.wait(max(0.0, pause_s + began - time.monotonic()))
        except BaseException as failure:
            self.failure = failure

    def _open(self, ledger: psycopg.Connection) -> int:
        row = ledger.execute("select count(*) from mana_ai.mission_runs where state = 'written'").fetchone()
        assert row is not None
        return self._due - int(row[0])

    def _step(self, conn: psycopg.Connection, *, busy: bool) -> list[Due]:
        chance = self._numbers.random()
        user = self._numbers.choice(USERS)
        with conn.transaction():
            if chance < 0.15:
                self._drop(conn)
                return []
            if busy:
                return []
            self._enter(conn, user)
            if chance < 0.35:
                return [self._mission(conn, user, NARROW) for _ in range(BURST)]
            if chance < 0.55 and self.finished:
                return [self._again(conn)]
            return [self._mission(conn, user, self._numbers.choice((WIDE, CAPPED)))]

    def _drop(self, conn: psycopg.Connection) -> None:
        """A device writes the array of iterations as it was before there were any."""
        if self.finished:
            user, mission = self.finished.popleft()
            self._enter(conn, user)
            self._write(conn, user, "aiMissions", mission, "update", {"iterations": []})

    def _again(self, conn: psycopg.Connection) -> Due:
        user, mission = self.finished.popleft()
        self._enter(conn, user)
        due = _at(0.0)
        self._write(conn, user, "aiMissions", mission, "update", {"nextRunAt": iso_ms(due)})
        return Due(user, mission, due)

    def _mission(self, conn: psycopg.Connection, user: str, agent: str) -> Due:
        self._number += 1
        mission = str(UUID(int=self._numbers.getrandbits(128), version=4))
        due = _at(self._numbers.uniform(-1.0, 1.0))
        fields = {
            "title": f"Mission {self._number}",
            "objective": DEEP if self._numbers.random() < DEEP_SHARE else "Gieße die Pflanzen",
            "state": "active",
            "agentId": agent,
            "cadence": {"kind": "interval", "everyMinutes": 600},
            "inputs": [],
            "iterations": [],
            "createdAt": iso_ms(datetime.now(UTC)),
            "nextRunAt": iso_ms(due),
        }
        self._write(conn, user, "aiMissions", mission, "insert", fields)
        return Due(user, mission, due)

    @staticmethod
    def _enter(conn: psycopg.Connection, user: str) -> None:
        conn.execute("select set_config('app.current_user_id', %s, true)", [user])

    @staticmethod
    def _write(conn: psycopg.Connection, user: str, table: str, record: str, op: str, data: dict[str, Any]) -> None:
        meta = dict.fromkeys(data, iso_ms(datetime.now(UTC))) if op == "update" else {}
        conn.execute(INSERT, [uuid4(), table, record, user, op, Jsonb(data), Jsonb(meta)])


def _at(seconds: float) -> datetime:
    """So far from now, in whole milliseconds, as devices have them."""
    moment = datetime.now(UTC) + timedelta(seconds=seconds)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
