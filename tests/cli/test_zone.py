"""`projector zone` as an operator meets it."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import psycopg
import pytest
from typer.testing import CliRunner

from projector.cli import app
from projector.config import Settings
from projector.errors import ConfigError, NotMigratedError
from tests.cli.test_servers import run

Zone = Callable[..., str]


@pytest.fixture
def zone(settings: Settings) -> Zone:
    """Runs a command of the group in this process, and returns what it prints; its errors are raised."""

    def command(*words: str, **environment: str) -> str:
        outcome = CliRunner().invoke(app, ["zone", *words], env=settings.environment() | environment)
        if isinstance(outcome.exception, Exception):
            raise outcome.exception
        return outcome.stdout

    return command


def stored(settings: Settings) -> list[tuple[str, str]]:
    with psycopg.connect(settings.admin_url) as conn:
        return conn.execute("select user_id, zone from mana_ai.user_zones order by 1").fetchall()


def test_a_zone_is_set_shown_listed_and_unset(zone: Zone, settings: Settings) -> None:
    assert zone("set", "u[1]", "America/New_York").startswith(
        "u[1]: America/New_York, before: Europe/Berlin (PROJECTOR_TIMEZONE); missions keep the time they have"
    )
    assert stored(settings) == [("u[1]", "America/New_York")]
    shown = orjson.loads(zone("show", "u[1]", "--json"))
    assert shown == {"user": "u[1]", "zone": "America/New_York", "own": True}
    assert zone("show", "u2", PROJECTOR_TIMEZONE="Asia/Kolkata") == "u2: Asia/Kolkata (PROJECTOR_TIMEZONE)\n"
    first, others = zone("list").splitlines()
    assert first.startswith("America/New_York ")
    assert first.endswith("u[1]")
    assert others == "all others: Europe/Berlin (PROJECTOR_TIMEZONE)"
    unset = orjson.loads(zone("unset", "u[1]", "--json"))
    assert unset == {"user": "u[1]", "zone": "Europe/Berlin", "own": False, "before": "America/New_York"}
    assert stored(settings) == []
    assert zone("list") == "everybody: Europe/Berlin (PROJECTOR_TIMEZONE)\n"


def test_what_is_no_zone_or_no_user_is_refused_and_nothing_stored(zone: Zone, settings: Settings) -> None:
    done = run(settings, "zone", "set", "u1", "europe/Berlinn")
    assert done.returncode == 2
    assert "'europe/Berlinn' is no time zone" in done.stderr
    assert "Traceback" not in done.stderr
    for user, words in (("", "USER is empty"), ("u\udcff", "nobody's id"), ("u\0", "nobody's id")):
        with pytest.raises(ConfigError, match=words):
            zone("set", user, "Europe/Berlin")
    assert stored(settings) == []


def test_a_database_of_an_earlier_version_names_the_remedy(zone: Zone, settings: Settings) -> None:
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        conn.execute("delete from mana_ai.schema_migrations where number > 1")
    with pytest.raises(NotMigratedError, match="lacks migration"):
        zone("list")
