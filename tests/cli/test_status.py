"""`projector status`: each stage for itself, and one honest figure for each view."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson
import psycopg
import pytest
from aiokafka import AIOKafkaProducer
from psycopg.types.json import Jsonb
from pydantic import SecretStr

from projector.cdc.topics import ensure_topics
from projector.config import Settings
from projector.fold import FOLD_VERSION
from projector.log import watermark
from projector.log.place import parse_lsn
from projector.log.topics import Topics
from projector.log.watermark import Watermark
from projector.views import kafka
from projector.views.declared import VIEWS
from tests.cli.test_servers import run


@pytest.fixture
def admin(settings: Settings) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        yield conn


class World:
    """A source with its generation, topics with records, and marks and positions as the streams would leave them."""

    def __init__(self, settings: Settings, admin: psycopg.Connection[Any], cluster: str) -> None:
        self.settings = settings
        self.admin = admin
        self.cluster = cluster
        self.topics = Topics(settings.topic_prefix)
        admin.execute(
            "insert into mana_ai.cdc_sources (generation, system_identifier, slot_name, consistent_lsn, slot_ready)"
            " select 1, system_identifier::text, %s, '0/1', true from pg_control_system()",
            [settings.slot_name],
        )

    @property
    def ai(self) -> str:
        return self.topics.changes("ai")

    async def send(self, *partitions: int) -> None:
        """One record of the app `ai` into each of these partitions."""
        async with _producer(self.settings) as producer:
            for partition in partitions:
                await producer.send_and_wait(self.ai, b"{}", partition=partition)

    def mark(self, seconds_ago: float, ends: Mapping[str, list[int]]) -> str:
        """A watermark of the table at the server's present end; returns its LSN."""
        row = self.admin.execute(
            "insert into mana_ai.cdc_watermarks (generation, lsn, committed_at, horizon, ends)"
            " values (1, pg_current_wal_insert_lsn(), clock_timestamp() - make_interval(secs => %s), '3', %s)"
            " returning lsn::text",
            [seconds_ago, Jsonb(dict(ends))],
        ).fetchone()
        assert row is not None
        return str(row[0])

    def position(self, view: str, *offsets: int, topic: str | None = None) -> None:
        for partition, offset in enumerate(offsets):
            self.admin.execute(
                "insert into mana_ai.stream_positions (view, cluster, topic, partition, next_offset, fold_version)"
                " values (%s, %s, %s, %s, %s, %s) on conflict (view, cluster, topic, partition)"
                " do update set next_offset = excluded.next_offset",
                [view, self.cluster, topic or self.ai, partition, offset, FOLD_VERSION],
            )


def _producer(settings: Settings) -> AIOKafkaProducer:
    return AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers)


@pytest.fixture
async def world(settings: Settings, admin: psycopg.Connection[Any]) -> World:
    await ensure_topics(settings)
    return World(settings, admin, await kafka.cluster_id(settings))


def stages(settings: Settings, expected: int = 0) -> dict[str, dict[str, Any]]:
    done = run(settings, "status", "--json")
    assert done.returncode == expected, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return {(entry := orjson.loads(line)).pop("stage"): entry for line in done.stdout.splitlines()}


async def test_a_view_is_as_stale_as_the_newest_watermark_that_it_has_applied_as_a_whole(world: World) -> None:
    world.mark(300, {world.ai: [1, 0, 0, 0]})
    applied = world.mark(60, {world.ai: [2, 1, 0, 0]})
    world.mark(10, {world.ai: [2, 2, 0, 0]})
    world.position("missions", 2, 1, 0, 0)
    world.position("agents", 2, 2)  # partitions without a row have applied nothing, and nothing is there
    world.position("records", 1, 9, 0, 0)
    shown = stages(world.settings)
    assert 60 <= shown["view missions"]["staleness_s"] < 70
    assert 10 <= shown["view agents"]["staleness_s"] < 20
    assert 300 <= shown["view records"]["staleness_s"] < 310
    lsn = world.admin.execute("select pg_current_wal_insert_lsn()::text").fetchone()
    assert lsn is not None
    assert 0 < shown["view missions"]["lag_bytes"] <= parse_lsn(lsn[0]) - parse_lsn(applied)
    assert shown["view missions"]["lsn"] == applied
    assert f"newest watermark {applied}, stale by" in run(world.settings, "status").stdout


