"""What research gives a run: an input, nothing, or the word to come back later.

A deep job goes from run to run of its mission until an iteration had its result. One run submits one job at most, and
whatever ends a job without a result leaves the run to shallow research.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from projector import crash, metrics
from projector.config import Settings
from projector.errors import ResearchError, ResearchRefusedError
from projector.logging import get
from projector.planner.backoff import poll_s
from projector.planner.ciphertext import scrub
from projector.planner.inputs.resolve import Gap, ResolvedInput
from projector.planner.inputs.sizes import first
from projector.planner.ledger import ClaimedRun
from projector.planner.mission import Mission
from projector.planner.pace import Pace
from projector.planner.research.deep import MAX_QUERY, SUBMIT_S, DeepResearch
from projector.planner.research.jobs import Job, Jobs
from projector.planner.research.services import ResearchServices
from projector.planner.research.shallow import DISCOVER_S, SEARCH_S, ShallowResearch
from projector.planner.research.told import UNAVAILABLE, answer_input, news_input
from projector.planner.research.triggers import wants_deep, wants_shallow

LONGEST_S = SUBMIT_S + DISCOVER_S + SEARCH_S
"""The most time that one attempt of a run spends here."""
MAX_FAILURES = 8
"""Requests without a usable answer, one after another, before a job is given up."""
ANSWER_KEEPS_S = 7 * 24 * 3600.0
"""How old the answer may be that a run which failed leaves to the next one: it was paid for, and nobody has seen it."""

log = get("research")


@dataclass(frozen=True, slots=True)
class Pending:
    """Deep research is under way; `reason` is for people, without the mission's data."""

    wait_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Research:
    """`shallow` and `deep` are None where no such service is set; `starts_deep`: whether new jobs may be submitted,
    `most_a_day` of the whole installation (0: any number).
    """

    jobs: Jobs
    shallow: ShallowResearch | None
    deep: DeepResearch | None
    starts_deep: bool
    provider: str
    max_age_s: float
    most_a_day: int
    pace: Pace

    @classmethod
    def from_settings(cls, settings: Settings, jobs: Jobs, services: ResearchServices | None, pace: Pace) -> Self:
        return cls(
            jobs=jobs,
            shallow=None if services is None else services.shallow,
            deep=None if services is None else services.deep,
            starts_deep=settings.deep_research,
            provider=settings.research_provider,
            max_age_s=settings.research_max_age_s,
            most_a_day=settings.max_research_per_day,
            pace=pace,
        )

    @property
    def has_services(self) -> bool:
        return self.shallow is not None or self.deep is not None

    def is_wanted(self, mission: Mission) -> bool:
        """Whether the mission asks for research and somebody could do it."""
        return self.has_services and wants_shallow(mission)

    async def is_pending(self, run: ClaimedRun, mission: Mission) -> bool:
        """Whether a job of this mission goes on. Raises psycopg.Error when the database is away, as all of this."""
        job = await self._job(run, mission)
        return job is not None and job.state in ("intended", "submitted")

    async def seek(self, run: ClaimedRun, mission: Mission) -> ResolvedInput | Gap | Pending | None:
        """The next thing to do for the run. Raises LeaseLostError."""
        asked = query_of(mission)
        if not asked or not self.is_wanted(mission):
            return None
        found = await self._seek_deep(run, mission, asked)
        if found is not None:
            return found
        if self.shallow is not None:
            return await self._seek_shallow(self.shallow, run, asked)
        # Nobody is set for the shallow research that would stand in.
        return UNAVAILABLE if wants_deep(mission) else None

    async def _seek_deep(self, run: ClaimedRun, mission: Mission, asked: str) -> ResolvedInput | Pending | None:
        if self.deep is None or not wants_deep(mission):
            return None
        job = await self._job(run, mission)
        if job is None and self.starts_deep:
            job = await self.jobs.intend(run, self.provider, asked, most_a_day=self.most_a_day)
            if job is None:
                metrics.RESEARCH_CAPPED.inc()
                log.warning("no more deep research today", run=str(run.run_id), most=self.most_a_day)
                return None
            crash.point("planner.after_research_intent")
        if job is None or job.state == "failed":
            return None
        if job.state == "completed":
            return _answer_of(job)
        try:
            return await (self._submit if job.state == "intended" else self._poll)(self.deep, run, job)
        except ResearchRefusedError as error:
            await self._give_up(run, job, error.message)
            return None
        except ResearchError as error:
            return await self._try_later(run, job, error.message)

    async def _job(self, run: ClaimedRun, mission: Mission) -> Job | None:
        """The job that this run goes on with: its own, or an earlier run's that asked the same, not long ago."""
        if self.deep is None or not wants_deep(mission):
            return None
        job = await self.jobs.find(run)
        if job is None or job.run_id == run.run_id:
            return job
        keeps_s = ANSWER_KEEPS_S if job.state == "completed" else self.max_age_s
        is_of_use = job.query == query_of(mission) and job.state != "failed" and job.age_s <= keeps_s
        return job if is_of_use else None

    async def _submit(self, deep: DeepResearch, run: ClaimedRun, job: Job) -> Pending | None:
        if job.age_s > self.max_age_s:
            await self._give_up(run, job, "it was never submitted")
            return None
        submitted = await deep.submit(job.query, job.provider_id, user_id=run.user_id, key=str(job.run_id))
        crash.point("planner.after_research_submit")
        await self.jobs.note(run, "submitted", task_id=submitted.task_id, price=submitted.credits)
        metrics.RESEARCH_SUBMITTED.labels(provider=job.provider_id).inc()
        metrics.RESEARCH_CREDITS.labels(provider=job.provider_id).inc(submitted.credits or 0)
        log.info("deep research submitted", run=str(run.run_id), provider=job.provider_id)
        return self._pending(job)

    async def _poll(self, deep: DeepResearch, run: ClaimedRun, job: Job) -> ResolvedInput | Pending | None:
        assert job.task_id is not None, "a submitted job has one"
        polled = await deep.poll(job.task_id, user_id=run.user_id)
        if polled.ended is None:
            if job.age_s > self.max_age_s:
                await self._give_up(run, job, f"it was not done within {self.max_age_s:g} s")
                return None
            await self.jobs.note(run, "submitted")
            return self._pending(job)
        if polled.ended != "completed":
            await self._give_up(run, job, f"the service says {polled.ended}")
            return None
        if polled.answer is None:
            await self.jobs.note(run, "failed", reason="its answer is empty")
            metrics.RESEARCH_COMPLETED.labels(provider=job.provider_id).inc()
            return None
        await self.jobs.note(run, "completed", answer=polled.answer)
        crash.point("planner.after_research_stored")
        metrics.RESEARCH_COMPLETED.labels(provider=job.provider_id).inc()
        log.info("deep research completed", run=str(run.run_id), provider=job.provider_id)
        return _answer_of(replace(job, state="completed", answer=polled.answer))

    async def _try_later(self, run: ClaimedRun, job: Job, reason: str) -> Pending | None:
        # One that was submitted may be done and paid for by now, however old: only the service can say.
        if job.failures + 1 >= MAX_FAILURES or (job.state == "intended" and job.age_s > self.max_age_s):
            await self._give_up(run, job, reason)
            return None
        log.warning("deep research does not answer", run=str(run.run_id), reason=reason, failures=job.failures + 1)
        await self.jobs.note(run, job.state, answered=False)
        return self._pending(job)

    async def _give_up(self, run: ClaimedRun, job: Job, reason: str) -> None:
        await self.jobs.note(run, "failed", answered=False, reason=reason)
        metrics.RESEARCH_FAILED.labels(provider=job.provider_id).inc()
        log.error("deep research given up", run=str(run.run_id), provider=job.provider_id, reason=reason)

    def _pending(self, job: Job) -> Pending:
        metrics.RESEARCH_PENDING_SKIPS.inc()
        return Pending(
            poll_s(job.polls, self.pace),
            f"deep research ({job.provider_id}) has been going on for {job.age_s / 60:.0f} minutes",
        )

    async def _seek_shallow(self, shallow: ShallowResearch, run: ClaimedRun, asked: str) -> ResolvedInput | Gap | None:
        try:
            news = await shallow.search(asked, run.user_id)
        except ResearchError as error:
            metrics.RESEARCH_SHALLOW.labels(result="failed").inc()
            log.warning("shallow research failed", run=str(run.run_id), reason=error.message)
            return UNAVAILABLE
        metrics.RESEARCH_SHALLOW.labels(result="empty" if news is None else "found").inc()
        return None if news is None else news_input(asked, news)


def query_of(mission: Mission) -> str:
    """What is asked of the services: the objective, whose encrypted parts stay here. '' without one."""
    asked: str = scrub(mission.objective.strip())
    return first(asked, MAX_QUERY)


def _answer_of(job: Job) -> ResolvedInput:
    assert job.answer is not None, "a completed job has one"
    return answer_input(job.query, job.answer)
