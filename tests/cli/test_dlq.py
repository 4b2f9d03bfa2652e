"""`projector dlq`: letters to look at, to try again and to give up, as an operator meets them.

What only reads runs in this process, which is quicker; what sets up logging runs in one of its own.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import orjson
import psycopg
import pytest
from psycopg.types.json import Jsonb

from projector.config import Settings
from tests.cli.in_process import read
from tests.cli.test_servers import run

SECRET = "enc:1:c2VjcmV0\\/Zm9y+/=="
FIRST = orjson.dumps({"title": "t"})


class Shelf:
    """Letters as the engine and the stream store them; ids count from 1 in each part."""

    def __init__(self, settings: Settings, admin: psycopg.Connection[Any], capsys: pytest.CaptureFixture[str]) -> None:
        self.settings = settings
        self.admin = admin
        self.capsys = capsys

    def add(self, view: str, reason: str, user: str, value: bytes | None = FIRST, **headers: str) -> None:
        self.admin.execute(
            'insert into mana_ai.dead_letters (view, cluster, topic, partition, "offset", source_place, user_id,'
            " change_id, reason, detail, key, value, headers, timestamp_ms)"
            " select %s, 'c', 't.sync_changes.ai', 0, count(*), '1:0/10:0', %s, '00000000-0000-0000-0000-000000000001',"
            " %s, 'why', %s, %s, %s, 1780308000000 from mana_ai.dead_letters",
            [view, user, reason, user.encode(), value, Jsonb(headers)],
        )

    def add_cdc(self, user: str, ord_: int, size: int = 9_000_000) -> None:
        self.admin.execute(
            "insert into mana_ai.cdc_dead_letters (source, lsn, ord, topic, change_id, user_id, size, reason)"
            " values (1, '0/20', %s, 't.sync_changes.ai', '00000000-0000-0000-0000-000000000002', %s, %s, 'too-large')",
            [ord_, user, size],
        )

    def read(self, *words: str, status: int = 0) -> str:
        """What the command prints, on stderr when it fails."""
        return read(self.settings, self.capsys, "dlq", *words, status=status)

    def listed(self, *words: str) -> list[str]:
        return [letter["id"] for letter in parse(self.read("list", *words, "--json"))]

    def run(self, *words: str, status: int = 0) -> list[dict[str, Any]]:
        done = run(self.settings, "dlq", *words, "--json")
        assert done.returncode == status, done.stdout + done.stderr
        return parse(done.stdout)


def parse(lines: str) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in lines.splitlines()]


@pytest.fixture
def shelf(settings: Settings, capsys: pytest.CaptureFixture[str]) -> Iterator[Shelf]:
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        yield Shelf(settings, conn, capsys)


def test_letters_are_listed_by_filters_page_by_page_and_counted(shelf: Shelf) -> None:
    for number in range(5):
        shelf.add("missions" if number % 2 else "records", f"r{number % 2}", f"u{number}")
    shelf.add_cdc("u1", 0)
    shelf.add_cdc("u9", 1)
    assert shelf.listed() == ["1", "2", "3", "4", "5", "cdc-1", "cdc-2"]
    assert shelf.listed("--limit", "4", "--after", "2") == ["3", "4", "5", "cdc-1"]
    assert shelf.listed("--after", "cdc-1") == ["cdc-2"]
    assert shelf.listed("--view", "missions") == ["2", "4"]
    assert shelf.listed("--user", "u1") == ["2", "cdc-1"]
    assert shelf.listed("--reason", "r0", "--part", "views") == ["1", "3", "5"]
    assert shelf.listed("--part", "cdc") == ["cdc-1", "cdc-2"]
    [first, *_] = parse(shelf.read("list", "--json"))
    assert (first["view"], first["topic"], first["partition"], first["offset"]) == (
        "records",
        "t.sync_changes.ai",
        0,
        0,
    )
    assert (first["place"], first["user_id"], first["attempts"], first["size"]) == ("1:0/10:0", "u0", 1, len(FIRST))
    assert 0 <= first["age_s"] < 60
    assert "value" not in first
    counts = [("missions", "r1", 2), ("records", "r0", 3), ("cdc", "too-large", 2)]
    assert [tuple(one.values()) for one in parse(shelf.read("list", "--count", "--json"))] == counts
    for_people = shelf.read("list", "--limit", "1")
    assert "t.sync_changes.ai-0 offset 0, place 1:0/10:0, user u0" in for_people
    assert "--after 1" in for_people


def test_a_letter_is_shown_whole_and_cannot_steer_the_terminal(shelf: Shelf) -> None:
    value = f'{{"title":"{SECRET}","note":"\x1b[2J\u202e'.encode() + b'\xff"' + b"x" * 70_000
    shelf.add("missions", "not-json", "u1\x1b", value, table="aiMissions", secret=SECRET)
    told = shelf.read("show", "1")
    assert "header    table: aiMissions" in told
    assert "a retry   skipped: view missions does not read" in told
    assert '{"title":"enc:1:… (24 bytes)","note":"\\x1b[2J\\u202e\\xff"xxx' in told
    assert "more bytes: --full shows them" in told
    assert len(told) < 68_000
    assert "c2VjcmV0" not in told
    assert "\x1b" not in told
    full = shelf.read("show", "1", "--full")
    assert "x" * 70_000 in full
    assert SECRET in full
    [shown] = parse(shelf.read("show", "1", "--json"))
    assert (shown["payload_encoding"], shown["payload_bytes"], shown["key"]) == ("escaped", len(value), "u1\x1b")
    assert shown["retry"]["outcome"] == "skipped"
    assert "c2VjcmV0" not in orjson.dumps(shown).decode()
    [shown] = parse(shelf.read("show", "1", "--full", "--json"))
    assert base64.b64decode(shown["payload"]) == value
    assert shown["headers"]["secret"] == SECRET


def test_a_change_that_no_topic_held_is_explained_instead_of_retried(shelf: Shelf) -> None:
    shelf.add_cdc("u1", 0)
    done = run(shelf.settings, "dlq", "retry", "--all")
    assert done.returncode == 1
    assert "9000000 bytes is in no topic, PROJECTOR_MAX_MESSAGE_BYTES is 8388608" in done.stdout
    assert "max.message.bytes" in done.stderr
    assert "projector run cdc" in done.stderr
    [shown] = parse(shelf.read("show", "cdc-1", "--json"))
    assert (shown["reason"], shown["size"], shown["in_log"]) == ("too-large", 9_000_000, False)
    assert shelf.listed() == ["cdc-1"]


def test_a_retry_tells_what_remains_and_a_rehearsal_is_no_failure(shelf: Shelf) -> None:
    shelf.add("missions", "not-json", "u1")
    [told] = shelf.run("retry", "1", "--dry-run")
    assert (told["id"], told["outcome"], told["dry_run"]) == ("1", "skipped", True)
    told = shelf.run("retry", "1", "77", status=1)
    outcomes = [(one["id"], one["outcome"], one["dry_run"]) for one in told]
    assert outcomes == [("1", "skipped", False), ("77", "gone", False)]


def test_letters_are_dropped_only_when_confirmed_and_the_log_says_by_whom(shelf: Shelf) -> None:
    for user in ("u1", "u2", "u3"):
        shelf.add("missions", "not-json", user, value=b"sensitive")
    shelf.add_cdc("u1", 0)
    asked = run(shelf.settings, "dlq", "drop", "--user", "u1")
    assert asked.returncode == 2
    assert "2 dead letters were not dropped: --yes is missing" in asked.stderr
    assert "1 missions/not-json, 1 cdc/too-large" in asked.stderr
    assert len(shelf.listed()) == 4
    done = run(shelf.settings, "dlq", "drop", "1", "cdc-1", "99", "--yes", LOGNAME="olga", PROJECTOR_LOG_FORMAT="json")
    assert done.returncode == 0, done.stderr
    assert "2 dead letters dropped" in done.stdout
    said = [orjson.loads(line) for line in done.stderr.splitlines()]
    assert [(line["by"], line["ids"], line["reasons"]) for line in said] == [
        ("olga", ["1"], ["not-json"]),
        ("olga", ["cdc-1"], ["too-large"]),
    ]
    assert all("timestamp" in line for line in said)
    assert "sensitive" not in done.stderr
    assert shelf.listed() == ["2", "3"]
    with psycopg.connect(shelf.settings.admin_url) as retrying:
        retrying.execute("select from mana_ai.dead_letters where id = 2 for update")
        assert [one["id"] for one in shelf.run("drop", "--all", "--yes")] == ["3"]
    assert shelf.listed() == ["2"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("retry",), "no dead letters are named"),
        (("drop", "--yes"), "no dead letters are named"),
        (("drop", "3", "--all", "--yes"), "--all goes with nothing else"),
        (("show", "seven"), "'seven' is no id"),
        (("show", "7"), "there is no dead letter 7"),
        (("list", "--view", "dreams"), "there is no view 'dreams'"),
        (("list", "--part", "planner"), "there is no part 'planner'"),
    ],
)
def test_what_names_nothing_is_refused(shelf: Shelf, words: tuple[str, ...], told: str) -> None:
    assert told in shelf.read(*words, status=2)
