"""A continuous load of what devices write, and of what nobody should: every history is one of a record that others have
written to before. Some rows are of a version that the workers do not know, some are deleted again."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import orjson
import psycopg
from psycopg import sql

from projector.log.change import BadChange, decode
from tests.views import test_iterations, test_sql_fold
from tests.views.log import COLUMNS, JSON_COLUMNS, Row, value_of

USERS = 15
RECORDS = 6
"""Of one user in one table."""
ERASED_APP = "notes"
TABLES = (("ai", "aiMissions"), ("ai", "aiMissions"), ("ai", "agents"), (ERASED_APP, "notes"))
KNOWN, NEWER = 0, 1
"""Schema versions: workers know the first alone, everything else both."""
LETTER_SHARE, ERASED_SHARE = 0.03, 0.02

_INSERT = sql.SQL("insert into sync_changes ({}) values ({})").format(
    sql.SQL(", ").join(map(sql.Identifier, COLUMNS)), sql.SQL(", ").join(sql.Placeholder() * len(COLUMNS))
)


class DeviceLoad(threading.Thread):
    """`lock` is held by each transaction: whoever holds it stops the load. Outlives the server."""

    def __init__(self, url: str, seed: str, rate: float) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.rate = rate
        self.lock = threading.Lock()
        self.letters = False
        """Whether some rows are of the version that workers lay aside."""
        self._numbers = random.Random(seed)
        self._halt = threading.Event()
        self._failure: BaseException | None = None
        self._erasable: deque[str] = deque(maxlen=200)
        self._rows: deque[Row] = deque()

    def stop(self) -> None:
        """Returns when nothing is being written any more; raises what ended the load."""
        self._halt.set()
        if self.is_alive():
            self.join()
        self.check()

    def check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def run(self) -> None:
        try:
            while not self._halt.is_set():
                try:
                    with psycopg.connect(self.url, autocommit=True, connect_timeout=5) as conn:
                        while not self._halt.is_set():
                            began = time.monotonic()
                            rows = self._transaction(conn)
                            pause = rows / self.rate * self._numbers.uniform(0.5, 1.5)
                            self._halt.wait(pause + began - time.monotonic())
                except psycopg.OperationalError:
                    self._halt.wait(0.02)
        except BaseException as failure:
            self._failure = failure

    def _transaction(self, conn: psycopg.Connection) -> int:
        count = 1 if self._numbers.random() < 0.5 else self._numbers.randrange(2, 12)
        while len(self._rows) < count:
            self._rows.extend(self._history())
        rows = [self._rows.popleft() for _ in range(count)]
        with self.lock, conn.transaction():
            for row in rows:
                if self.letters and row["app_id"] == "ai" and self._numbers.random() < LETTER_SHARE:
                    row["schema_version"] = NEWER
            conn.cursor().executemany(_INSERT, [_values(row) for row in rows])
            if self._erasable and self._numbers.random() < ERASED_SHARE * count:
                # What the workers lay aside, they would lose when they fold a record anew: notes have none of it.
                conn.execute("delete from sync_changes where id = %s", [self._erasable.popleft()])
        self._erasable += [row["id"] for row in rows if row["app_id"] == ERASED_APP]
        return count

    def _history(self) -> Iterator[Row]:
        numbers = self._numbers
        app, table = numbers.choice(TABLES)
        of_iterations = table == "aiMissions" and numbers.random() < 0.6
        history = (test_iterations if of_iterations else test_sql_fold).history
        user, record = f"user-{numbers.randrange(USERS)}", f"{table}-{numbers.randrange(RECORDS)}"
        for row in history(numbers, record):
            row |= {"user_id": user, "app_id": app, "table_name": table}
            try:
                decode(value_of(row))
            except BadChange:  # what can never be folded is no part of this
                continue
            yield row | {"schema_version": KNOWN}


def _values(row: Row) -> list[Any]:
    return [
        orjson.dumps(row[name]).decode() if name in JSON_COLUMNS and row[name] is not None else row[name]
        for name in COLUMNS
    ]
