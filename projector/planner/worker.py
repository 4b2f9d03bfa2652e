"""The pool that carries runs out: as many at once as there are places, none of them in another's way."""

from __future__ import annotations

import asyncio
import math
import traceback
from typing import Any
from uuid import UUID

import psycopg

from projector import crash, freeze, metrics
from projector.config import Settings
from projector.errors import LeaseLostError
from projector.health.judge import Seen
from projector.health.parts import Part, Servers, at_work
from projector.llm.chat import ChatModel
from projector.logging import get
from projector.planner.ledger import ClaimedRun, Pool
from projector.planner.pace import Pace
from projector.planner.planning import planning_of
from projector.planner.research.seek import LONGEST_S
from projector.planner.research.services import ResearchServices
from projector.planner.run import carry_out, give_up_attempt
from projector.planner.tracing import Finished, nobody
from projector.sql.connection import DATABASE_AWAY

RENEWALS_PER_LEASE = 3
WORKER, LEASES, OLDEST_RUN = "worker", "leases", "oldest run"
"""The parts of it that must move."""

log = get("planner")


def fault(error: Exception) -> dict[str, Any]:
    """What a log line says of an error, and where it came from; never its text, in which a database quotes rows."""
    told: dict[str, Any] = {"error": type(error).__name__}
    if isinstance(error, psycopg.Error):
        told |= {"sqlstate": error.sqlstate, "constraint": error.diag.constraint_name}
    places = traceback.extract_tb(error.__traceback__)
    return told | {"places": [f"{place.filename}:{place.lineno} {place.name}" for place in places]}


class Worker:
    """Claims runs from the ledger and carries them out until it is told to stop.

    Messages only wake it: what there is to do stands in the ledger, and is looked for every `pace.poll_s` anyway.
    """

    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        model: ChatModel,
        pace: Pace | None = None,
        *,
        services: ResearchServices | None = None,
        finished: Finished = nobody,
    ) -> None:
        self._finished = finished
        self._places = settings.planner_workers
        self._per_user = settings.runs_per_user
        self._lease_s = settings.lease_s
        # One call more folds the conversation; sub-agents make any number. A call that was begun is waited for.
        calls = math.inf if settings.planner_subagents else settings.planner_max_rounds + 1
        asking_s = min(settings.planner_max_s + settings.llm_timeout_s, settings.llm_timeout_s * calls)
        self._longest_run_s = asking_s
        self._planning = planning_of(settings, pool, model, pace or Pace(), services)
        self._ledger = self._planning.ledger
        if self._planning.gathering.research.has_services:
            self._longest_run_s += LONGEST_S
        self._tasks: dict[UUID, asyncio.Task[None]] = {}
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Has the worker look into the ledger now."""
        self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set; then claims nothing more and hands back what is unfinished."""
        renewing = asyncio.create_task(self._renew_for_ever())
        stopping = asyncio.create_task(stop.wait())
        try:
            with at_work(WORKER) as part, at_work(OLDEST_RUN, self._oldest_run, patience_s=self._longest_run_s):
                while not stop.is_set():
                    if renewing.done():
                        renewing.result()
                    await freeze.point("planner.claim")
                    self._woken.clear()
                    if not await self._fill(part):
                        await self._rest(stopping)
        finally:
            stopping.cancel()
            renewing.cancel()
            await asyncio.gather(renewing, stopping, return_exceptions=True)
            await self._put_down()

    async def _oldest_run(self, _servers: Servers) -> Seen:
        oldest = next(iter(list(self._tasks)), None)
        return Seen(oldest, oldest is not None)

    async def _fill(self, part: Part) -> bool:
        """Claims runs for the free places, and moves `part` if it can; True when there may be more to claim at once."""
        free = self._places - len(self._tasks)
        if free <= 0:
            part.moved()
            return False
        try:
            claimed = await self._ledger.claim(free, per_user=self._per_user, at_hand=self._tasks)
        except DATABASE_AWAY as error:
            metrics.PLANNER_DATABASE_ERRORS.inc()
            log.warning("cannot claim", error=str(error))
            return False
        part.moved()
        for run in claimed:
            crash.point("planner.claimed")
            self._tasks[run.run_id] = asyncio.create_task(self._guarded(run), name=f"run {run.run_id}")
        return bool(claimed) and len(self._tasks) < self._places

    async def _rest(self, stopping: asyncio.Task[bool]) -> None:
        waking = asyncio.create_task(self._woken.wait())
        try:
            await asyncio.wait(
                {waking, stopping}, timeout=self._planning.pace.poll_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            waking.cancel()

    async def _guarded(self, run: ClaimedRun) -> None:
        try:
            with metrics.PLANNER_RUNNING.track_inprogress():
                try:
                    await freeze.point("planner.run")
                    result = await carry_out(run, self._planning)
                except (LeaseLostError, *DATABASE_AWAY):
                    raise
                except Exception as error:
                    log.error("run broke", run=str(run.run_id), **fault(error))
                    result = await give_up_attempt(run, self._planning, error)
            metrics.PLANNER_RUNS.labels(result=result).inc()
            if result == "cancelled":
                self._finished(run.run_id)
        except LeaseLostError:
            metrics.PLANNER_RUNS.labels(result="lease-lost").inc()
            log.warning("lease lost", run=str(run.run_id))
        except DATABASE_AWAY as error:
            # Nothing can be noted now. The lease runs out, and the run goes on from its last stored step.
            metrics.PLANNER_DATABASE_ERRORS.inc()
            log.warning("database away in the middle of a run", run=str(run.run_id), error=str(error))
        finally:
            if self._tasks.get(run.run_id) is asyncio.current_task():
                del self._tasks[run.run_id]
            self._woken.set()

    async def _renew_for_ever(self) -> None:
        every_s = self._lease_s / RENEWALS_PER_LEASE
        with at_work(LEASES, patience_s=every_s) as part:
            while True:
                await asyncio.sleep(every_s)
                await freeze.point("planner.renew")
                if await self._renew():
                    part.moved()

    async def _renew(self) -> bool:
        """Prolongs the leases of what is at work; False when it could not."""
        held = set(self._tasks)
        if not held:
            return True
        try:
            kept = await self._ledger.renew(held)
        except DATABASE_AWAY as error:
            metrics.PLANNER_DATABASE_ERRORS.inc()
            log.warning("cannot renew leases", error=str(error))
            return False
        crash.point("planner.after_renew")
        for run_id in held - kept:
            # Settled in the meantime, or taken over: then what it still does must not be paid for.
            if (task := self._tasks.get(run_id)) is not None:
                task.cancel()
        return True

    async def _put_down(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._planning.budget.settled()
        crash.point("planner.before_hand_back")
        try:
            returned = await self._ledger.hand_back()
        except DATABASE_AWAY as error:
            metrics.PLANNER_DATABASE_ERRORS.inc()
            log.warning("cannot hand leases back; they run out by themselves", error=str(error))
        else:
            crash.point("planner.after_hand_back")
            log.info("stopped", handed_back=returned)