async def test_a_view_that_has_applied_no_watermark_has_no_figure_rather_than_a_good_one(world: World) -> None:
    world.mark(1, {world.ai: [1, 0, 0, 0]})
    shown = stages(world.settings)
    assert shown["view missions"]["staleness_s"] is None
    assert shown["view missions"]["lsn"] is None
    assert "no watermark yet, staleness unknown" in run(world.settings, "status").stdout


async def test_events_behind_are_counted_over_all_partitions_of_the_views_topics(world: World) -> None:
    await world.send(0, 0, 0, 1, 2)
    world.position("missions", 1, 1, 0, 0)
    shown = stages(world.settings)
    assert shown["view missions"]["lag_events"] == 3
    assert shown["view agents"]["lag_events"] == 5
    assert shown["view missions"]["ahead"] is False
    world.position("missions", 4)
    assert stages(world.settings)["view missions"]["ahead"] is True


async def test_the_newest_watermark_of_the_topic_is_shown_with_its_age(world: World) -> None:
    assert stages(world.settings)["topics"] == {"lsn": None, "age_s": None}
    now = world.admin.execute("select (extract(epoch from clock_timestamp()) * 1e6)::bigint").fetchone()
    assert now is not None
    mark = Watermark(1, 0x16B3748, now[0] - 30_000_000, None, {world.ai: [0, 0, 0, 0]})
    async with _producer(world.settings) as producer:
        await producer.send_and_wait(world.topics.watermarks, watermark.encode(mark._replace(lsn=1)), watermark.KEY)
        await producer.send_and_wait(world.topics.watermarks, watermark.encode(mark), watermark.KEY)
    shown = stages(world.settings)["topics"]
    assert shown["lsn"] == "0/16B3748"
    assert 30 <= shown["age_s"] < 40


async def test_the_source_shows_what_is_confirmed_in_bytes_and_seconds(world: World) -> None:
    assert stages(world.settings)["source"] == {"generation": 1, "slot": None}
    world.mark(120, {})
    world.admin.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [world.settings.slot_name])
    world.admin.execute("select pg_logical_emit_message(false, 'noise', repeat('x', 100000))")
    world.mark(5, {})  # which the slot has not confirmed
    shown = stages(world.settings)["source"]
    assert (shown["generation"], shown["wal_status"], shown["active_pid"]) == (1, "reserved", None)
    assert shown["lag_bytes"] >= 100_000
    assert 120 <= shown["lag_s"] < 130
    assert [holder["kind"] for holder in shown["held_by"]] == ["inactive"]


async def test_a_fill_that_runs_shows_rows_rate_and_time_left(world: World) -> None:
    world.admin.execute(
        "insert into mana_ai.cdc_fills (generation, reason, apps, lsn, snapshot_xmin, whole, filled_from, filled_to,"
        " rows, total, started_at, reported_at, finished_at)"
        " select 1, reason, '{ai}', '0/1', '3', true, '{}', '{}', 2000, 5000,"
        " clock_timestamp() - interval '20 s', clock_timestamp(), finished"
        " from (values ('history', null), ('app', now())) as fill (reason, finished)"
    )
    shown = stages(world.settings)["fill"]
    assert (shown["reason"], shown["step"], shown["done"], shown["total"]) == ("history", "rows", 2000, 5000)
    assert shown["per_s"] == pytest.approx(100, rel=0.05)
    assert shown["eta_s"] == pytest.approx(30, rel=0.05)
    assert "history of ai: 2,000 of 5,000 rows" in run(world.settings, "status").stdout


