"""The slot never grows without an alarm, and the alarm names who holds it."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

import psycopg
import pytest
from prometheus_client import REGISTRY
from psycopg import conninfo, sql
from structlog.testing import capture_logs

from projector.cdc.guardian import REMIND_S, Guardian
from projector.cdc.health import OPEN_S, Health, Transaction, duration, sample, size
from projector.cdc.replication import Replication
from projector.config import Settings
from projector.sql import query
from projector.sql.connection import connect

SMALL = 256 * 1024


@pytest.fixture
def admin(settings: Settings) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        yield conn


@pytest.fixture
def watched(settings: Settings, admin: psycopg.Connection[Any]) -> Settings:
    """Settings with a slot that nobody reads yet, and a limit that a test can cross."""
    admin.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [settings.slot_name])
    return settings.model_copy(update={"slot_warn_bytes": SMALL})


def write_wal(conn: psycopg.Connection[Any], octets: int = 2 * SMALL) -> None:
    """As another program's messages, in pieces: they need no table."""
    for _ in range(octets // 32_768):
        conn.execute("select pg_logical_emit_message(false, 'noise', repeat('x', 32768))")


@asynccontextmanager
async def reader(settings: Settings, *, confirms: bool) -> AsyncIterator[Replication]:
    """A session that reads the slot and answers, and confirms what it read or never anything."""
    replication = await Replication.connect(settings)

    async def read() -> None:
        position = 0

        def at(keepalive: Any) -> None:
            nonlocal position
            position = keepalive.wal_end

        while True:
            replication.receive(lambda message: None, at, 1 << 20)
            replication.confirm(position, position if confirms else 0, reply_wanted=True)
            await asyncio.sleep(0.02)

    assert await replication.start(settings.slot_name, settings.publication_name)
    task = asyncio.create_task(read())
    try:
        yield replication
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await replication.close()


async def told(guardian: Guardian, conn: psycopg.AsyncConnection[Any], words: str) -> dict[str, Any]:
    """Watches until a warning says `words` about who holds the slot; returns the warning."""
    async with asyncio.timeout(60):
        while True:
            with capture_logs() as logs:
                assert await guardian.watch(conn) is not None
            for line in logs:
                if line["log_level"] == "warning" and words in line["held_by"]:
                    return dict(line)
            await asyncio.sleep(0.2)


def metric(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"projector_cdc_{name}", labels)


async def test_a_slot_that_nobody_reads_raises_an_alarm_that_says_since_when(
    watched: Settings, admin: psycopg.Connection[Any]
) -> None:
    guardian = Guardian(watched)
    async with await connect(watched, "projector_cdc") as conn:
        with capture_logs() as logs:
            await guardian.watch(conn)
        assert logs == []
        write_wal(admin)
        warning = await told(guardian, conn, "nobody reads the slot, for ")
        assert "it keeps 5" in warning["because"]
        assert "projector run cdc" in warning["remedy"]
        assert (metric("slot_active"), metric("slot_wal_status", status="reserved")) == (0, 1)
        assert (metric("slot_retained_bytes") or 0) >= 2 * SMALL
        with capture_logs() as logs:  # once, not at each look
            await guardian.watch(conn)
        assert logs == []


async def test_a_stream_that_fills_the_topics_first_is_told_from_one_that_is_away(
    watched: Settings, admin: psycopg.Connection[Any]
) -> None:
    guardian = Guardian(watched)
    async with await connect(watched, "projector_cdc") as conn:
        admin.execute(query("cdc/writer_lock"), [watched.slot_name])
        write_wal(admin)
        warning = await told(guardian, conn, "publishes rows out of the table before it reads the slot")
        assert warning["pids"] == [admin.info.backend_pid]
        admin.execute("select pg_advisory_unlock_all()")
        await told(guardian, conn, "nobody reads the slot")


async def test_a_reader_that_never_confirms_raises_an_alarm_that_names_it(
    watched: Settings, admin: psycopg.Connection[Any]
) -> None:
    guardian = Guardian(watched)
    async with (
        await connect(watched, "projector_cdc") as conn,
        reader(watched, confirms=False) as stalled,
    ):
        await guardian.watch(conn)
        write_wal(admin)
        warning = await told(guardian, conn, "has confirmed nothing for")
        assert warning["pids"] == [stalled.backend_pid]
        assert f"pid {stalled.backend_pid}" in warning["held_by"]
        assert "projector_cdc" in warning["held_by"]
        assert "brokers" in warning["remedy"]
        assert metric("slot_active") == 1


async def test_an_open_transaction_raises_an_alarm_that_names_it_and_ends_with_it(
    watched: Settings, admin: psycopg.Connection[Any]
) -> None:
    guardian = Guardian(watched)
    url = conninfo.make_conninfo(watched.admin_url, application_name="nightly report")
    async with (
        await connect(watched, "projector_cdc") as conn,
        reader(watched, confirms=True),
    ):
        with psycopg.connect(url) as forgotten, psycopg.connect(watched.admin_url) as younger:
            for session in (forgotten, younger):
                session.execute("select pg_logical_emit_message(true, 'noise', 'x')")
            write_wal(admin)
            warning = await told(guardian, conn, "has been open for")
            pid = forgotten.info.backend_pid
            assert pid in warning["pids"]
            assert f"pid {pid} by nightly report as postgres" in warning["held_by"]
            assert "idle in transaction" in warning["held_by"]
            assert f"pg_terminate_backend({pid})" in warning["remedy"]
            assert (metric("oldest_transaction_seconds") or 0) >= OPEN_S
            admin.execute("checkpoint")  # writes down which transactions run, and that is what moves a slot
            await asyncio.sleep(0.5)
            health = await guardian.watch(conn)
            assert health is not None
            assert health.retained_bytes >= 2 * SMALL
        async with asyncio.timeout(40):
            with capture_logs() as logs:
                while not any(line["event"] == "slot is well again" for line in logs):
                    admin.execute("checkpoint")
                    await guardian.watch(conn)
                    await asyncio.sleep(0.2)


async def test_a_transaction_of_another_user_shows_its_age_to_the_plain_role(
    watched: Settings, admin: psycopg.Connection[Any]
) -> None:
    with psycopg.connect(watched.admin_url) as forgotten:
        forgotten.execute("select pg_current_xact_id()")
        async with await connect(watched, "projector_cdc") as conn:
            health = await sample(conn, watched.slot_name)
        assert health is not None
        assert health.transaction is not None
        assert health.transaction.exact
        assert health.transaction.pid == forgotten.info.backend_pid


async def test_without_pg_read_all_stats_the_transaction_is_still_named_and_its_age_counted(
    watched: Settings, admin: psycopg.Connection[Any]
) -> None:
    with psycopg.connect(watched.admin_url) as forgotten:
        forgotten.execute("select pg_current_xact_id()")
        async with await connect(watched, "projector_reader") as conn:  # which was granted nothing
            first = await sample(conn, watched.slot_name)
            await asyncio.sleep(0.3)
            health = await sample(conn, watched.slot_name, first)
        assert health is not None
        assert health.transaction is not None
        assert (health.transaction.pid, health.transaction.exact) == (forgotten.info.backend_pid, False)
        assert health.transaction.seconds >= 0.3
        [transaction] = [holder for holder in health.holders if holder.kind == "transaction"]
        assert "grant pg_read_all_stats to projector_cdc" in transaction.what


async def test_an_invalidated_slot_is_told_with_its_reason(watched: Settings, admin: psycopg.Connection[Any]) -> None:
    async with await connect(watched, "projector_cdc") as conn:
        health = await sample(conn, watched.slot_name)
    assert health is not None
    lost = health._replace(wal_status="lost", invalidation="wal_removed", restart=0, safe_bytes=None)
    with capture_logs() as logs:
        Guardian(watched).observe(lost)
    assert "wal_removed" in logs[0]["held_by"]
    assert "publishes the gap out of the table" in logs[0]["remedy"]
    assert metric("slot_seconds_to_invalidation") == 0


async def test_a_slot_that_somebody_dropped_is_called_gone_and_not_well(
    watched: Settings, admin: psycopg.Connection[Any]
) -> None:
    guardian = Guardian(watched)
    with psycopg.connect(watched.admin_url) as forgotten:
        forgotten.execute("select pg_current_xact_id()")
        await asyncio.sleep(0.2)
        async with await connect(watched, "projector_cdc") as conn:
            write_wal(admin)
            await guardian.watch(conn)
            assert (metric("oldest_transaction_seconds") or 0) > 0
            admin.execute("select pg_drop_replication_slot(%s)", [watched.slot_name])
            with capture_logs() as logs:
                await guardian.watch(conn)
                await guardian.watch(conn)
    assert [(line["event"], line["log_level"]) for line in logs] == [("slot that needed attention is gone", "warning")]
    assert metric("slot_wal_status", status="missing") == 1
    assert (metric("slot_retained_bytes"), metric("oldest_transaction_seconds")) == (0, 0)
    assert metric("slot_safe_bytes") == metric("slot_seconds_to_invalidation") == math.inf


async def test_a_guardian_whose_session_is_ended_looks_again(
    watched: Settings, admin: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projector.cdc.guardian.LOOK_S", 0.1)
    watching = asyncio.create_task(Guardian(watched).run())
    mine = "select pid from pg_stat_activity where application_name = 'projector_cdc' and datname = %s"
    try:
        async with asyncio.timeout(20):
            for _ in range(2):
                while (row := admin.execute(mine, [watched.slot_name]).fetchone()) is None:
                    await asyncio.sleep(0.05)
                admin.execute("select pg_terminate_backend(%s, 5000)", row)
            write_wal(admin)
            while (metric("slot_retained_bytes") or 0) < 2 * SMALL:
                await asyncio.sleep(0.05)
        assert not watching.done()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_a_slot_that_does_not_exist_has_no_health(settings: Settings) -> None:
    async with await connect(settings, "projector_cdc") as conn:
        assert await Guardian(settings).watch(conn) is None
    assert metric("slot_wal_status", status="missing") == 1


HEALTHY = Health(
    slot="s",
    at=1000.0,
    lsn=1 << 30,
    restart=(1 << 30) - 1000,
    confirmed=(1 << 30) - 10,
    wal_status="reserved",
    invalidation=None,
    safe_bytes=4 << 30,
    active_pid=7,
    writer_pid=None,
    reader="projector_cdc as projector ",
    inactive_since=None,
    idle_timeout=0.0,
    transaction=None,
    rate=0.0,
    reply="now",
    restart_since=999.0,
    confirmed_since=1000.0,
    reply_since=1000.0,
)


def test_a_slot_that_moves_has_no_holder_and_no_end() -> None:
    assert (HEALTHY.holders, HEALTHY.seconds_to_invalidation) == ([], None)
    assert HEALTHY._replace(safe_bytes=None, rate=1e6).seconds_to_invalidation is None


def test_the_time_left_follows_from_what_may_be_written_and_the_rate() -> None:
    assert HEALTHY._replace(rate=1024.0**2).seconds_to_invalidation == 4096
    idle = HEALTHY._replace(active_pid=None, inactive_since=900.0, idle_timeout=160.0)
    assert idle.seconds_to_invalidation == 60


def test_the_time_left_is_an_alarm_only_for_a_slot_that_stands() -> None:
    guardian = Guardian(Settings(slot_warn_s=3600))
    busy = HEALTHY._replace(rate=4 * 1024.0**2)  # 1024 s
    assert guardian.alarms(busy) == {}
    assert list(guardian.alarms(busy._replace(restart_since=930.0))) == ["seconds"]
    assert list(guardian.alarms(busy._replace(safe_bytes=1 << 20, restart_since=999.0))) == ["seconds"]


def test_the_warning_is_repeated_after_ten_minutes_and_not_while_the_figure_wavers() -> None:
    clock = [0.0]
    guardian = Guardian(Settings(slot_warn_bytes=1000), lambda: clock[0])
    events = []
    for clock[0], kept in [(0.0, 1000), (5.0, 2000), (10.0, 900), (15.0, 1000), (REMIND_S, 1000), (REMIND_S + 5, 700)]:
        with capture_logs() as logs:
            guardian.observe(HEALTHY._replace(restart=HEALTHY.lsn - kept))
        events.append([line["log_level"] for line in logs])
    assert events == [["warning"], [], [], [], ["warning"], ["info"]]


def test_a_reader_that_answers_no_more_is_told_from_one_that_does_not_confirm() -> None:
    silent = HEALTHY._replace(reply_since=960.0, confirmed_since=960.0, confirmed=HEALTHY.lsn - (1 << 20))
    assert [(holder.kind, holder.pid) for holder in silent.holders] == [("silent", 7)]
    stalled = silent._replace(reply_since=999.0)
    assert [holder.kind for holder in stalled.holders] == ["unconfirmed"]
    behind = silent._replace(
        reply_since=999.0, confirmed_since=1000.0, restart=HEALTHY.lsn - (30 << 20), confirmed=HEALTHY.lsn - (20 << 20)
    )
    assert [holder.kind for holder in behind.holders] == ["behind"]
    assert "20.0 MiB behind" in behind.holders[0].what


def test_a_prepared_transaction_is_ended_by_its_name() -> None:
    prepared = Transaction("99", None, "order-7", "shop", "", "mana_sync", "prepared", 7300.0, True)
    [holder] = HEALTHY._replace(transaction=prepared).holders
    assert "prepared as 'order-7' by shop in database mana_sync, has been open for 2.0 h" in holder.what
    assert "rollback prepared 'order-7'" in holder.remedy


def test_limits_that_do_not_exist_are_infinite_in_the_metrics() -> None:
    Guardian(Settings()).observe(HEALTHY._replace(safe_bytes=None))
    assert metric("slot_safe_bytes") == metric("slot_seconds_to_invalidation") == math.inf


def test_a_process_that_does_not_look_raises_no_alarm() -> None:
    code = (
        "import projector.metrics; from prometheus_client import REGISTRY;"
        "print([REGISTRY.get_sample_value('projector_cdc_slot_' + name) for name in"
        " ('seconds_to_invalidation', 'safe_bytes', 'retained_bytes')])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout.strip() == "[inf, inf, 0.0]"


def test_sizes_and_durations_are_read_at_a_glance() -> None:
    assert [size(n) for n in (0, 1023, 1024, 3.5 * 1024**3, 5 * 1024**4)] == [
        *("0 B", "1023 B", "1.0 KiB", "3.5 GiB", "5.0 TiB")
    ]
    assert [duration(s) for s in (3.4, 600, 12_600, 400_000)] == ["3 s", "10 min", "3.5 h", "4.6 days"]


def test_a_login_that_may_not_grant_is_warned_by_the_migration_and_not_stopped(settings: Settings) -> None:
    text = (files("projector.sql") / "migrations" / "0006_guardian.sql").read_text("utf-8")
    text = text.replace("'projector_cdc'", "'projector_reader'")  # one that lacks the privilege
    notices = []
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        conn.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        conn.execute(sql.SQL("set role projector_reader"))
        conn.execute(text)  # type: ignore[call-overload]  # a file of ours
    assert any("pg_read_all_stats" in notice for notice in notices)
