"""How far a rebuild is: told to whoever asked for it, and kept in the database for everybody else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from projector.config import Settings
from projector.sql import query
from projector.sql.connection import connect
from projector.views.declared import View

STORE_S = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """`events` of `total` records were read, `before` of them by an interrupted run; `changes` were the view's own.

    `seconds` are those of this run.
    """

    view: str
    events: int
    total: int
    changes: int
    seconds: float
    before: int = 0

    @property
    def events_per_s(self) -> float:
        return (self.events - self.before) / self.seconds if self.seconds else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds left at the rate so far; None while there is no rate."""
        return (self.total - self.events) / self.events_per_s if self.events_per_s else None


Report = Callable[[Progress], None]
Tell = Callable[[int, int], None]
"""Is given how many records were read and how many of them were changes of the view, both since the start."""


class Ledger:
    """Adds up what several workers tell."""

    def __init__(self, view: View, total: int, before: int, report: Report) -> None:
        self._view = view
        self._total = total
        self._before = before
        self._report = report
        self._counts: dict[int, tuple[int, int]] = {}
        self._started = time.monotonic()

    def teller(self, worker: int) -> Tell:
        """What the worker of that number is to call."""

        def tell(events: int, changes: int) -> None:
            self._counts[worker] = (events, changes)
            self._report(self.progress)

        return tell

    @property
    def progress(self) -> Progress:
        events = self._before + sum(events for events, _ in self._counts.values())
        changes = sum(changes for _, changes in self._counts.values())
        seconds = time.monotonic() - self._started
        return Progress(self._view.name, events, max(events, self._total), changes, seconds, self._before)

    async def store(self, conn: psycopg.AsyncConnection[Any]) -> None:
        now = self.progress
        names = ("view", "events", "total", "changes", "seconds")
        await conn.execute(query("rebuild/progress"), {name: getattr(now, name) for name in names})


@asynccontextmanager
async def stored(settings: Settings, ledger: Ledger) -> AsyncIterator[None]:
    """Keeps the database up to date while the body runs."""

    async def keep(conn: psycopg.AsyncConnection[Any]) -> None:
        while True:
            await asyncio.sleep(STORE_S)
            await ledger.store(conn)

    async with await connect(settings, "projector_engine") as conn:
        keeping = asyncio.create_task(keep(conn))
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.wait((keeping,))
        await ledger.store(conn)
