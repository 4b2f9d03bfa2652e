"""How fast the views fold what is in the topics, whether a long history makes a change dearer, and what idling costs.

`projector run views` works as in production, from its own positions: for the rate two of them share the partitions, as
many as the machine has cores, and their start counts. Otherwise it is let go when each view is a member of its group
and about to open its positions, so neither its start nor the making of the history counts.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psycopg
from psycopg import sql

from bench.cdc import PARTITIONS, installation
from bench.history import APPS, MISSION, Ends, History, publishing
from bench.report import Report
from bench.usage import Server, cpu_s, peak_mb
from projector.config import Settings
from projector.embedded import ports
from projector.embedded.pipeline import Pipeline
from projector.errors import EmbeddedError
from projector.log.topics import Topics
from projector.views.declared import VIEWS

NAME = "views"
CHANGES, RECORDS, RUNS = 1_000_000, 20_000, 3
FLAT_RUNS = 7
WORKERS = 2
HISTORIES, FLAT_BATCH, FLAT_RECORDS, FLAT_ITEMS = (10_000, 1_000_000), 20_000, 1_000, 2
"""With few items the records hold as much after the short history as after the long one: only that differs then."""
IDLE_MISSIONS, IDLE_S = 20_000, 20.0
TIMEOUT_S = 1800.0


def run(report: Report, quick: bool = False) -> None:
    """Prints `view_changes_per_s` and what it takes, `cost_ratio` of a long history, `idle_cpu_percent`."""
    with installation(NAME, APPS) as settings, psycopg.connect(settings.admin_url, autocommit=True) as conn:
        _rate(report, settings, conn, CHANGES // 20 if quick else CHANGES)
        _flat(report, settings, conn, 20 if quick else 1)
        _idle(report, settings, conn, 10 if quick else 1)


def _rate(report: Report, settings: Settings, conn: psycopg.Connection[Any], changes: int) -> None:
    settings = settings.model_copy(update={"topic_prefix": "rate"})
    ends, size = publish_history(report, settings, History(RECORDS), changes)
    runs = []
    for number in range(RUNS):
        clear(conn)
        with running(settings, conn, WORKERS) as work:
            runs.append(work.catch_up(ends))
        report.progress(f"run {number + 1}: {changes / runs[-1].seconds:,.0f} changes/s, {runs[-1]}")
    told = {
        "changes": changes,
        "records": RECORDS,
        "partitions": PARTITIONS,
        "workers": WORKERS,
        "runs": RUNS,
        "bytes": size // changes,
    }
    middle = sorted(runs, key=lambda done: done.seconds)[RUNS // 2]
    report.add("view_changes_per_s", changes / middle.seconds, "1/s", **told)
    report.add("views_cpu_us_per_change", middle.views_cpu_s / changes * 1e6, "us", **told)
    report.add("postgres_cpu_us_per_change", middle.server_cpu_s / changes * 1e6, "us", **told)
    report.add("rows_written", middle.rows, "", **told)
    report.add("transactions", middle.transactions, "", **told)
    report.add("rss_peak_mb", max(done.peak_mb for done in runs), "MB", **told)


def _flat(report: Report, settings: Settings, conn: psycopg.Connection[Any], divisor: int) -> None:
    """The same changes of the same records, on top of histories of two lengths."""
    batch = FLAT_BATCH // divisor
    costs = []
    for length in (HISTORIES[0], HISTORIES[1] // divisor):
        settings = settings.model_copy(update={"topic_prefix": f"flat{length}"})
        clear(conn)
        ends, _ = publish_history(report, settings, History(FLAT_RECORDS, items=FLAT_ITEMS), length)
        with running(settings, conn) as work:
            work.catch_up(ends)
        runs = []
        for number in range(FLAT_RUNS):
            more = History(FLAT_RECORDS, later=number + 1, items=FLAT_ITEMS)
            ends, _ = publish_history(report, settings, more, batch)
            with running(settings, conn) as work:
                runs.append(work.catch_up(ends))
        told = {"history": length, "changes": batch, "records": FLAT_RECORDS, "runs": FLAT_RUNS}
        views, server = (
            [done.views_cpu_s / batch * 1e6 for done in runs],
            [done.server_cpu_s / batch * 1e6 for done in runs],
        )
        report.add("flat_views_cpu_us_per_change", statistics.median(views), "us", **told)
        report.add("flat_postgres_cpu_us_per_change", statistics.median(server), "us", **told)
        costs.append(statistics.median([a + b for a, b in zip(views, server, strict=True)]))
    report.add("cost_ratio", costs[1] / costs[0], "ratio", histories=f"{HISTORIES[0]}:{HISTORIES[1] // divisor}")


def _idle(report: Report, settings: Settings, conn: psycopg.Connection[Any], divisor: int) -> None:
    settings = settings.model_copy(update={"topic_prefix": "idle"})
    seconds = IDLE_S / divisor
    missions = IDLE_MISSIONS // divisor
    clear(conn)
    ends, _ = publish_history(report, settings, History(missions, kinds=(MISSION,)), 4 * missions)
    with running(settings, conn) as work:
        work.catch_up(ends)
        time.sleep(5)  # the last offsets told to the group, the last statistics reported
        before, queries = work.cpu_s(), _transactions(conn)
        time.sleep(seconds)
        told = {"missions": missions, "seconds": seconds}
        report.add("idle_cpu_percent", (work.cpu_s() - before) / seconds * 100, "%", **told)
        # The one that counted before is itself counted after.
        report.add("idle_transactions", _transactions(conn) - queries - 1, "", **told)


def publish_history(report: Report, settings: Settings, history: History, count: int) -> tuple[Ends, int]:
    """Puts the next changes of a history into the topics; returns where those end, and the bytes."""
    started = time.perf_counter()
    ends, size = asyncio.run(_publish(settings, history, count))
    report.progress(f"published {count} changes, {size // 1024 // 1024} MB, in {time.perf_counter() - started:.0f} s")
    return ends, size


async def _publish(settings: Settings, history: History, count: int) -> tuple[Ends, int]:
    async with publishing(settings) as publisher:
        size = await publisher.publish(islice(history, count))
        return publisher.ends, size


def clear(conn: psycopg.Connection[Any]) -> None:
    """Empties the tables of all views, whatever their generation, and forgets the positions."""
    found = conn.execute(
        "select relname from pg_class where relnamespace = 'mana_ai'::regnamespace and relkind = 'r' and relname ~ %s",
        [f"^({'|'.join(view.table for view in VIEWS.values())})(_[12])?$"],
    )
    tables = [sql.Identifier("mana_ai", name) for (name,) in found.fetchall()]
    conn.execute(sql.SQL("truncate {}").format(sql.SQL(", ").join(tables)))
    conn.execute("delete from mana_ai.stream_positions")
    conn.execute("checkpoint")


@dataclass(frozen=True)
class CaughtUp:
    """From the opening of the positions to the last of them at its end: `rows` and `transactions` of all views."""

    seconds: float
    views_cpu_s: float
    server_cpu_s: float
    rows: int
    transactions: int
    peak_mb: float


@contextmanager
def running(settings: Settings, conn: psycopg.Connection[Any], workers: int = 1) -> Iterator[Work]:
    """The views as processes; one alone is held before its first record."""
    with tempfile.TemporaryDirectory(prefix="bench-logs-") as directory, ExitStack() as stack:
        pipelines = [
            Pipeline(
                settings.model_copy(update={"log_level": "info", "metrics_port": ports.free_port()}),
                Path(directory, str(number)),
            )
            for number in range(workers)
        ]
        for pipeline in pipelines:
            stack.callback(pipeline.stop_all)
        # Of several the first would wait inside the group, and let no other in.
        holder = stack.enter_context(psycopg.connect(settings.admin_url)) if workers == 1 else None
        if holder is not None:
            stack.callback(holder.rollback)  # before the views are stopped, for what waits cannot end
            holder.execute("lock table mana_ai.stream_positions in share mode")
        work = Work(pipelines, conn, holder)
        for pipeline in pipelines:
            pipeline.start("views")
        if holder is not None:
            _wait(pipelines, conn, _ALL_WAIT, {"views": len(VIEWS)})
        yield work


_ALL_WAIT = """
select count(distinct pid) >= %(views)s from pg_locks
where not granted and relation = 'mana_ai.stream_positions'::regclass
"""
_ALL_REACHED = """
select count(*) = %(positions)s
from mana_ai.stream_positions as position
join unnest(%(views)s::text[], %(topics)s::text[], %(partitions)s::int[], %(ends)s::bigint[])
    as wanted (view, topic, partition, next_offset) using (view, topic, partition)