async def test_a_fill_that_another_generation_took_the_place_of_is_not_shown(world: World) -> None:
    world.admin.execute(
        "insert into mana_ai.cdc_fills (generation, reason, apps, lsn, snapshot_xmin, whole, filled_from, filled_to)"
        " values (1, 'history', '{ai}', '0/1', '3', true, '{}', '{}')"
    )
    assert stages(world.settings)["fill"]["reason"] == "history"
    world.admin.execute(
        "insert into mana_ai.cdc_sources (generation, system_identifier, slot_name) select 2, '1', slot_name"
        " from mana_ai.cdc_sources"
    )
    assert "fill" not in stages(world.settings)


async def test_dead_letters_and_runs_are_counted_by_kind(world: World) -> None:
    world.admin.execute(
        "insert into mana_ai.cdc_dead_letters (source, lsn, ord, topic, change_id, user_id, size, reason)"
        " values (1, '0/1', 0, 't', 'c', 'anna', 9, 'too-large')"
    )
    world.admin.execute(
        'insert into mana_ai.dead_letters (view, cluster, topic, partition, "offset", reason, detail, headers)'
        " select 'missions', 'c', 't', 0, n, 'no-user', '', '{}' from generate_series(1, 2) as n"
    )
    world.admin.execute(
        "insert into mana_ai.mission_runs (run_id, user_id, mission_id, due_at, agent_id, iteration_id)"
        " select gen_random_uuid(), 'anna', 'm' || n, now(), 'a', gen_random_uuid() from generate_series(1, 3) as n"
    )
    shown = stages(world.settings)
    assert shown["dead letters"]["counts"] == {"cdc/too-large": 1, "missions/no-user": 2}
    assert shown["runs"]["counts"] == {"due": 3}


async def test_missions_that_are_never_due_are_counted_by_cause_and_the_first_of_them_named(world: World) -> None:
    assert stages(world.settings)["never due"] == {"counts": {}, "missions": []}
    for number in range(7):
        mission = {"state": "active", "nextRunAt": "soon", "cadence": {"kind": "daily"}}
        if number == 6:
            mission |= {"nextRunAt": None, "cadence": {"kind": "cron", "expression": "0 0 30 2 *"}}
        world.admin.execute(
            "insert into mana_ai.mission_snapshots_1 (user_id, mission_id, status, deleted, complete, source,"
            " source_lsn, last_applied_at, record, state)"
            " values ('u', %s, 'active', false, true, 1, '0/1', now(), %s, '{}')",
            [f"m{number}\x1b", Jsonb(mission)],
        )
    shown = stages(world.settings)["never due"]
    assert shown["counts"] == {"next-run-at": 6, "cron": 1}
    assert shown["missions"][0] == {"user_id": "u", "mission_id": "m0\x1b", "cause": "next-run-at"}
    assert len(shown["missions"]) == 5
    (line,) = (line for line in run(world.settings, "status").stdout.splitlines() if line.startswith("never due"))
    assert "6 with a nextRunAt that is no time, 1 with a cron expression that names no time: u/m0\\x1b, u/m1" in line
    assert line.endswith(", …")


async def test_without_kafka_the_database_still_tells_how_stale_the_views_are(world: World) -> None:
    world.mark(60, {world.ai: [2, 0, 0, 0]})
    world.position("missions", 2, 0, 0, 0)
    shown = stages(world.settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"}), expected=1)
    assert "Kafka" in shown["topics"]["problem"]
    assert 60 <= shown["view missions"]["staleness_s"] < 70
    assert shown["view missions"]["lag_events"] is None
    assert shown["runs"] == {"counts": {}}


async def test_without_the_database_every_stage_says_so_and_the_exit_status_is_one(settings: Settings) -> None:
    away = settings.model_copy(update={"database_url": SecretStr("postgresql://nobody@127.0.0.1:1/x")})
    shown = stages(away, expected=1)
    parts = {"source", "fill", "topics", "dead letters", "runs", "never due", "effects"}
    assert set(shown) == parts | {f"view {name}" for name in VIEWS}
    assert "cannot connect to PostgreSQL" in shown["source"]["problem"]
    done = run(away, "status")
    assert done.stderr.startswith("error: cannot connect to PostgreSQL")
    assert "projector doctor" in done.stderr
