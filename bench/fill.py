"""How fast rows are published out of the table, in how much memory, and what the stream takes when idle afterwards."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import psycopg

from bench.cdc import installation
from bench.report import Report
from bench.usage import cpu_s, peak_mb
from projector.embedded.pipeline import Pipeline

NAME = "fill"
ROWS = 300_000
IDLE_S = 30.0

HISTORY = """
insert into sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
select 'ai', 'notes', i::text, 'user-' || i %% 2000, 'insert', jsonb_build_object('content', repeat('x', 600)), 'bench'
from generate_series(1, %s) i
"""


def run(report: Report, quick: bool = False) -> None:
    """Prints `fill_rows_per_s`, `fill_rss_peak_mb` and `idle_cpu_percent`."""
    rows = ROWS // 10 if quick else ROWS
    idle_s = 5.0 if quick else IDLE_S
    with installation(NAME) as settings, tempfile.TemporaryDirectory(prefix="bench-logs-") as directory:
        with psycopg.connect(settings.admin_url, autocommit=True) as conn:
            conn.execute(HISTORY, [rows])
        pipeline = Pipeline(settings.model_copy(update={"log_level": "info"}), Path(directory))
        try:
            process = pipeline.start("cdc")
            pipeline.wait_ready("cdc", 600)
            with psycopg.connect(settings.admin_url, autocommit=True) as conn:
                found = conn.execute(
                    "select extract(epoch from finished_at - started_at)::float8 from mana_ai.cdc_fills"
                )
                (seconds,) = found.fetchone() or (0.0,)
            report.add("fill_rows_per_s", rows / seconds, "1/s", rows=rows)
            report.add("fill_rss_peak_mb", peak_mb(process.pid), "MB", rows=rows)
            time.sleep(2)
            before = cpu_s(process.pid)
            time.sleep(idle_s)
            report.add("idle_cpu_percent", (cpu_s(process.pid) - before) / idle_s * 100, "%", seconds=idle_s)
        finally:
            pipeline.stop_all()
