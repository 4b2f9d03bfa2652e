"""The command line as an operator meets it: a process, its output, its exit status."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import orjson
import psycopg
import pytest
from psycopg import conninfo, sql
from psycopg.types.json import Jsonb
from pydantic import SecretStr

from projector.cdc.broker_trial import try_broker
from projector.cdc.checks import check_clock
from projector.cdc.topics import ensure_topics
from projector.config import Settings
from projector.embedded.servers import Servers
from projector.kafka import admin
from projector.log.topics import Topics
from projector.views.kafka import cluster_id
from tests.fixtures.settings import Template


def run(settings: Settings | None, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    outer = {name: value for name, value in os.environ.items() if not name.startswith("PROJECTOR_")}
    given = {} if settings is None else settings.environment()
    return subprocess.run(
        [sys.executable, "-m", "projector", *words],
        env=outer | given | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def findings(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [entry["what"] for line in done.stdout.splitlines() if "what" in (entry := orjson.loads(line))]


def test_without_settings_a_stream_says_which_one_is_missing() -> None:
    done = run(None, "run", "cdc")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "error: PROJECTOR_DATABASE_URL is not set"


def test_a_wrong_setting_is_named_with_its_variable() -> None:
    done = run(None, "config", PROJECTOR_TOPIC_PARTITIONS="none", PROJECTOR_TIMEZONE="Mars/Olympus")
    assert done.returncode == 2
    assert "PROJECTOR_TOPIC_PARTITIONS" in done.stderr
    assert "PROJECTOR_TIMEZONE" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_stream_is_answered_with_those_there_are(settings: Settings) -> None:
    done = run(settings, "run", "everything")
    assert done.returncode == 2
    assert "cdc, views, planner, sink, timers" in done.stderr


def test_the_settings_in_force_are_printed_without_secrets(settings: Settings) -> None:
    done = run(settings, "config", "--json")
    shown = orjson.loads(done.stdout)
    password = conninfo.conninfo_to_dict(settings.database_url.get_secret_value())["password"]
    assert shown["PROJECTOR_DATABASE_URL"] == "(set)"
    assert str(password) not in done.stdout


def test_doctor_finds_nothing_wrong_after_migrate_but_what_is_still_to_come(settings: Settings) -> None:
    assert run(settings, "migrate").returncode == 0
    done = run(settings, "doctor", "--json")
    assert done.returncode == 0, done.stdout
    assert orjson.loads(done.stdout.splitlines()[-1])["errors"] == 0


def test_migrate_may_be_repeated_and_then_does_nothing(settings: Settings) -> None:
    again = run(settings, "migrate", "--json")
    assert (again.returncode, orjson.loads(again.stdout)) == (0, {"applied": []})


def test_doctor_tells_what_a_database_lacks_that_was_never_migrated(stack: Servers, template: Template) -> None:
    name = "never_migrated"
    url = stack.create_database(name)
    try:
        login = template.logins.of_database(name).streams
        done = run(
            Settings(database_url=SecretStr(login), kafka_bootstrap_servers=stack.bootstrap_servers),
            "doctor",
            "--json",
        )
        assert done.returncode == 1
        assert any("0001 roles is not applied" in what for what in findings(done))
        missing_log = run(
            Settings(database_url=SecretStr(login), admin_database_url=SecretStr(url)),
            "migrate",
        )
        assert missing_log.returncode == 1
        assert "no table sync_changes" in missing_log.stderr
    finally:
        with psycopg.connect(stack.admin_url, autocommit=True) as admin:
            admin.execute(f"drop database {name} with (force)")  # type: ignore[arg-type]


def test_doctor_names_what_was_changed_by_hand_until_it_is_mended_or_accepted(settings: Settings) -> None:
    with psycopg.connect(settings.admin_url, autocommit=True) as admin:
        admin.execute("drop index mana_ai.dead_letters_user")
    entry = found(settings, "index dead_letters_user of mana_ai.dead_letters is gone")
    assert entry["severity"] == "error"
    assert entry["remedy"].startswith("CREATE INDEX dead_letters_user ON mana_ai.dead_letters")
    assert entry["remedy"].endswith("`projector migrate --accept-drift`")
    assert run(settings, "migrate", "--accept-drift").returncode == 0
    assert run(settings, "doctor").returncode == 0


def test_doctor_names_migrations_of_other_versions(settings: Settings) -> None:
    with psycopg.connect(settings.admin_url, autocommit=True) as admin:
        admin.execute("update mana_ai.schema_migrations set checksum = 'edited' where number = 3")
        admin.execute("insert into mana_ai.schema_migrations (number, name, checksum) values (9001, 'later', 'x')")
    done = run(settings, "doctor", "--json")
    assert done.returncode == 1
    assert findings(done)[:2] == [
        "migration 0003 views is another one than was applied",
        "migration 9001 later was applied and is unknown to this version of the program",
    ]


def test_a_superuser_is_refused_as_login_of_the_streams(settings: Settings) -> None:
    powerful = settings.model_copy(update={"database_url": settings.admin_database_url})
    done = run(powerful, "migrate")
    assert done.returncode == 1
    assert "is a superuser" in done.stderr
    assert "create role NAME login nosuperuser" in found(powerful, "not bound by row-level security")["remedy"]


def found(settings: Settings, words: str) -> dict[str, str]:
    """The one finding of `doctor` that says `words`."""
    done = run(settings, "doctor", "--json")
    entries = [orjson.loads(line) for line in done.stdout.splitlines()]
    [entry] = [entry for entry in entries if words in entry.get("what", "")]
    assert entry["why"]
    assert entry["remedy"]
    return dict(entry)


def test_doctor_tells_why_a_finding_matters_and_how_to_mend_it(settings: Settings) -> None:
    done = run(settings, "doctor")
    assert f"there is no replication slot {settings.slot_name} yet" in done.stdout
    assert "why: nothing is streamed before it exists" in done.stdout
    assert "fix: start `projector run cdc`" in done.stdout


def test_doctor_tries_to_make_a_slot_rather_than_to_read_a_flag(settings: Settings) -> None:
    url = conninfo.make_conninfo(settings.admin_url, user="powerless", password="x")
    powerless = settings.model_copy(update={"replication_url": SecretStr(url)})
    with psycopg.connect(settings.admin_url, autocommit=True) as admin:
        admin.execute("create role powerless login password 'x' noreplication")
        try:
            entry = found(powerless, "may not replicate")
            assert entry["severity"] == "error"
            assert entry["remedy"] == 'alter role "powerless" replication'
        finally:
            admin.execute("drop role powerless")
        left = admin.execute("select slot_name from pg_replication_slots where slot_name like '%%_doctor_%%'")
        assert left.fetchall() == []


def test_doctor_does_not_wait_for_an_open_transaction_and_says_how_to_find_it(settings: Settings) -> None:
    with psycopg.connect(settings.admin_url) as forgotten:
        forgotten.execute("select pg_current_xact_id()")
        entry = found(settings, "a transaction that writes is open")
    assert entry["severity"] == "warning"
    assert "pg_stat_activity" in entry["remedy"]


def test_doctor_reads_a_row_as_the_stream_does_and_notices_policies(settings: Settings) -> None:
    with psycopg.connect(settings.admin_url, autocommit=True) as admin:
        admin.execute("alter role projector_cdc nobypassrls")
        try:
            entry = found(settings, "row-level security hides them")
        finally:
            admin.execute("alter role projector_cdc bypassrls")
    assert entry["severity"] == "error"
    assert "bypassrls" in entry["remedy"]


def test_doctor_tells_a_missing_grant_from_rows_that_are_hidden(settings: Settings) -> None:
    with psycopg.connect(settings.admin_url, autocommit=True) as admin:
        admin.execute("revoke select on sync_changes from projector_cdc")
    entry = found(settings, "projector_cdc may not read sync_changes")
    assert (entry["severity"], entry["remedy"]) == ("error", "grant select on sync_changes to projector_cdc")


def test_doctor_tries_a_temporary_table_and_migrate_grants_it_where_the_public_may_not(settings: Settings) -> None:
    with psycopg.connect(settings.admin_url, autocommit=True) as admin:
        database = sql.Identifier(admin.info.dbname)
        admin.execute(sql.SQL("revoke temporary on database {} from public").format(database))
    entry = found(settings, "projector_cdc may not make temporary tables")
    assert entry["severity"] == "error"
    assert entry["remedy"] == f'grant temporary on database "{settings.slot_name}" to projector_cdc'
    assert run(settings, "migrate").returncode == 0
    assert run(settings, "doctor").returncode == 0


def test_a_role_without_sight_of_transactions_is_a_warning(settings: Settings) -> None:
    with psycopg.connect(settings.admin_url, autocommit=True) as admin:
        admin.execute("revoke pg_read_all_stats from projector_cdc")
        try:
            entry = found(settings, "pg_read_all_stats")
        finally:
            admin.execute("grant pg_read_all_stats to projector_cdc")
    assert entry["severity"] == "warning"


def test_a_slot_that_was_dropped_heals_by_itself_and_doctor_says_so(settings: Settings) -> None:
    with psycopg.connect(settings.admin_url, autocommit=True) as admin:
        admin.execute(
            "insert into mana_ai.cdc_sources (generation, system_identifier, slot_name, consistent_lsn)"
            " select 1, system_identifier::text, %s, '0/1' from pg_control_system()",
            [settings.slot_name],
        )
        entry = found(settings, "was dropped")
        assert entry["severity"] == "warning"
        assert "publishes it out of the table" in entry["why"]
        admin.execute("update mana_ai.cdc_sources set system_identifier = '1'")
        entry = found(settings, "the topics hold the log of 1")
        assert entry["severity"] == "error"
        assert "--adopt" in entry["remedy"]


def test_what_a_remedy_says_mends_the_finding(settings: Settings) -> None:
    slot = f"a replication slot {settings.slot_name} exists that this installation did not create"
    apps = "sends apps that PROJECTOR_APPS does not name: "
    one = settings.model_copy(update={"apps": ("ai",)})
    with psycopg.connect(settings.admin_url, autocommit=True) as admin:
        admin.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [settings.slot_name])
        setting, _, command = found(one, slot)["remedy"].partition(", or drop it: ")
        assert setting == f"set PROJECTOR_SLOT_NAME={settings.slot_name}_2"
        named = found(one, apps)["remedy"].partition("PROJECTOR_APPS=")[2]
        admin.execute(command)
    left = findings(run(one, "doctor", "--json", PROJECTOR_APPS=named))
    assert not [what for what in left if slot in what or apps in what]


def test_a_slot_that_holds_much_wal_is_told_with_its_holder(settings: Settings) -> None:
    with psycopg.connect(settings.admin_url, autocommit=True) as admin:
        admin.execute(
            "insert into mana_ai.cdc_sources (generation, system_identifier, slot_name, consistent_lsn)"
            " select 1, system_identifier::text, %s, '0/1' from pg_control_system()",
            [settings.slot_name],
        )
        admin.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [settings.slot_name])
        admin.execute("select pg_logical_emit_message(false, 'noise', repeat('x', 300000))")
    entry = found(settings.model_copy(update={"slot_warn_bytes": 100_000}), "of WAL; held by: nobody reads the slot")
    assert "projector run cdc" in entry["remedy"]


async def test_topics_are_held_against_what_was_written_down_about_them(settings: Settings) -> None:
    await ensure_topics(settings)
    topics = Topics(settings.topic_prefix)
    ends = {topics.changes("ai"): [0, 0, 7, 0], topics.due: [0, 0, 0]}
    with psycopg.connect(settings.admin_url, autocommit=True) as admin:
        admin.execute(
            "insert into mana_ai.cdc_sources (generation, system_identifier, slot_name) values (1, '1', %s)",
            [settings.slot_name],
        )
        admin.execute(
            "insert into mana_ai.cdc_watermarks (generation, lsn, committed_at, horizon, ends)"
            " values (1, '0/1', now(), '3', %s)",
            [Jsonb(ends)],
        )
        admin.execute(
            "insert into mana_ai.stream_positions (view, cluster, topic, partition, next_offset, fold_version)"
            " values ('agents', %s, %s, 1, 3, 1), ('agents', 'another', %s, 0, 9, 1)",
            [await cluster_id(settings), topics.changes("ai"), topics.changes("ai")],
        )
    whats = findings(run(settings, "doctor", "--json"))
    assert f"topic {topics.due} has 4 partitions, it had 3 when the newest watermark was written" in whats
    assert f"{topics.changes('ai')}/2 ends at 0, the newest watermark says 7" in whats
    assert f"{topics.changes('ai')}/1 ends at 0, a position of view agents says 3" in whats
    assert not any(f"{topics.changes('ai')}/0" in what for what in whats)


def test_clocks_that_differ_are_told_with_the_direction(settings: Settings) -> None:
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        assert list(check_clock(conn)) == []
        [late] = check_clock(conn, lambda: time.time() - 60)
        [early] = check_clock(conn, lambda: time.time() + 60)
    assert "60.0 s behind the database's" in late.what
    assert "60.0 s ahead of the database's" in early.what


async def test_the_broker_is_tried_and_its_clock_read_and_nothing_is_left_of_it(settings: Settings) -> None:
    assert await try_broker(settings) == []
    [late] = await try_broker(settings, lambda: time.time() - 60)
    assert "60.0 s behind the broker's" in late.what
    [refused] = await try_broker(settings.model_copy(update={"topic_replication_factor": 9}))
    assert (refused.severity, "replication factor" in refused.what.lower()) == ("warning", True)
    async with admin(settings) as client:
        assert not [topic for topic in await client.list_topics() if ".doctor." in topic]


async def test_a_topic_with_other_partitions_stops_doctor_and_stream(settings: Settings) -> None:
    await ensure_topics(settings)
    other = settings.model_copy(update={"topic_partitions": 3})
    done = run(other, "doctor", "--json")
    assert done.returncode == 1
    assert any("PROJECTOR_TOPIC_PARTITIONS says 3" in what for what in findings(done))
    stream = run(other, "run", "cdc")
    assert stream.returncode == 1
    assert "set PROJECTOR_TOPIC_PARTITIONS=4" in stream.stderr
    with psycopg.connect(settings.admin_url) as admin:  # nothing half-created
        slots = admin.execute("select from pg_replication_slots where slot_name = %s", [settings.slot_name])
        assert slots.fetchone() is None


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("database_url", SecretStr("postgresql://nobody@127.0.0.1:1/x"), "PROJECTOR_DATABASE_URL"),
        ("kafka_bootstrap_servers", "127.0.0.1:1", "PROJECTOR_KAFKA_BOOTSTRAP_SERVERS"),
    ],
)
def test_a_server_that_is_away_is_one_line_and_its_setting(
    settings: Settings, setting: str, value: object, told: str
) -> None:
    done = run(settings.model_copy(update={setting: value}), "doctor")
    assert done.returncode == 1
    assert told in done.stdout
    assert "Traceback" not in done.stderr


def test_dev_never_deletes_a_folder_that_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("six years of work")
    done = run(None, "dev", "--reset", "--yes", PROJECTOR_STATE_DIR=str(tmp_path))
    assert done.returncode == 2
    assert "holds no data of projector dev" in done.stderr
    assert (tmp_path / "thesis.txt").exists()
