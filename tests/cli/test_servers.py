"""The command line as an operator meets it: a process, its output, its exit status."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import orjson
import psycopg
import pytest
from psycopg import conninfo
from pydantic import SecretStr

from projector.cdc.topics import ensure_topics
from projector.config import Settings
from projector.embedded.servers import Servers
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


def test_a_superuser_is_refused_as_login_of_the_streams(settings: Settings) -> None:
    powerful = settings.model_copy(update={"database_url": settings.admin_database_url})
    done = run(powerful, "migrate")
    assert done.returncode == 1
    assert "is a superuser" in done.stderr
    assert "not bound by row-level security" in run(powerful, "doctor").stdout


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
