"""A continuous load: transactions of every kind, by writers that know what they have committed."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import deque

import orjson
import psycopg

from projector.cdc.commands import DUE
from projector.log.topics import Topics
from tests.faults.ledger import Event, Lane, Ledger

APPS = ("ai", "notes")
WRITERS = 3
USERS = 21

# created_at is the clock's, not the transaction's: then its order is that of the writes, on which a fill relies.
INSERT = (
    "insert into sync_changes (id, app_id, table_name, record_id, user_id, op, data, client_id, created_at)"
    " values (%s, %s, 'notes', %s, %s, 'insert', %s, 'load', clock_timestamp())"
)


class Writer(threading.Thread):
    """Writes for the users it owns, so that the order of their commits is known. Outlives the server."""

    def __init__(self, url: str, topics: Topics, ledger: Ledger, users: list[str], seed: str, rate: float) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.topics = topics
        self.ledger = ledger
        self.users = users
        self.rate = rate
        self.numbers = random.Random(seed)
        self.halt = threading.Event()
        self.failure: BaseException | None = None
        self._n = 0
        self._events: list[tuple[Lane, Event]] = []
        self._deletable: deque[tuple[Lane, str]] = deque(maxlen=50)

    def run(self) -> None:
        try:
            while not self.halt.is_set():
                try:
                    with psycopg.connect(self.url, autocommit=True, connect_timeout=5) as conn:
                        self._settle(conn)
                        while not self.halt.is_set():
                            began = time.monotonic()
                            rows = self.transaction(conn)
                            self.halt.wait(rows / self.rate * self.numbers.uniform(0.5, 1.5) + began - time.monotonic())
                except (psycopg.OperationalError, psycopg.Rollback):
                    # A rollback that we asked for comes out here when the session is gone under it.
                    self.halt.wait(0.02)
        except BaseException as failure:
            self.failure = failure

    def transaction(self, conn: psycopg.Connection) -> int:
        """One transaction, which may roll back; returns how many rows it tried to write."""
        chance = self.numbers.random
        rows = 1 if chance() < 0.6 else self.numbers.randrange(2, 20)
        if chance() < 0.003:
            rows = 300
        events = self._events = []
        with conn.transaction() as transaction:
            self._rows(conn, events, rows)
            if chance() < 0.1:
                self._savepoint(conn, events)
            if chance() < 0.04:
                self._announce(conn, events)
            if chance() < 0.04 and self._deletable:
                self._erase(conn, events)
            if chance() < 0.002:
                self.halt.wait(1.0)
                self._rows(conn, events, 2)
            if chance() < 0.06:
                events.clear()
                raise psycopg.Rollback(transaction)
        self._committed()
        return rows

    def write(self, conn: psycopg.Connection, rows: int, octets: int) -> None:
        """One transaction of so many rows of that size."""
        events = self._events = []
        with conn.transaction():
            self._rows(conn, events, rows, octets)
        self._committed()

    def _settle(self, conn: psycopg.Connection) -> None:
        """The last session may have ended between COMMIT and its answer: looks whether the transaction took place."""
        if self._events:
            _, event = self._events[0]
            found = conn.execute("select from sync_changes where id = %s", [event.id]).fetchone() is not None
            if found:
                self._committed()
            self._events = []

    def _committed(self) -> None:
        self.ledger.commit(self._events)
        self._deletable += [(lane, event.id) for lane, event in self._events if event.op == "insert"]
        self._events = []

    def _rows(
        self, conn: psycopg.Connection, events: list[tuple[Lane, Event]], count: int, octets: int | None = None
    ) -> None:
        values = []
        for _ in range(count):
            self._n += 1
            app, user = self.numbers.choice(APPS), self.numbers.choice(self.users)
            event = Event("insert", str(uuid.UUID(int=self.numbers.getrandbits(128), version=4)), self._n)
            size = octets or (20_000 if self.numbers.random() < 0.01 else self.numbers.randrange(600))
            data = orjson.dumps({"n": self._n, "text": "ä" * (size // 2)}).decode()
            values.append((event.id, app, f"r{self._n % 97}", user, data))
            events.append(((self.topics.changes(app), user), event))
        if count == 1:
            conn.execute(INSERT, values[0])
        else:
            conn.cursor().executemany(INSERT, values)

    def _savepoint(self, conn: psycopg.Connection, events: list[tuple[Lane, Event]]) -> None:
        inner: list[tuple[Lane, Event]] = []
        with conn.transaction() as savepoint:
            self._rows(conn, inner, self.numbers.randrange(1, 4))
            if self.numbers.random() < 0.3:
                self._announce(conn, inner)
            if self.numbers.random() < 0.5:
                inner.clear()
                raise psycopg.Rollback(savepoint)
        events += inner

    def _announce(self, conn: psycopg.Connection, events: list[tuple[Lane, Event]]) -> None:
        user, run_id = self.numbers.choice(self.users), str(uuid.UUID(int=self.numbers.getrandbits(128), version=4))
        content = orjson.dumps({"run_id": run_id, "user_id": user}).decode()
        conn.execute("select pg_logical_emit_message(true, %s, %s)", [DUE, content])
        events.append(((self.topics.due, user), Event("message", run_id)))

    def _erase(self, conn: psycopg.Connection, events: list[tuple[Lane, Event]]) -> None:
        lane, change_id = self._deletable.popleft()
        conn.execute("delete from sync_changes where id = %s", [change_id])
        events.append((lane, Event("erased", change_id)))


class Load:
    """Several writers at about `rate` rows a second together; what they do follows from `seed`."""

    def __init__(self, url: str, topics: Topics, ledger: Ledger, seed: str, rate: float) -> None:
        def writer(name: str, users: list[str]) -> Writer:
            return Writer(url, topics, ledger, users, f"{seed}:{name}", rate / WRITERS)

        self.url = url
        self.writers = [writer(f"w{w}", [f"user-{u}" for u in range(w, USERS, WRITERS)]) for w in range(WRITERS)]
        self._bulk = writer("bulk", [f"bulk-{u}" for u in range(4)])

    def start(self) -> None:
        for each in self.writers:
            each.start()

    def stop(self) -> None:
        """Returns when nothing is being written any more; raises what ended a writer."""
        for each in self.writers:
            each.halt.set()
        for each in self.writers:
            each.join()
        self.check()

    def check(self) -> None:
        for each in self.writers:
            if each.failure is not None:
                raise each.failure

    def bulk(self, rows: int, octets: int) -> None:
        """One large transaction, written by the caller, of users that nobody else writes for."""
        with psycopg.connect(self.url, autocommit=True) as conn:
            self._bulk.write(conn, rows, octets)
