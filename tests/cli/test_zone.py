"""`projector zone` as an operator meets it."""

from __future__ import annotations

import orjson
import psycopg
import pytest

from projector.cli.zone import set_
from projector.config import Settings
from projector.errors import ConfigError
from tests.cli.test_servers import run


def stored(settings: Settings) -> list[tuple[str, str]]:
    with psycopg.connect(settings.admin_url) as conn:
        return conn.execute("select user_id, zone from mana_ai.user_zones order by 1").fetchall()


def test_a_zone_is_set_shown_listed_and_unset(settings: Settings) -> None:
    assert run(settings, "zone", "set", "u[1]", "America/New_York").stdout.startswith(
        "u[1]: America/New_York, before: Europe/Berlin (PROJECTOR_TIMEZONE); missions keep the time they have"
    )
    assert stored(settings) == [("u[1]", "America/New_York")]
    other = run(settings, "zone", "show", "u2", PROJECTOR_TIMEZONE="Asia/Kolkata")
    assert other.stdout == "u2: Asia/Kolkata (PROJECTOR_TIMEZONE)\n"
    lines = run(settings, "zone", "list").stdout.splitlines()
    assert lines[0].startswith("America/New_York ")
    assert lines[0].endswith("u[1]")
    assert lines[1] == "all others: Europe/Berlin (PROJECTOR_TIMEZONE)"
    done = run(settings, "zone", "unset", "u[1]", "--json")
    assert orjson.loads(done.stdout) == {
        "user": "u[1]",
        "zone": "Europe/Berlin",
        "own": False,
        "before": "America/New_York",
    }
    assert stored(settings) == []


def test_what_is_no_zone_or_no_user_is_refused_and_nothing_stored(settings: Settings) -> None:
    done = run(settings, "zone", "set", "u1", "europe/Berlinn")
    assert done.returncode == 2
    assert "'europe/Berlinn' is no time zone" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(ConfigError, match="USER is empty"):
        set_("", "Europe/Berlin")
    with pytest.raises(ConfigError, match="nobody's id"):
        set_("u\udcff", "Europe/Berlin")
    assert stored(settings) == []


def test_a_database_of_an_earlier_version_names_the_remedy(settings: Settings) -> None:
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        conn.execute("drop table mana_ai.user_zones")
    done = run(settings, "zone", "list")
    assert done.returncode == 1
    assert "projector migrate" in done.stderr
