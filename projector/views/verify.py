"""Holds a view against a fold of `sync_changes` that shares no code with the engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from projector.config import Settings
from projector.views import verify_runs
from projector.views.compare import Comparison, Digest, Keys, Scope, Users, session
from projector.views.declared import Identity, View
from projector.views.differences import Difference
from projector.views.judge import Judge
from projector.views.verify_runs import Run

EXAMPLES = 20
SETTLE_S = 5.0
"""How long what differs may be what is not published or not folded anew yet."""
PAGE_CHANGES = 10_000
"""Rows of the log that one statement folds, about; more only for a single record that has more."""
RECORDS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """`rows` records were compared, of the log and of the view together; `skipped` columns of them were not."""

    view: str
    rows: int
    differences: int
    examples: tuple[Difference, ...]
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: `changes` of `total` rows of the log, as counted at its start, and the records of them."""

    view: str
    changes: int
    total: int
    rows: int
    differences: int
    changes_per_s: float
    """Of this process, pauses included."""

    @property
    def eta_s(self) -> float | None:
        """Seconds left at the rate so far; None while there is no rate."""
        return max(0, self.total - self.changes) / self.changes_per_s if self.changes_per_s else None


async def verify(
    settings: Settings,
    view: View,
    *,
    users: Sequence[str] | None = None,
    settle_s: float = SETTLE_S,
    rate: float = 0,
    page_changes: int = PAGE_CHANGES,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    digests: Callable[[Digest], None] | None = None,
) -> VerifyReport:
    """Compares every record (of `users`, when given) with the log, page by page, each in a snapshot of its own.

    No difference means: each row, as it was in the snapshot of its page, was the fold of all rows of the log that this
    snapshot held, but for those that lay in the topic at or above the view's position and so were still to be applied;
    and the log held no record without a row, nor the view a row without a record. It says nothing of what was written
    afterwards, nor of the columns in `skipped`.

    `rate` is the most rows of the log per second, 0 for no limit. A run over all users is kept in the database; with
    `resume` the newest one of the view that was stopped goes on, if there is one. `settle_s` is for each page in which
    something differs. `digests` gets those of every record compared.

    Raises HiddenRowsError when the role does not see every row, RunContinuedError when another process goes on with
    the same run. Only when records differ: what reading Kafka raises, and ForeignClusterError or TopicRecreatedError
    when the view stands in other topics than those there are, so that nobody can tell whether it is merely behind.
    """
    async with session(settings) as conn, AsyncExitStack() as open_later:
        comparison = Comparison(settings, view, users)
        run = await verify_runs.resume(conn, view.name) if resume and users is None else None
        if run is None:
            total = await comparison.total(conn)
            run = Run(None, total) if users is not None else await verify_runs.begin(conn, view.name, total)
        judge = Judge(settings, view, comparison, conn, open_later)
        began, before = time.monotonic(), run.changes
        async with aclosing(_pages(conn, comparison, run, page_changes)) as pages:
            async for page in pages:
                room = EXAMPLES - len(run.examples)
                compared, count, found = await judge.judge(page.scope, settle_s, room)
                if digests is not None:
                    for digest in await comparison.digests(conn, page.scope):
                        digests(digest)
                after = replace(
                    run,
                    after_user=page.after_user,
                    after_record=page.after_record,
                    changes=run.changes + compared.changes,
                    rows=run.rows + compared.rows,
                    differences=run.differences + count,
                    examples=(*run.examples, *found),
                )
                run = await verify_runs.checkpoint(conn, run, after, finished=False)
                done = run.changes - before
                if rate:
                    await asyncio.sleep(max(0.0, began + done / rate - time.monotonic()))
                if progress is not None:
                    per_s = done / max(time.monotonic() - began, 1e-6)
                    progress(Progress(view.name, run.changes, run.total, run.rows, run.differences, per_s))
        run = await verify_runs.checkpoint(conn, run, run, finished=True)
    return VerifyReport(view.name, run.rows, run.differences, run.examples, comparison.skipped)


@dataclass(frozen=True, slots=True)
class Page:
    """Records to compare at once, and how far the run is when they are done."""

    scope: Scope
    after_user: str | None
    after_record: Identity | None = None


async def _pages(
    conn: psycopg.AsyncConnection[Any], comparison: Comparison, run: Run, size: int
) -> AsyncGenerator[Page, None]:
    """The pages that a run has still before it: many users, or some records of one user who has too many rows."""
    after, record = run.after_user, run.after_record
    while True:
        upto, large = (None, record[0]) if record is not None else await comparison.next_page(conn, after, size)
        if upto is not None:
            yield Page(Users(after, upto), upto)
            after = upto
        elif large is not None:
            async with aclosing(_records(conn, comparison, large, record, size)) as pages:
                async for identities in pages:
                    yield Page(Keys(identities), after, identities[-1])
            # One more page, of nothing: it says that this user is done.
            yield Page(Keys([]), large)
            after, record = large, None
        else:
            return


async def _records(
    conn: psycopg.AsyncConnection[Any], comparison: Comparison, user: str, after: Identity | None, size: int
) -> AsyncGenerator[list[Identity], None]:
    async with comparison.records_of(conn, user, after) as cursor:
        page: list[Identity] = []
        changes = 0
        while rows := await cursor.fetchmany(RECORDS_AT_ONCE):
            for app, table, record, count in rows:
                if page and (changes + count > size or len(page) >= size):
                    yield page
                    page, changes = [], 0
                page.append((user, app, table, record))
                changes += count
        if page:
            yield page
