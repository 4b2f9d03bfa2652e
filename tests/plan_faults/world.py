"""One installation under load: its streams, the model that it asks, and what it owes."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from projector.config import Settings
from projector.planner.pace import Pace
from projector.views.declared import VIEWS
from projector.views.verify import verify
from tests.faults.faults import DidNotFire
from tests.faults.stream import POLL_S, Stream
from tests.plan_faults.double import Double
from tests.plan_faults.judge import Death, Judge, Violation, unexpected
from tests.plan_faults.load import Due, Load
from tests.plan_faults.modes import TIMEOUT_S
from tests.plan_faults.points import SWEPT_AT_ONCE, Point

STREAMS = ("cdc", "views", "timers", "planner", "sink")
QUICK = Pace(
    max_attempts=8,
    first_retry_s=0.1,
    longest_retry_s=1.0,
    hold_for_place_s=1.0,
    cancelled_rest_s=1.0,
    refused_rest_s=1.0,
    sweep_after_s=0.5,
    restore_every_s=0.2,
    restore_rest_s=0.5,
    first_poll_s=0.2,
    longest_poll_s=1.0,
    poll_s=0.1,
)
LEASE_S = 2.0
FIRE_LIMIT_S = 90.0
PATIENCE_S = 60.0
DONE_LIMIT_S = 240.0
"""How long a due time may take that is older than PATIENCE_S, with everything at work again."""


def quicken() -> None:
    """In the process of a stream: waits that are minutes in production are seconds here, and groups are small."""
    from projector.planner import writer
    from streams import planner, sink

    writer.WRITTEN_AT_ONCE = SWEPT_AT_ONCE
    planner.Worker = partial(planner.Worker, pace=QUICK)  # type: ignore[misc,assignment]
    sink.Writer = partial(sink.Writer, pace=QUICK)  # type: ignore[misc,assignment]


class World:
    """`directory` gets the logs; what the load writes and the model answers follows from `seed`."""

    def __init__(self, settings: Settings, sync_url: str, directory: Path, seed: str, rate: float) -> None:
        self.double = Double(seed)
        self.directory = directory
        self.settings = settings.model_copy(
            update={
                "topic_partitions": 2,
                "llm_base_url": self.double.url,
                "llm_timeout_s": TIMEOUT_S,
                "planner_workers": 6,
                "max_tokens_per_run": 10**9,
                "lease_s": LEASE_S,
                "due_interval_s": 0.2,
                "reannounce_interval_s": 0.5,
                "heartbeat_s": 0.5,
                # Nothing hangs here, and what would notice takes its time to start.
                "stall_after_s": 0.0,
            }
            | self.double.research.settings
        )
        self.judge = Judge(self.settings.admin_url, self.double, QUICK.max_attempts)
        self.load = Load(sync_url, self.settings.admin_url, seed, rate)
        self.streams: dict[str, Stream] = {}
        self.kills = 0
        self._owed: list[Due] = []
        self._ever_owed: set[UUID] = set()

    def start(self) -> None:
        for name in STREAMS:
            self.start_stream(name)
        for stream in self.streams.values():
            stream.wait_ready()
        self.load.agents()
        self.load.start()

    def stop(self) -> None:
        self.load.stop()
        for stream in self.streams.values():
            stream.kill()
        self.double.close()

    # Kills

    def start_stream(self, name: str, crash_at: str = "") -> Stream:
        log = self.directory / f"{name}.log"
        self.streams[name] = Stream(self.settings, log, crash_at, name=name, first=quicken)
        return self.streams[name]

    def strike(self, point: Point, numbers: random.Random) -> float:
        """Ends the stream that runs, and has the next one die at the point; returns the seconds until it did.

        Raises DidNotFire.
        """
        earliest = time.time()
        self.streams[point.stream].kill()
        self._ended(point, earliest)
        if point.unwritten:
            self._wait_for_unwritten(point.unwritten)
        began = time.monotonic()
        doomed = self.start_stream(point.stream, crash_at := point.crash_at(numbers))
        if point.stopped:
            self._wait_for_work(doomed)
            doomed.send(signal.SIGTERM)
        self._ended(point, self._last_seen(doomed))
        if doomed.exit_code != -signal.SIGKILL:
            raise DidNotFire(f"{crash_at} did not fire in {FIRE_LIMIT_S:.0f} s ({doomed.exit_code}):\n{doomed.tail()}")
        self.kills += 1
        return time.monotonic() - began

    def _last_seen(self, doomed: Stream) -> float:
        """Waits until it has ended, FIRE_LIMIT_S at most; returns when it still ran for certain.

        Judges meanwhile what is written: the load uses missions that have run once more.
        """
        seen = time.time()
        limit = time.monotonic() + FIRE_LIMIT_S
        while doomed.joined(0.5) is None and time.monotonic() < limit:
            self._judge(self._owed + self.load.take())
            now = time.time()
            if doomed.exit_code is None:
                seen = now
        return seen

    def _ended(self, point: Point, earliest: float) -> None:
        if point.stream == "planner":
            self.judge.deaths.append(Death(earliest, time.time()))

    def _wait_for_unwritten(self, plans: int) -> None:
        limit = time.monotonic() + FIRE_LIMIT_S
        overdue = "select count(*) from mana_ai.mission_runs where state = 'planned' and next_attempt_at <= now()"
        while self.ask(overdue)[0][0] < plans:
            if time.monotonic() > limit:
                raise DidNotFire(f"no {plans} plans in {FIRE_LIMIT_S:.0f} s that wait to be written")
            self._judge(self._owed + self.load.take())
            time.sleep(0.05)

    def _wait_for_work(self, planner: Stream) -> None:
        limit = time.monotonic() + FIRE_LIMIT_S
        at_work = "select from mana_ai.mission_runs where state = 'running' and lease_owner like %s limit 1"
        while not self.ask(at_work, f"%:{planner.pid}:%"):
            if time.monotonic() > limit:
                raise DidNotFire(f"the planner had nothing to do in {FIRE_LIMIT_S:.0f} s:\n{planner.tail()}")
            time.sleep(POLL_S)

    # Verification

    def verify(self) -> None:
        """Judges all that is written, while the load goes on, and waits for what should be written by now."""
        self.alive()
        owed = self._owed + self.load.take()
        self._wait_written([due for due in owed if due.at.timestamp() < time.time() - PATIENCE_S])
        self._judge(owed)
        self._nothing_impossible()

    def alive(self) -> None:
        for name, stream in self.streams.items():
            if stream.exit_code is not None:
                raise Violation(f"{name} ended with {stream.exit_code}:\n{stream.tail()}")

    def _judge(self, owed: Sequence[Due]) -> None:
        rows = self.ask(
            "select run_id from mana_ai.mission_runs where state = 'written' and run_id = any(%s)",
            [due.run for due in owed],
        )
        written = {run for (run,) in rows}
        self._ever_owed.update(due.run for due in owed)
        self._owed = [due for due in owed if due.run not in written]
        self.load.finished.extend(self.judge.judge([due for due in owed if due.run in written]))

    def _wait_written(self, due: Sequence[Due]) -> None:
        ids = [each.run for each in due]
        unwritten = (
            "select r.state, r.decision, r.reason, count(*) from unnest(%s::uuid[]) as owed (run_id)"
            " left join mana_ai.mission_runs r using (run_id) where r.state is distinct from 'written' group by 1, 2, 3"
        )
        limit = time.monotonic() + DONE_LIMIT_S
        while left := self.ask(unwritten, ids):
            if time.monotonic() > limit:
                raise Violation(f"not written {DONE_LIMIT_S + PATIENCE_S:.0f} s after they were due: {left}")
            self.alive()
            time.sleep(0.05)

    def _nothing_impossible(self) -> None:
        abandoned = self.ask(
            "select run_id, state, lease_until, next_attempt_at from mana_ai.mission_runs where"
            " (state = 'running' and lease_until < now() - interval '60 s') or"
            " (state in ('due', 'held', 'planned') and next_attempt_at < now() - interval '60 s')"
        )
        if abandoned:
            raise Violation(f"runs that nobody comes for: {abandoned}")

    def finish(self) -> None:
        """Ends the load, and judges everything to the last run; then whether all of it adds up. Raises Violation."""
        self.load.stop()
        owed = self._owed + self.load.take()
        self._wait_written(owed)
        self._judge(owed)
        if strangers := unexpected(self.settings.admin_url, self._ever_owed):
            raise Violation(f"runs that nobody owed, or that are not written: {strangers}")
        self._one_row_each()
        self._researched_once()
        self._nothing_reserved()
        self._nothing_dropped()
        self._totals()
        for view in VIEWS.values():
            report = asyncio.run(verify(self.settings, view))
            if report.differences:
                raise Violation(f"the view {view.name} is not the log: {report.examples}")

    def _one_row_each(self) -> None:
        """Every row that moves a mission on is that of a run, and the other way round."""
        wrong = self.ask(
            "select coalesce(r.run_id::text, ''), c.id from mana_ai.mission_runs r full join"
            " (select id from sync_changes where client_id = 'mana-ai-runner' and data ? 'nextRunAt') c"
            " on c.id = r.change_id where r.run_id is null or c.id is null"
        )
        if wrong:
            raise Violation(f"rows without a run, or runs without a row: {wrong}")

    def _researched_once(self) -> None:
        """A task for each job, sent again only where a kill may have taken the answer; no job outlives its use."""
        sent = Counter(call["headers"]["idempotency-key"] for call in self.double.research.asked["submit"])
        again = sum(sent.values()) - len(sent)
        if strangers := sent.keys() - set(map(str, self._ever_owed)):
            raise Violation(f"research for runs that nobody owed: {strangers}")
        if not sent or again > len(self.judge.deaths):
            raise Violation(f"{len(sent)} research jobs, sent {again} times more, with {len(self.judge.deaths)} kills")
        if left := self.ask(
            "select j.* from mana_ai.mission_research_jobs j join mana_ai.mission_runs r using (run_id)"
            " where r.decision = 'ran'"
        ):
            raise Violation(f"research jobs outlived the iterations that used them: {left}")

    def _nothing_reserved(self) -> None:
        held = self.ask("select run_id, state from mana_ai.mission_runs where admitted_at is not null")
        if held:
            raise Violation(f"places and tokens are still taken: {held}")

    def _nothing_dropped(self) -> None:
        """What a device dropped is back, unless it was dropped too often."""
        lacking = """
            select r.run_id from mana_ai.mission_runs r where restores < 3 and not exists (
                select from mana_ai.mission_iterations m
                cross join lateral jsonb_array_elements(m.record -> 'iterations') i
                where m.user_id = r.user_id and m.mission_id = r.mission_id and (i ->> 'shown')::boolean
                  and i -> 'iteration' ->> 'id' = r.iteration_id::text)
        """
        limit = time.monotonic() + DONE_LIMIT_S
        while left := self.ask(lacking):
            if time.monotonic() > limit:
                raise Violation(f"iterations that no device shows: {left}")
            time.sleep(0.1)

    def _totals(self) -> None:
        ((spent, runs, days),) = self.ask(
            "select (select sum(tokens_used) from mana_ai.token_usage),"
            " (select sum(prompt_tokens + completion_tokens) from mana_ai.mission_runs),"
            " (select sum(tokens) from mana_ai.token_days)"
        )
        if not spent == runs == days:
            raise Violation(f"tokens spent: {spent} by agents, {runs} by runs, {days} by days")

    def ask(self, text: Any, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.settings.admin_url, autocommit=True) as conn:
            return conn.execute(text, parameters or None).fetchall()
