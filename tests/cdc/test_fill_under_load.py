"""A fill while everything that a transaction can be goes on around it: savepoints, rollbacks, long ones, deletes."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.cdc.support import Record, insert, killed, process, read, running
from tests.fixtures.settings import drop_slot

SEED = 20_261_125


class Writers:
    """Threads that write as applications do. `deleted` are ids that are gone; what a rollback took is in neither."""

    def __init__(self, url: str, seed: int) -> None:
        self._url = url
        self._seed = seed
        self._lock = threading.Lock()
        self.committed: set[str] = set()
        self.deleted: set[str] = set()

    @contextmanager
    def at_work(self, count: int = 4) -> Iterator[None]:
        stop = threading.Event()
        threads = [threading.Thread(target=self._run, args=(stop, self._seed + n)) for n in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def _run(self, stop: threading.Event, seed: int) -> None:
        numbers = random.Random(seed)
        with psycopg.connect(self._url, autocommit=True) as conn:
            while not stop.is_set():
                self._transaction(conn, numbers)
                time.sleep(numbers.random() * 0.01)

    def _transaction(self, conn: psycopg.Connection[Any], numbers: random.Random) -> None:
        kept: set[str] = set()
        gone: set[str] = set()
        kept_all = False
        with conn.transaction() as outer:
            for _ in range(numbers.randrange(1, 5)):
                with conn.transaction() as savepoint:
                    row = insert(conn, user_id=f"user-{numbers.randrange(9)}", data={"x": "y" * numbers.randrange(300)})
                    if numbers.random() < 0.3:
                        raise psycopg.Rollback(savepoint)
                    kept.add(row)
            if numbers.random() < 0.1:
                time.sleep(numbers.random() * 1.5)
            with self._lock:
                victims = numbers.sample(sorted(self.committed), k=min(1, len(self.committed)))
            if numbers.random() < 0.2:
                found = conn.execute(
                    "delete from sync_changes where id = any (%s::uuid[]) returning id::text", [victims]
                )
                gone = {row[0] for row in found.fetchall()}
            if numbers.random() < 0.15:
                raise psycopg.Rollback(outer)
            kept_all = True
        if kept_all:
            with self._lock:
                self.committed |= kept
                self.deleted |= gone


def ids(records: list[Record], op: bytes) -> Counter[str]:
    return Counter(r.headers["id"].decode() for r in records if r.headers["op"] == op)


@pytest.fixture
def conn(settings):
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        yield conn


def check(records: list[Record], writers: Writers, conn: psycopg.Connection[Any]) -> None:
    there = {str(row[0]) for row in conn.execute("select id from sync_changes")}
    assert there == writers.committed - writers.deleted
    inserted, erased = ids(records, b"insert"), ids(records, b"erased")
    assert there <= inserted.keys(), f"missing: {len(there - inserted.keys())} (seed {SEED})"
    assert inserted.keys() <= writers.committed, "rolled back, and published"
    assert set(inserted.values()) <= {1}, f"repeated: {[i for i, n in inserted.items() if n > 1][:3]} (seed {SEED})"
    assert (inserted.keys() & writers.deleted) <= erased.keys(), "deleted, and nobody was told"


async def settled(settings, conn, writers: Writers) -> list[Record]:
    """Everything in the topics, once a heartbeat after the last write has come back."""
    (lsn,) = conn.execute("select pg_current_wal_insert_lsn()").fetchone() or ("",)
    async with asyncio.timeout(60):
        while conn.execute("select from mana_ai.cdc_watermarks where lsn >= %s", [lsn]).fetchone() is None:
            await asyncio.sleep(0.1)
    return await read(settings)


@pytest.mark.parametrize("point", ["", "cdc.fill_before_send:3", "cdc.fill_after_ack_before_checkpoint:2"])
async def test_a_backfill_in_the_middle_of_writes_brings_each_row_once(settings, conn, point: str) -> None:
    settings = settings.model_copy(update={"fill_rows_per_s": 1500})
    writers = Writers(settings.admin_url, SEED)
    with writers.at_work():
        await asyncio.sleep(4)
        if point:
            with process(settings, point) as child:
                await killed(child)
        async with running(settings):
            await asyncio.sleep(1.5)
    async with running(settings):
        records = await settled(settings, conn, writers)
    assert any("fill" in r.headers for r in records)
    assert any("fill" not in r.headers for r in records)
    check(records, writers, conn)


async def test_slots_that_are_lost_in_the_middle_of_writes_leave_no_gap(settings, conn) -> None:
    writers = Writers(settings.admin_url, SEED + 100)
    with writers.at_work():
        for _ in range(4):
            async with running(settings):
                await asyncio.sleep(2.5)
            drop_slot(conn, settings.slot_name)
            await asyncio.sleep(0.5)
        async with running(settings):
            await asyncio.sleep(1)
    async with running(settings):
        records = await settled(settings, conn, writers)
    # Four gaps, and what was written before the first slot.
    assert len({r.headers["fill"] for r in records if "fill" in r.headers}) in (4, 5)
    check(records, writers, conn)