where position.next_offset >= wanted.next_offset
"""


class Work:
    """The processes of the views; to be made before they start."""

    def __init__(
        self, pipelines: Sequence[Pipeline], conn: psycopg.Connection[Any], holder: psycopg.Connection[Any] | None
    ) -> None:
        self._pipelines = pipelines
        self._conn = conn
        self._holder = holder
        self._server = Server(conn)
        self._before = 0.0, self._server.cpu_s(), time.perf_counter()

    def cpu_s(self) -> float:
        """Processor seconds of all so far."""
        return sum(cpu_s(pid) for pid in self._pids())

    def catch_up(self, ends: Ends) -> CaughtUp:
        """Lets the views go, and returns when all of them have applied everything below `ends`."""
        settings = self._pipelines[0].settings
        wanted = [
            (view.name, topic, partition, end)
            for view in VIEWS.values()
            for (topic, partition), end in ends.items()
            if topic in map(Topics(settings.topic_prefix).changes, view.apps(settings.apps))
        ]
        names = ("views", "topics", "partitions", "ends")
        parameters = dict(zip(names, map(list, zip(*wanted, strict=True)), strict=True)) | {"positions": len(wanted)}
        if self._holder is not None:
            self._before = self.cpu_s(), self._server.cpu_s(), time.perf_counter()
            self._holder.rollback()
        _wait(self._pipelines, self._conn, _ALL_REACHED, parameters)
        views, server, started = self._before
        seconds = time.perf_counter() - started
        views, server = self.cpu_s() - views, self._server.cpu_s() - server
        told = self._metrics()
        return CaughtUp(
            seconds,
            views,
            server,
            told["projector_view_rows_total"],
            told["projector_view_transaction_seconds_count"],
            max(map(peak_mb, self._pids())),
        )

    def _pids(self) -> list[int]:
        return [pipeline.processes["views"].pid for pipeline in self._pipelines]

    def _metrics(self) -> Counter[str]:
        """Sums over the views and the processes."""
        sums: Counter[str] = Counter()
        for pipeline in self._pipelines:
            with urlopen(f"http://127.0.0.1:{pipeline.settings.metrics_port}/metrics") as answer:
                lines = answer.read().decode().splitlines()
            for name, _, rest in (line.partition("{") for line in lines if line.startswith("projector_view_")):
                if rest and "NaN" not in rest:
                    sums[name] += int(float(rest.rpartition(" ")[2]))
        return sums


def _transactions(conn: psycopg.Connection[Any]) -> int:
    found = conn.execute("select xact_commit + xact_rollback from pg_stat_database where datname = current_database()")
    (count,) = found.fetchone() or (0,)
    return int(count)


def _wait(
    pipelines: Sequence[Pipeline], conn: psycopg.Connection[Any], condition: str, parameters: dict[str, Any]
) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while (conn.execute(condition, parameters).fetchone() or (False,))[0] is not True:
        ended = [pipeline for pipeline in pipelines if pipeline.exited()]
        if ended or time.monotonic() > deadline:
            raise EmbeddedError(f"the views ended, or took too long:\n{(ended or pipelines)[0].tail('views')}")
        time.sleep(0.02)
