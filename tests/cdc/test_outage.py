"""While Kafka is away the stream cannot run and the slot grows: that is when somebody must look at it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from projector.config import Settings
from projector.embedded.kafka import Kafka
from tests.cdc.support import running

LIMIT = 256 * 1024


def retained() -> float:
    return REGISTRY.get_sample_value("projector_cdc_slot_retained_bytes") or 0.0


def told(logs: list[Any], event: str, holder: str = "") -> int:
    """How often."""
    return sum(line["event"] == event and holder in line.get("held_by", "") for line in logs)


async def until(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not look():
            await asyncio.sleep(0.1)


def write_wal(conn: psycopg.Connection[Any], octets: int) -> None:
    for _ in range(octets // 32_768):
        conn.execute("select pg_logical_emit_message(false, 'noise', repeat('x', 32768))")


async def test_a_slot_that_grows_while_kafka_is_away_raises_one_alarm_through_all_sessions(
    settings: Settings, kafka: Kafka
) -> None:
    settings = settings.model_copy(
        update={"kafka_bootstrap_servers": kafka.bootstrap_servers, "slot_warn_bytes": LIMIT}
    )
    with capture_logs() as logs, psycopg.connect(settings.admin_url, autocommit=True) as admin:
        async with running(settings):
            await asyncio.to_thread(kafka.stop)
            # A producer may go on trying for long, and with it the session.
            admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and usename = 'projector'"
            )
            await until(lambda: told(logs, "session ended") > 1)
            write_wal(admin, 2 * LIMIT)
            await until(lambda: told(logs, "slot needs attention", "nobody reads the slot") > 0)
            assert retained() >= 2 * LIMIT
            failures = told(logs, "session ended")
            write_wal(admin, 2 * LIMIT)
            await until(lambda: retained() >= 4 * LIMIT and told(logs, "session ended") >= failures + 2)
    assert told(logs, "slot needs attention", "nobody reads the slot") == 1
