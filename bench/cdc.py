"""Catch-up from Postgres into Kafka, against what `pg_recvlogical` alone reads of the same log to /dev/null.

Both read copies of one slot with the same options, in alternating runs on the same servers; the figure is the ratio
of the medians. The stream runs in a process of its own and is timed from its first read of the slot to the last
acknowledgement; `pg_recvlogical` over the whole life of its process.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import conninfo

from bench.report import Report
from projector.cdc.publication import prepare_source
from projector.config import Settings, default_cache_dir, load_settings
from projector.embedded.database import STREAM_LOGIN, create_log, create_logins
from projector.embedded.postgres import find_binaries
from projector.embedded.stack import Stack
from projector.metrics import CDC_RECORDS, CDC_STREAMING
from projector.sql.migrate import grant_login, migrate
from streams import cdc

NAME = "cdc"
ROWS = 300_000
RUNS = 5
PARTITIONS = 4
SLOT = "bench_source"

LOAD = """
do $$ begin
    for n in 1 .. {commits} loop
        insert into sync_changes (app_id, table_name, record_id, user_id, op, data, field_meta, client_id, actor)
        select 'ai', 'aiMissions', 'mission-' || (n * 919 + i) % 50000, 'user-' || (n * 729 + i) % 2000, 'update',
               jsonb_build_object('title', 'Water the plants ' || n, 'notes', repeat('n', 330), 'n', n),
               jsonb_build_object('title', '2026-11-25T10:00:00.000Z', 'notes', '2026-11-25T10:00:00.000Z'),
               '0b8c2f0e-54a1-4c55-9f38-0a5f6c1d2e3f',
               '{{"kind": "user", "principalId": "9f1c2d3e", "displayName": "You"}}'
        from generate_series(1, {size}) i;
        commit;
    end loop;
end $$
"""


@contextmanager
def installation(name: str, apps: tuple[str, ...] = ("ai",)) -> Iterator[Settings]:
    """Servers of this benchmark's own with a migrated database; everything is gone afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix=f"bench-{name}-") as directory,
        Stack(Path(directory) / "state", default_cache_dir(), lambda line: print(line, file=sys.stderr)) as stack,
    ):
        url = stack.create_database(f"bench_{name}")
        streams = create_logins(url, "bench").of_database(f"bench_{name}").streams
        create_log(url)
        settings = Settings(
            database_url=streams,
            admin_database_url=url,
            kafka_bootstrap_servers=stack.bootstrap_servers,
            topic_partitions=PARTITIONS,
            apps=apps,
            log_level="warning",
        )
        with psycopg.connect(url, autocommit=True) as conn:
            migrate(conn)
            grant_login(conn, STREAM_LOGIN)
            prepare_source(conn, settings)
        yield settings


