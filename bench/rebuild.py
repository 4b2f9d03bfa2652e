"""What it takes to fold every view anew from offset 0, and what readers notice when the new rows take over.

A point reader in a process of its own asks for 500 rows a second during the ten seconds around `promote`, with a long
transaction of another reader open.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from bench.cdc import PARTITIONS, installation
from bench.history import APPS, History
from bench.report import Report
from bench.usage import Server
from bench.views import clear, publish_history, running
from projector.config import Settings

NAME = "rebuild"
CHANGES, RECORDS = 1_000_000, 50_000
READS_PER_S, READ_S, BEFORE_PROMOTE_S = 500, 10.0, 4.0
QUIET_S = 2.0
"""Of the reads, how many certainly came before `promote`: what the machine alone makes of them."""
MISSIONS_READ = 500
TIMEOUT_S = 3600.0

START = ("rebuild", "start", "--json")
DIFF = ("rebuild", "diff", "--json")
PROMOTE = ("rebuild", "promote", "missions", "--json")

POINT_READ = "select record from mana_ai.mission_snapshots where user_id = %s and mission_id = %s"
LONG_READ = "select count(*) from mana_ai.mission_snapshots"


def run(report: Report, quick: bool = False) -> None:
    """Prints `rebuild_events_per_core_s`, `rebuild_wall_s`, `reader_max_ms` and `differences`."""
    changes = CHANGES // 20 if quick else CHANGES
    with installation(NAME, APPS) as settings, psycopg.connect(settings.admin_url, autocommit=True) as conn:
        clear(conn)
        ends, _ = publish_history(report, settings, History(RECORDS), changes)
        with running(settings, conn) as work:
            work.catch_up(ends)
            told = {"events": changes, "records": RECORDS, "partitions": PARTITIONS}
            spent = measure(settings, conn, START)
            report.add("rebuild_events_per_core_s", changes / spent.cpu_s, "1/s", **told)
            report.add("rebuild_wall_s", spent.seconds, "s", **told)
            report.add("differences", _differences(command(settings, DIFF)), "rows", **told)
            with reading(settings, conn) as reader:
                time.sleep(BEFORE_PROMOTE_S)
                began = time.perf_counter()
                command(settings, PROMOTE)
                report.add("promote_s", time.perf_counter() - began, "s", **told)
            reads = reader.result()
            told = {"reads": reads["reads"], "failed": reads["failed"], "reads_per_s": READS_PER_S}
            report.add("reader_max_ms", reads["max_ms"], "ms", **told)
            report.add("reader_p99_ms", reads["p99_ms"], "ms", **told)
            report.add("reader_quiet_max_ms", reads["quiet_max_ms"], "ms", **told)


@dataclass(frozen=True)
class Spent:
    """`cpu_s` of the command, its children and PostgreSQL; the serving views stand by beside it and are not counted."""

    seconds: float
    cpu_s: float


def measure(settings: Settings, conn: psycopg.Connection[Any], verb: tuple[str, ...]) -> Spent:
    """Runs a command to its end. Kafka's broker is not counted."""
    server = Server(conn)
    before, ours, started = server.cpu_s(), _children_cpu_s(), time.perf_counter()
    command(settings, verb)
    return Spent(time.perf_counter() - started, server.cpu_s() - before + _children_cpu_s() - ours)


def command(settings: Settings, verb: tuple[str, ...]) -> list[dict[str, Any]]:
    """What `projector` prints as JSON lines. Raises CalledProcessError, except for rows that differ."""
    done = subprocess.run(
        [sys.executable, "-m", "projector", *verb],
        env={**os.environ, **settings.environment()},
        stdout=subprocess.PIPE,
        timeout=TIMEOUT_S,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode and not any(line.get("differences") for line in lines):
        raise subprocess.CalledProcessError(done.returncode, verb, done.stdout)
    return lines


def _differences(lines: list[dict[str, Any]]) -> int:
    counts = [line["differences"] for line in lines if "differences" in line]
    if not counts:
        raise ValueError("the comparison told of no view")
    return sum(counts)


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Reader:
    """The process that reads; `result` waits for its end."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def result(self) -> dict[str, float]:
        """`reads` done, those that `failed`; `p99_ms`, `max_ms`, `quiet_max_ms` from when each was due to its row."""
        output, _ = self._process.communicate(timeout=READ_S + 60)
        if self._process.returncode:
            raise subprocess.CalledProcessError(self._process.returncode, "reader")
        measured: dict[str, float] = json.loads(output.splitlines()[-1])
        return measured


@contextmanager
def reading(settings: Settings, conn: psycopg.Connection[Any]) -> Iterator[Reader]:
    """READS_PER_S point reads for READ_S seconds, and a reader's transaction that stays open all the while."""
    keys = conn.execute("select user_id, mission_id from mana_ai.mission_snapshots limit %s", [MISSIONS_READ])
    argv = [sys.executable, "-c", "from bench.rebuild import read; read()"]
    environment = {**os.environ, "BENCH_URL": settings.admin_url, "BENCH_KEYS": json.dumps(keys.fetchall())}
    with psycopg.connect(settings.admin_url) as long:
        long.execute("set transaction isolation level repeatable read")
        long.execute(LONG_READ)
        process = subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        try:
            yield Reader(process)
            process.wait(READ_S + 60)
            long.execute(LONG_READ)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def read() -> None:
    """The reader's process: prints what it measured. A read that has to wait delays those that are due meanwhile."""
    keys = json.loads(os.environ["BENCH_KEYS"])
    delays, failed = [], 0
    with psycopg.connect(os.environ["BENCH_URL"], autocommit=True) as conn:
        conn.execute(POINT_READ, keys[0], prepare=True)
        start = time.perf_counter()
        for number in range(int(READS_PER_S * READ_S)):
            due = start + number / READS_PER_S
            if (pause := due - time.perf_counter()) > 0:
                time.sleep(pause)
            try:
                failed += conn.execute(POINT_READ, keys[number % len(keys)], prepare=True).fetchone() is None
            except psycopg.Error:
                failed += 1
            delays.append((time.perf_counter() - due) * 1000)
    quiet_ms = max(delays[: int(READS_PER_S * QUIET_S)])
    delays.sort()
    told = {"reads": len(delays), "failed": failed, "p99_ms": delays[len(delays) * 99 // 100], "max_ms": delays[-1]}
    told["quiet_max_ms"] = quiet_ms
    print(json.dumps(told))
