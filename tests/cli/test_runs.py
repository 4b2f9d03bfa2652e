"""`projector runs`: the ledger as an operator meets it.

What only reads runs in this process, which is quicker; what sets up logging runs in one of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import orjson
import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from projector.cli.runs import parse_time
from projector.config import Settings
from projector.errors import ConfigError
from tests.cli.in_process import read
from tests.cli.test_servers import run
from tests.fixtures.settings import login_in

SECRET = "enc:1:c2VjcmV0\\/Zm9y+/=="
PRIVATE = "the diary of bertha"
DUE = datetime(2026, 6, 1, 10, tzinfo=UTC)
RUNNING = {"state": "running", "next_attempt_at": None, "lease_owner": "host:1:ab", "started_at": DUE}
CANCELLED = {"state": "cancelled", "decision": "d", "reason": "r", "next_attempt_at": None}
PLAN = {
    "summary": f"about {PRIVATE}",
    "steps": [
        {"toolName": "create_task", "params": {"title": PRIVATE, "wrappedKey": "a key"}},
        {"toolName": PRIVATE, "params": {}},
    ],
    "stopReason": "assistant-stop",
    "rounds": 2,
    "rejectedCalls": 1,
}
BRIEF = {"version": 1, "model": "m/1", "maxRounds": 5, "tools": ["create_task"], "system": SECRET, "user": PRIVATE}
LLM = {
    "content": PRIVATE,
    "toolCalls": [
        {"id": "c", "name": name, "arguments": {"t": SECRET}, "raw": ""} for name in ("create_task", PRIVATE)
    ],
    "finishReason": PRIVATE,
    "model": "m/1",
}


class Book:
    """The ledger with runs in it. Number n has an id that ends with n, and was opened n hours ago."""

    def __init__(self, settings: Settings, admin: psycopg.Connection[Any], capsys: pytest.CaptureFixture[str]) -> None:
        self.settings = settings
        self.admin = admin
        self.capsys = capsys

    def add(self, number: int, **columns: Any) -> str:
        run_id = str(UUID(int=number))
        opened = datetime.now(UTC) - timedelta(hours=number)
        identity = {"run_id": run_id, "iteration_id": run_id, "user_id": "u1", "mission_id": f"m{number}"}
        columns = identity | {"agent_id": "a1", "due_at": DUE, "created_at": opened} | columns
        values = [Jsonb(value) if isinstance(value, dict) else value for value in columns.values()]
        self.admin.execute(
            sql.SQL("insert into mana_ai.mission_runs ({}) values ({})").format(
                sql.SQL(", ").join(map(sql.Identifier, columns)), sql.SQL(", ").join(sql.Placeholder() * len(columns))
            ),
            values,
        )
        return run_id

    def add_step(self, run_id: str, seq: int, kind: str, response: dict[str, Any], prompt: int = 0) -> None:
        self.admin.execute(
            "insert into mana_ai.run_steps (run_id, seq, user_id, kind, request_digest, response, prompt_tokens)"
            " values (%s, %s, 'u1', %s, sha256('asked'), %s, %s)",
            [run_id, seq, kind, Jsonb(response), prompt],
        )

    def states(self) -> dict[int, str]:
        rows = self.admin.execute("select run_id, state from mana_ai.mission_runs").fetchall()
        return {run_id.int: state for run_id, state in rows}

    def read(self, *words: str, status: int = 0) -> str:
        """What the command prints, on stderr when it fails."""
        return read(self.settings, self.capsys, "runs", *words, status=status)

    def listed(self, *words: str) -> list[int]:
        return [UUID(one["run_id"]).int for one in parse(self.read("list", *words, "--json"))]

    def act(self, *words: str, status: int = 0) -> list[tuple[int, str | None, str]]:
        done = run(self.settings, "runs", *words, "--json")
        assert done.returncode == status, done.stdout + done.stderr
        return [(UUID(one["run_id"]).int, one["before"], one["outcome"]) for one in parse(done.stdout)]


def parse(lines: str) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in lines.splitlines()]


@pytest.fixture
def book(settings: Settings, capsys: pytest.CaptureFixture[str]) -> Iterator[Book]:
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        yield Book(settings, conn, capsys)


def test_runs_are_listed_by_filters_the_newest_first_and_counted(book: Book) -> None:
    for number in (3, 1, 2):
        book.add(number, user_id=f"u{number % 2}")
    held = book.add(4, state="held", decision="skipped-paused", reason="the agent is \x1bpaused", attempts=1)
    book.add(5, **RUNNING, lease_until=DUE, prompt_tokens=1200, completion_tokens=34)
    assert book.listed() == [1, 2, 3, 4, 5]
    assert book.listed("--limit", "2", "--after", str(UUID(int=2))) == [3, 4]
    assert book.listed("--user", "u1", "--state", "due") == [1, 3]
    assert book.listed("--state", "held", "--state", "running") == [4, 5]
    assert book.listed("--mission", "m2") == [2]
    assert book.listed("--decision", "skipped-paused") == [4]
    assert book.listed("--since", "150m") == [1, 2]
    counted = [tuple(one.values()) for one in parse(book.read("list", "--count", "--json"))]
    assert counted == [("due", 3), ("held", 1), ("running", 1)]
    told = book.read("list", "--state", "held")
    assert f"{held} held      skipped-paused: the agent is \\x1bpaused" in told
    assert "user u1, mission m4, due 2026-06-01T10:00:00Z, 1 attempt, 0 tokens" in told
    assert f"--after {UUID(int=1)}" in book.read("list", "--limit", "1")
    [working] = parse(book.read("list", "--state", "running", "--json"))
    assert (working["lease_owner"], working["lease_expired"], working["prompt_tokens"]) == ("host:1:ab", True, 1200)


def test_a_run_is_shown_without_what_its_user_wrote_unless_that_is_asked_for(book: Book) -> None:
    planned = {"state": "cancelled", "decision": "mission-gone", "reason": "the mission was deleted", "started_at": DUE}
    run_id = book.add(1, **planned, plan=PLAN, planned_at=DUE, brief=BRIEF, next_attempt_at=None)
    book.add_step(run_id, 1, "llm", LLM, 1234)
    book.add_step(run_id, 2, "tool", {"success": False, "message": PRIVATE})
    for told in (book.read("show", run_id), book.read("show", run_id, "--json")):
        assert not {word for word in (PRIVATE, "c2VjcmV0", "a key") if word in told}
    told = book.read("show", run_id)
    assert "cancelled mission-gone: the mission was deleted" in told
    assert f"written   -, iteration {run_id}, change -" in told
    assert "now       it does not come back by itself" in told
    assert '"tools":["create_task","unknown"]' in told
    assert f"1,234 +      0 tokens, asked {sha256(b'asked').hexdigest()[:16]}: " in told
    [shown] = parse(book.read("show", run_id, "--json"))
    first, second = shown["steps"]
    assert (first["kind"], first["request_digest"]) == ("llm", sha256(b"asked").hexdigest())
    assert first["answer"] == {
        "calls": ["create_task", "unknown"],
        "finishReason": "unknown",
        "bytes": len(orjson.dumps(LLM)),
    }
    assert (second["kind"], second["answer"]["success"]) == ("tool", False)
    sizes = {"system_bytes": len(SECRET), "user_bytes": len(PRIVATE)}
    digests = {f"{name}Sha256": sha256(BRIEF[name].encode()).hexdigest() for name in ("system", "user")}
    assert shown["brief"] == {"model": "m/1", "maxRounds": 5, "tools": 1} | sizes | digests
    with login_in(book.settings, "projector_planner", "projector_content") as of_reader:
        [whole] = parse(read(of_reader, book.capsys, "runs", "show", run_id, "--content", "--json"))
    assert (whole["plan"]["summary"], whole["brief"]["user"]) == (f"about {PRIVATE}", PRIVATE)
    assert whole["steps"][0]["answer"]["content"] == PRIVATE
    assert whole["plan"]["steps"][0]["params"]["wrappedKey"] == "(redacted, 5 bytes)"
    assert "c2VjcmV0" not in orjson.dumps(whole).decode()


def test_it_is_told_what_happens_next(book: Book) -> None:
    book.admin.execute(
        "insert into mana_ai.mission_snapshots_1 (user_id, mission_id, status, next_run_at, deleted, complete, source,"
        " source_lsn, last_applied_at, record, state)"
        " values ('u1', 'm1', 'active', %s, false, true, 1, '0/1', now(), '{}', '{}')",
        [DUE],
    )
    later = DUE.replace(year=2999)
    expected: list[tuple[dict[str, Any], str]] = [
        ({}, "a worker takes it, from 2"),
        (RUNNING | {"lease_until": DUE}, "host:1:ab, ran out 2026-06-01T10:00:00Z, last sign of life "),
        (RUNNING | {"lease_until": DUE}, "a worker takes it over"),
        (RUNNING | {"lease_until": later}, "a worker is at it"),
        ({"state": "failed", "reason": "r", "next_attempt_at": later}, "opened again from 2999-06-01T10:00:00Z if"),
        (CANCELLED, "its mission stands still at this due time"),
    ]
    for columns, told in expected:
        shown = book.read("show", book.add(1, **columns))
        assert told in shown
        assert "mission   active, next run at 2026-06-01T10:00:00Z" in shown
        book.admin.execute("delete from mana_ai.mission_runs")


def test_runs_are_retried_by_id_or_by_filter_and_those_that_cannot_be_are_told(book: Book) -> None:
    for number, state in enumerate(("held", "failed", "cancelled"), start=1):
        book.add(number, state=state, decision="d", reason="r", next_attempt_at=DUE.replace(year=2999))
    book.add(4, **RUNNING, lease_until=DUE.replace(year=2999), mission_id="busy", due_at=DUE + timedelta(hours=1))
    book.add(5, state="failed", decision="d", reason="r", mission_id="busy")
    assert book.act("retry", str(UUID(int=4)), str(UUID(int=5)), str(UUID(int=99)), status=1) == [
        (4, "running", "refused"),
        (5, "failed", "refused"),
        (99, None, "unknown"),
    ]
    # The failed run of the busy mission is not its latest.
    assert book.act("retry", "--decision", "d") == [
        (n, s, "retried") for n, s in ((1, "held"), (2, "failed"), (3, "cancelled"))
    ]
    assert book.states() == {1: "due", 2: "due", 3: "due", 4: "running", 5: "failed"}


def test_runs_are_cancelled_only_when_confirmed_and_the_log_says_by_whom(book: Book) -> None:
    book.add(1)
    book.add(2, **RUNNING, lease_until=DUE)
    book.add(3, state="failed", reason="r")
    refused = book.read("cancel", "--user", "u1", status=2)
    assert "2 runs were not cancelled: --yes is missing" in refused
    assert "1 due, 1 running: they would end" in refused
    assert book.states() == {1: "due", 2: "running", 3: "failed"}
    done = run(book.settings, "runs", "cancel", "--user", "u1", "--yes", LOGNAME="olga", PROJECTOR_LOG_FORMAT="json")
    assert done.returncode == 0, done.stderr
    assert "done: 2 cancelled" in done.stdout
    assert "its worker stops when it next renews its lease" in done.stdout
    said = [orjson.loads(line) for line in done.stderr.splitlines()]
    assert [(UUID(line["run"]).int, line["by"], line["before"]) for line in said] == [
        (1, "olga", "due"),
        (2, "olga", "running"),
    ]
    assert book.states() == {1: "cancelled", 2: "cancelled", 3: "failed"}
    assert book.listed("--decision", "cancelled-by-hand") == [1, 2]


def test_old_runs_are_pruned_by_hand_only_when_confirmed(book: Book) -> None:
    old = CANCELLED | {"updated_at": DUE - timedelta(days=4000)}
    for number in (1, 2):
        book.add(number, **old, due_at=DUE - timedelta(days=number))
    book.add(3, updated_at=DUE - timedelta(days=4000))
    assert "2 runs older than " in book.read("prune", status=2)
    assert "0 rows were not deleted" in book.read("prune", "--before", "5000d", status=2)
    assert len(book.states()) == 3
    [told] = parse(book.read("prune", "--before", "3000d", "--yes", "--json"))
    assert told == {"kind": "runs", "deleted": 2, "of": 2}
    assert book.states() == {3: "due"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("retry",), "no runs are named"),
        (("cancel", "--yes"), "no runs are named"),
        (("show", "seven"), "'seven' is no id of a run"),
        (("show", str(UUID(int=7))), f"there is no run {UUID(int=7)}"),
        (("list", "--after", str(UUID(int=7))), f"there is no run {UUID(int=7)}"),
        (("list", "--state", "dreaming"), "there is no state 'dreaming'"),
        (("list", "--since", "yesterday"), "'yesterday' is no time"),
    ],
)
def test_what_names_nothing_is_refused(book: Book, words: tuple[str, ...], told: str) -> None:
    assert told in book.read(*words, status=2)


def test_a_time_is_an_instant_or_how_long_ago_it_was() -> None:
    assert parse_time("2026-06-01T10:00:00Z") == DUE
    assert timedelta(hours=47) < datetime.now(UTC) - parse_time("2d") < timedelta(hours=49)
    with pytest.raises(ConfigError):
        parse_time("2 weeks")
