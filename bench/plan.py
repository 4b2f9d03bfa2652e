"""How long a mission that is made due takes to its iteration in the log, how many slow calls one worker carries, and
whether looking for due missions grows with those that are not.

The model answers at once, or after a given time, over HTTP; everything else is the pipeline as it runs in production.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from psycopg.types.json import Jsonb

from bench.cdc import installation
from bench.report import Report, percentile
from bench.usage import peak_mb
from projector.config import Settings
from projector.embedded.pipeline import Pipeline
from projector.fold import format_instant
from projector.log.clock import now_us
from projector.planner.due import open_due_runs
from projector.sql.connection import connect

NAME = "plan"
MISSIONS, RATE = 300, 5.0
WARM_UP_S = 10.0
"""Streams that have just started are no members of their groups yet: plans wait for a sweep of the ledger then."""
SLOW_RUNS, SLOW_CALL_S, PLACES = 1600, 5.0, 200
DUE, FEW, MANY, PASSES = 100, 1_000, 1_000_000, 7
FAR = "2099-01-01T00:00:00.000Z"
TIMEOUT_S = 300.0

INSERT = (
    "insert into sync_changes (id, app_id, table_name, record_id, user_id, op, data, field_meta, client_id)"
    " values (%s, 'ai', %s, %s, %s, %s, %s, %s, 'bench')"
)
ANNOUNCE = """
create or replace function bench_written() returns trigger language plpgsql as $$
begin
    perform pg_notify('bench_written', new.record_id);
    return null;
end $$;
create or replace trigger bench_written after insert on sync_changes
    for each row when (new.client_id = 'mana-ai-runner') execute function bench_written();
"""
SEEN = "select count(*) from mana_ai.mission_snapshots"
SNAPSHOTS = """
insert into mana_ai.mission_snapshots_1
    (user_id, mission_id, status, agent_id, next_run_at, deleted, complete, source, source_lsn, last_applied_at,
     record, state)
select 'user-' || n % 5000, 'mission-' || n, 'active', 'a1',
       case when n % {every} = 0 then now() - interval '1 minute' else now() + interval '1 day' end,
       false, true, 1, '0/1', now(), '{{}}', '{{"w": []}}'
