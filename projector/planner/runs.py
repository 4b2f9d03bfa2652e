"""The runs of the ledger for an operator: pages, one in full, and the two things to be done with one.

A run is retried or cancelled by one statement, which locks its row and judges what stands there then: a worker or the
write-back that was faster has won, and one that comes later finds the run changed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

import psycopg
from psycopg.rows import class_row

from projector.errors import ConfigError
from projector.logging import get
from projector.planner.ledger import WAKE_HELD
from projector.planner.steps import StepKind
from projector.sql import query

STATES = ("due", "running", "planned", "held", "written", "failed", "cancelled")
UNFINISHED = ("due", "running", "planned", "held")
STUCK = ("held", "failed", "cancelled")
PAGE = 500

Outcome = Literal["retried", "cancelled", "unchanged", "refused", "unknown"]
"""What became of a run.

retried    it may be claimed at once, or its plan be written
cancelled  it ended, and does not come back by itself
unchanged  it was like that already
refused    it stays as it is, for the reason told
unknown    there is no such run
"""
FAILURES: tuple[Outcome, ...] = ("refused", "unknown")

Connection = psycopg.AsyncConnection[Any]

log = get("runs")


@dataclass(frozen=True, slots=True)
class Selection:
    """The runs that all of this is true of; one without any of it takes every run.

    `since` is when they were opened. `newest`: of each mission only the run of its latest due time.
    """

    ids: tuple[UUID, ...] = ()
    states: tuple[str, ...] = ()
    user: str | None = None
    mission: str | None = None
    decision: str | None = None
    since: datetime | None = None
    newest: bool = False

    @property
    def is_everything(self) -> bool:
        return self == Selection()

    def parameters(self) -> dict[str, Any]:
        return {
            "ids": list(self.ids) or None,
            "states": list(self.states) or None,
            "user": self.user,
            "mission": self.mission,
            "decision": self.decision,
            "since": self.since,
            "newest": self.newest,
        }


@dataclass(frozen=True, slots=True)
class Listed:
    """A run without what users wrote. `lease_expired` is None when there is no lease; `age_s` since its last change."""

    run_id: UUID
    user_id: str
    mission_id: str
    agent_id: str
    due_at: datetime
    state: str
    decision: str | None
    reason: str | None
    attempts: int
    next_attempt_at: datetime | None
    lease_owner: str | None
    lease_until: datetime | None
    lease_expired: bool | None
    prompt_tokens: int
    completion_tokens: int
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    age_s: float


@dataclass(frozen=True, slots=True)
class Whole:
    """The rest of a run; `brief` and `plan` hold what users wrote. The mission is as the view shows it now."""

    started_at: datetime | None
    planned_at: datetime | None
    written_at: datetime | None
    admitted_at: datetime | None
    iteration_id: UUID
    change_id: UUID | None
    written_lsn: str | None
    """In the WAL past the change's row and before its commit; None too for runs of releases that did not keep it."""
    seen_source: int | None
    seen_lsn: str | None
    """Generation and commit LSN of the mission's latest change in the view of iterations, once the run's is in it."""
    failed_calls: Sequence[dict[str, Any]]
    """The last that the run did not go on with: `at`, `error`, `ms`, tokens of both kinds, `cost` (US $), `route`.

    The error of one that was answered, before the run came to ask something else, is `Unused`.
    """
    research_at: datetime | None
    """When the run began a job of deep research."""
    research_credits: float | None
    """What the service said that the job costs which the run submitted. The service settles it, or gives it back."""
    brief: dict[str, Any] | None
    plan: dict[str, Any] | None
    mission_state: str | None
    mission_deleted: bool | None
    mission_next_run_at: datetime | None


@dataclass(frozen=True, slots=True)
class StoredStep:
    """`response` holds what the model made of what users wrote; None when it is pruned."""

    seq: int
    kind: StepKind
    request_digest: bytes
    response: dict[str, Any] | None
    prompt_tokens: int
    completion_tokens: int
    created_at: datetime
    evidence: dict[str, Any] | None = None
    """Who answered, in how many ms, at what cost in US dollars, and what was tried before; it outlives the answer."""


class Result(NamedTuple):
    """`before` is the state in which the run was found; None when there is no such run."""

    run_id: UUID
    before: str | None
    outcome: Outcome
    detail: str


async def pages(
    conn: Connection, selection: Selection, *, after: Listed | None = None, size: int = PAGE
) -> AsyncIterator[list[Listed]]:
    """The selected runs, newest first, those older than `after`; no page is empty."""
    while True:
        place = {
            "after": None if after is None else after.created_at,
            "after_id": None if after is None else after.run_id,
        }
        cursor = conn.cursor(row_factory=class_row(Listed))
        await cursor.execute(query("planner/runs_page"), selection.parameters() | place | {"limit": size})
        page = await cursor.fetchall()
        if page:
            yield page
        if len(page) < size:
            break
        after = page[-1]