def run(report: Report, quick: bool = False) -> None:
    """Prints `ratio_to_pg_recvlogical_tx1`, `…_tx50` and `…_tx100000`, and the figures that they are made of."""
    for size in (1, 50, 100_000):
        rows = max(ROWS // 10 if quick else ROWS, size)
        with installation(f"cdc_tx{size}") as settings, psycopg.connect(settings.admin_url, autocommit=True) as conn:
            _measure(report, settings, conn, rows, size)


def _measure(report: Report, settings: Settings, conn: psycopg.Connection[Any], rows: int, size: int) -> None:
    conn.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [SLOT])
    report.progress(f"writing {rows} rows, {size} a transaction")
    conn.execute("set synchronous_commit = off")
    conn.execute(LOAD.format(commits=rows // size, size=size))
    conn.execute("checkpoint")
    (end,) = conn.execute("select pg_current_wal_flush_lsn()::text").fetchone() or ("",)
    ours, theirs, cpu, rss = [], [], [], []
    for number in range(RUNS):
        theirs.append(rows / _recvlogical(settings, conn, f"copy_a{number}", end))
        child = _stream(settings, conn, f"copy_b{number}", rows)
        ours.append(rows / child["seconds"])
        cpu.append(child["cpu"])
        rss.append(child["rss_mb"])
        report.progress(f"run {number + 1}: pg_recvlogical {theirs[-1]:,.0f} rows/s, stream {ours[-1]:,.0f} rows/s")
    told = {"rows": rows, "partitions": PARTITIONS, "runs": RUNS, "rows_per_tx": size}
    report.add(
        f"ratio_to_pg_recvlogical_tx{size}", statistics.median(ours) / statistics.median(theirs), "ratio", **told
    )
    report.add(f"rows_per_s_tx{size}", statistics.median(ours), "1/s", **told)
    report.add(f"pg_recvlogical_rows_per_s_tx{size}", statistics.median(theirs), "1/s", **told)
    report.add(f"cpu_s_tx{size}", statistics.median(cpu), "s", **told)
    report.add(f"rss_peak_mb_tx{size}", max(rss), "MB", **told)


def _copy_slot(conn: psycopg.Connection[Any], name: str) -> None:
    conn.execute("select pg_copy_logical_replication_slot(%s, %s)", [SLOT, name])


def _recvlogical(settings: Settings, conn: psycopg.Connection[Any], slot: str, end: str) -> float:
    """Seconds that pg_recvlogical takes to read the slot up to `end`."""
    _copy_slot(conn, slot)
    beside = find_binaries() / "pg_recvlogical"
    program = str(beside) if beside.exists() else shutil.which("pg_recvlogical")
    if program is None:
        raise FileNotFoundError("pg_recvlogical is neither in the server's bindir nor on PATH")
    url = conninfo.make_conninfo(settings.database_url.get_secret_value())
    options = {"proto_version": "1", "publication_names": settings.publication_name, "messages": "true"}
    argv = [program, "-d", url, "-S", slot, "--start", "-f", "/dev/null", "-E", end, "--no-loop"]
    for name, value in options.items():
        argv += ["-o", f"{name}={value}"]
    started = time.perf_counter()
    subprocess.run(argv, check=True, stderr=subprocess.DEVNULL, timeout=600)
    seconds = time.perf_counter() - started
    conn.execute("select pg_drop_replication_slot(%s)", [slot])
    return seconds


def _stream(settings: Settings, conn: psycopg.Connection[Any], slot: str, rows: int) -> dict[str, float]:
    """Runs the stream in a child until Kafka has acknowledged every row; returns what the child measured."""
    _copy_slot(conn, slot)
    conn.execute("delete from mana_ai.cdc_sources")
    conn.execute(
        "insert into mana_ai.cdc_sources (generation, system_identifier, slot_name, consistent_lsn, slot_ready)"
        " select 1, (select system_identifier::text from pg_control_system()), slot_name, confirmed_flush_lsn, true"
        " from pg_replication_slots where slot_name = %s",
        [slot],
    )
    conn.execute("insert into mana_ai.cdc_apps (generation, app_id, lsn) select 1, 'ai', '0/0'")
    settings = settings.model_copy(update={"slot_name": slot, "topic_prefix": slot})
    done = subprocess.run(
        [sys.executable, "-c", f"from bench.cdc import child; child({rows})"],
        env={**os.environ, **settings.environment()},
        check=True,
        stdout=subprocess.PIPE,
        timeout=600,
    )
    conn.execute("select pg_drop_replication_slot(%s)", [slot])
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def child(rows: int) -> None:
    """The stream, until `rows` records are acknowledged; prints the seconds, its CPU time and its peak memory."""
    print(json.dumps(asyncio.run(_child(load_settings(), rows))))


async def _child(settings: Settings, rows: int) -> dict[str, float]:
    stop = asyncio.Event()
    task = asyncio.create_task(cdc.run(settings, stop))
    while not CDC_STREAMING._value.get() and not task.done():
        await asyncio.sleep(0.001)
    started, used = time.perf_counter(), time.process_time()
    while CDC_RECORDS._value.get() < rows and not task.done():
        await asyncio.sleep(0.02)
    measured = {
        "seconds": time.perf_counter() - started,
        "cpu": time.process_time() - used,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    stop.set()
    await task
    return measured