from generate_series(1, {count}) n
"""


def run(report: Report, quick: bool = False) -> None:
    """Prints `due_to_written`, `slow_calls`, `slow_rss_mb`, `ledger_bytes_per_run` and `due_pass_ratio`."""
    _latency(report, MISSIONS // 10 if quick else MISSIONS)
    _slow_calls(report, SLOW_RUNS // 4 if quick else SLOW_RUNS)
    _due_passes(report, MANY // 20 if quick else MANY)


@contextmanager
def _pipeline(settings: Settings, *, delay_s: float = 0.0) -> Iterator[Pipeline]:
    with tempfile.TemporaryDirectory(prefix="bench-logs-") as directory:
        pipeline = Pipeline(settings.model_copy(update={"log_level": "info"}), Path(directory))
        try:
            pipeline.start_scripted_model(delay_s=delay_s)
            pipeline.start_all()
            yield pipeline
        finally:
            pipeline.stop_all()


def _populate(conn: psycopg.Connection[Any], missions: int, policy: dict[str, str]) -> None:
    """A mission and an agent for each user, none of them due; returns when the views show them."""
    agent = {"name": "Mana", "role": "helps", "state": "active", "maxConcurrentMissions": 3, "policy": policy}
    with conn.transaction(), conn.cursor() as cursor:
        cursor.executemany(
            INSERT,
            [[uuid4(), "agents", "a1", f"user-{n}", "insert", Jsonb(agent), Jsonb({})] for n in range(missions)],
        )
        cursor.executemany(
            INSERT,
            [[uuid4(), "aiMissions", f"m{n}", f"user-{n}", "insert", _mission(), Jsonb({})] for n in range(missions)],
        )
    deadline = time.monotonic() + TIMEOUT_S
    while conn.execute(SEEN).fetchone() != (missions,):
        if time.monotonic() > deadline:
            raise TimeoutError("the views do not show the missions")
        time.sleep(0.1)


def _mission() -> Jsonb:
    return Jsonb(
        {
            "title": "Water the plants",
            "objective": "Say what is due",
            "conceptMarkdown": "",
            "state": "active",
            "agentId": "a1",
            "cadence": {"kind": "manual"},
            "inputs": [],
            "iterations": [],
            "nextRunAt": FAR,
        }
    )


def _make_due(conn: psycopg.Connection[Any], number: int) -> None:
    conn.execute(INSERT, _due(number))


def _due(number: int) -> list[Any]:
    """The row of the log that makes a mission due now."""
    now = Jsonb({"nextRunAt": format_instant(now_us())})
    return [uuid4(), "aiMissions", f"m{number}", f"user-{number}", "update", now, now]


def _latency(report: Report, missions: int) -> None:
    with (
        installation(NAME) as settings,
        _pipeline(settings),
        psycopg.connect(settings.admin_url, autocommit=True) as conn,
        psycopg.connect(settings.admin_url, autocommit=True) as listening,
    ):
        first = int(WARM_UP_S * RATE)
        _populate(conn, first + missions, {})
        conn.execute(ANNOUNCE)
        listening.execute("listen bench_written")
        _make_all_due(conn, listening, range(first))
        delays = sorted(_make_all_due(conn, listening, range(first, first + missions)))
        told = {"missions": missions, "per_s": RATE, "written": len(delays)}
        for percent in (50, 99):
            report.add(f"due_to_written_p{percent}_ms", percentile(delays, percent), "ms", **told)


def _make_all_due(conn: psycopg.Connection[Any], listening: psycopg.Connection[Any], numbers: range) -> list[float]:
    """RATE missions a second; returns how many milliseconds each took to its iteration."""
    sent: dict[str, float] = {}
    delays: list[float] = []
    began = time.perf_counter()
    for done, number in enumerate(numbers, 1):
        sent[f"m{number}"] = time.perf_counter()
        _make_due(conn, number)
        _collect(listening, sent, delays, began + done / RATE - time.perf_counter())
    while len(delays) < len(numbers) and time.perf_counter() - began < len(numbers) / RATE + TIMEOUT_S:
        _collect(listening, sent, delays, 1.0)
    return delays


def _collect(conn: psycopg.Connection[Any], sent: dict[str, float], delays: list[float], seconds: float) -> None:
    for notification in conn.notifies(timeout=max(seconds, 0.0)):
        delays.append((time.perf_counter() - sent[notification.payload]) * 1000)


def _slow_calls(report: Report, runs: int) -> None:
    """One call for each run: no tool is offered, so the first answer is the last.

    `sustained` leaves out how long the log, the views and the scheduler take to fill the places the first time.
    """
    with installation(NAME) as settings, psycopg.connect(settings.admin_url, autocommit=True) as conn:
        settings = settings.model_copy(update={"planner_workers": PLACES})
        with _pipeline(settings, delay_s=SLOW_CALL_S) as pipeline:
            _populate(conn, runs, {"defaultForAi": "deny"})
            started = time.perf_counter()
            with conn.transaction(), conn.cursor() as cursor:
                cursor.executemany(INSERT, [_due(number) for number in range(runs)])
            filled, before = started, 0
            while (written := _written(conn)) < runs and time.perf_counter() - started < TIMEOUT_S:
                if before == 0 and written >= PLACES:
                    filled, before = time.perf_counter(), written
                time.sleep(0.05)
            ended = time.perf_counter()
            seconds = ended - started
            ideal = PLACES / SLOW_CALL_S
            told = {"runs": _written(conn), "call_s": SLOW_CALL_S, "places": PLACES}
            report.add("slow_calls_runs_per_s", runs / seconds, "1/s", **told)
            report.add("slow_calls_of_ideal", runs / seconds / ideal, "ratio", **told)
            report.add("slow_calls_sustained_of_ideal", (runs - before) / (ended - filled) / ideal, "ratio", **told)
            report.add("ledger_bytes_per_run", _ledger_bytes(conn) / runs, "bytes", steps_per_run=1)
            report.add("slow_rss_mb", peak_mb(pipeline.processes["planner"].pid), "MB", **told)


def _ledger_bytes(conn: psycopg.Connection[Any]) -> int:
    """Tables and indexes, without what has been updated away and waits for vacuum."""
    total = 0
    for table in ("mission_runs", "run_steps", "token_usage"):
        conn.execute(f"vacuum full mana_ai.{table}")
        (size,) = conn.execute("select pg_total_relation_size(%s::regclass)", [f"mana_ai.{table}"]).fetchone() or (0,)
        total += int(size)
    return total


def _written(conn: psycopg.Connection[Any]) -> int:
    (count,) = conn.execute("select count(*) from mana_ai.mission_runs where state = 'written'").fetchone() or (0,)
    return int(count)


def _due_passes(report: Report, many: int) -> None:
    """What one scheduler pass takes that finds DUE missions, among few and among many that are not due."""
    medians = []
    for count in (FEW, many):
        with installation(NAME) as settings, psycopg.connect(settings.admin_url, autocommit=True) as conn:
            conn.execute(SNAPSHOTS.format(count=count, every=count // DUE))
            conn.execute("vacuum analyze mana_ai.mission_snapshots_1")
            seconds = asyncio.run(_passes(settings, conn))
            medians.append(statistics.median(seconds))
            report.add("due_pass_ms", medians[-1] * 1000, "ms", missions=count, due=DUE, passes=PASSES)
    report.add("due_pass_ratio", medians[1] / medians[0], "ratio", missions=f"{FEW}:{many}", due=DUE)


async def _passes(settings: Settings, admin: psycopg.Connection[Any]) -> list[float]:
    seconds = []
    async with await connect(settings, "projector_planner") as conn:
        for _ in range(PASSES):
            admin.execute("truncate mana_ai.mission_runs cascade")
            started = time.perf_counter()
            opened = await open_due_runs(conn)
            seconds.append(time.perf_counter() - started)
            if opened != DUE:
                raise ValueError(f"{opened} runs opened instead of {DUE}")
    return seconds