async def tally(conn: Connection, selection: Selection) -> dict[str, int]:
    """Counts by state; `newest` is not looked at."""
    cursor = await conn.execute(query("planner/runs_tally"), selection.parameters())
    return dict(await cursor.fetchall())


async def find(conn: Connection, run_id: UUID) -> Listed:
    """Raises ConfigError when there is no such run."""
    async for page in pages(conn, Selection((run_id,))):
        return page[0]
    raise ConfigError(f"there is no run {run_id}", "`projector runs list` shows those there are")


async def read_whole(conn: Connection, run_id: UUID) -> tuple[Whole, Sequence[StoredStep]]:
    """The rest of a run, and its steps in order; raises ConfigError when it is gone."""
    runs = conn.cursor(row_factory=class_row(Whole))
    await runs.execute(query("planner/runs_show"), {"run_id": run_id})
    whole = await runs.fetchone()
    if whole is None:
        raise ConfigError(f"there is no run {run_id} any more", "`projector runs list` shows those there are")
    steps = conn.cursor(row_factory=class_row(StoredStep))
    await steps.execute(query("planner/runs_steps"), {"run_id": run_id})
    return whole, await steps.fetchall()


async def retry(conn: Connection, selection: Selection, *, by: str) -> AsyncIterator[Result]:
    """Makes the selected runs claimable at once, each in a transaction of its own; yields what became of each."""
    async for run_id in _ids(conn, selection):
        yield await _retry(conn, run_id, by)


async def cancel(conn: Connection, selection: Selection, *, by: str) -> AsyncIterator[Result]:
    """Ends the selected runs for good, each in a transaction of its own; yields what became of each.

    A worker that carries one out has lost its lease: it cannot store anything for it, and stops once it renews.
    """
    async for run_id in _ids(conn, selection):
        yield await _cancel(conn, run_id, by)


async def _ids(conn: Connection, selection: Selection) -> AsyncIterator[UUID]:
    """Those named, found or not, else those that the filters take."""
    if selection.ids and selection == Selection(selection.ids):
        for run_id in dict.fromkeys(selection.ids):
            yield run_id
        return
    async for page in pages(conn, selection):
        for run in page:
            yield run.run_id


async def _retry(conn: Connection, run_id: UUID, by: str) -> Result:
    try:
        async with conn.transaction():
            cursor = await conn.execute(query("planner/runs_retry"), {"run_id": run_id, "reason": f"by {by}"})
            row = await cursor.fetchone()
            if row is not None and row[3]:
                log.warning("run retried", run=str(run_id), by=by, before=row[0])
    except psycopg.errors.UniqueViolation:
        return Result(run_id, None, "refused", "another run of its mission was opened at this moment")
    if row is None:
        return _unknown(run_id)
    state, lease_expired, other, changed = row
    if not changed:
        return Result(run_id, state, "refused", _why_not(state, lease_expired, other))
    detail = "the write-back takes its plan now" if state == "planned" else "a worker takes it now"
    return Result(run_id, state, "retried", detail)


def _why_not(state: str, lease_expired: bool | None, other: UUID | None) -> str:
    if state == "written":
        return "its iteration is in the log"
    if state == "running":
        return "its worker vanished, the next one takes it by itself" if lease_expired else "a worker is at it"
    return f"run {other} of its mission is not finished"


async def _cancel(conn: Connection, run_id: UUID, by: str) -> Result:
    async with conn.transaction():
        await conn.execute(query("planner/lock_user_of"), {"run_id": run_id})
        cursor = await conn.execute(query("planner/runs_cancel"), {"run_id": run_id, "reason": f"by {by}"})
        row = await cursor.fetchone()
        if row is None:
            return _unknown(run_id)
        state, for_good, changed, user_id, agent_id = row
        if changed:
            log.warning("run cancelled", run=str(run_id), by=by, before=state)
            if state == "running":
                await conn.execute(WAKE_HELD, {"user_id": user_id, "agent_id": agent_id})
    if changed:
        stops = "; its worker stops when it next renews its lease" if state == "running" else ""
        return Result(run_id, state, "cancelled", f"its due time does not come back by itself{stops}")
    if state == "cancelled" and for_good:
        return Result(run_id, state, "unchanged", "it was cancelled for good before")
    return Result(run_id, state, "refused", "its iteration is in the log")


def _unknown(run_id: UUID) -> Result:
    return Result(run_id, None, "unknown", "there is no such run, or retention has deleted it")
