from __future__ import annotations

import asyncio
import re

import orjson
import pytest
from typer.testing import CliRunner

from projector.cli import app
from projector.cli.explain import identity_of
from projector.errors import ConfigError, ProjectorError, UnknownRecordError
from projector.views.asof import parse_as_of
from projector.views.declared import MISSIONS
from tests.cli.test_wait import projector
from tests.views.log import at, open_log, row, running
from tests.views.test_explain import cut

GRANT = {"wrappedKey": "c2VjcmV0", "expiresAt": at(500), "derivation": {"version": "v1", "missionId": "m1"}}
SECRET = "enc:1:aXY=.Y2lwaGVy"
MISSION = ("mission", "u1", "m1")
NOTE = "1 of 2 changes from sync_changes, before the topic's beginning (offset 1): no LSN, no offset"


@pytest.fixture
async def log(settings):
    async with open_log(settings) as opened:
        yield opened


@pytest.fixture
def told(log, monkeypatch):
    """Runs a command of this process, and gives what it printed; raises its error."""
    for name, value in log.settings.environment().items():
        monkeypatch.setenv(name, value)

    async def run(*words: str) -> str:
        result = await asyncio.to_thread(CliRunner().invoke, app, words)
        if isinstance(result.exception, ProjectorError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def by(name):
    return {"actor": {"kind": "user", "principalId": name, "displayName": f"{name}'s\x1b[31m phone"}, "origin": "user"}


async def test_explain_names_winner_and_loser_and_says_that_the_row_is_the_fold(log, told):
    rows = [
        row("insert", "m1", 1, {"title": "t", "note": SECRET, "grant": GRANT, "grant.wrappedKey": "bGl0ZXJhbA=="}),
        row("update", "m1", 5, {"title": "phone", "tags": [SECRET]}, **by("anna")),
        row("update", "m1", 6, {"title": "late"}, stamp=4, **by("berta")),
        row("update", "m1", 7, {"title": "unstamped"}) | {"field_meta": {}},
        row("update", "m1", 8, {}) | {"data": [SECRET]},
        row("update", "m1", 9, {"title": "erased text"}),
    ]
    await log.write(rows)
    await log.erase(rows.pop())
    async with running(log.settings):
        await log.caught_up(MISSIONS)

    text = await told("explain", *MISSION, "--json")
    found = orjson.loads(text)
    fields = {".".join(one["path"]): one for one in found["fields"]}
    title = fields["title"]
    assert (title["value"], title["stamp"], title["beaten_more"]) == ("phone", "2026-06-01T10:00:05Z", 0)
    assert {
        name: title["change"][name] for name in ("id", "lsn", "source", "ord", "offset", "client_id", "origin")
    } == {
        "id": rows[1]["id"],
        "lsn": "0/1000200",
        "source": 1,
        "ord": 0,
        "offset": 1,
        "client_id": "c1",
        "origin": "user",
    }
    assert [(lost["value"], lost["change"]["actor"]["principalId"]) for lost in title["beaten"]] == [
        ("late", "berta"),
        ("unstamped", "legacy:user"),
        ("t", "legacy:user"),
    ]
    assert (found["unstamped"][0]["path"], found["unstamped"][0]["value"]) == (["title"], "unstamped")
    assert (found["row"]["standing"], found["row"]["next_offset"], found["complete"]) == ("equal", 7, True)
    assert [letter["reason"] for letter in found["dead_letters"]] == ["data-not-object"]
    assert [one["by"] for one in found["erased"]] == ["erasure"]
    assert found["grant"]["issue"]["id"] == rows[0]["id"]

    shown = await told("explain", *MISSION)
    assert "the serving row of view missions equals this fold" in shown
    assert "dead letter: data-not-object" in shown
    assert shown.count(rows[1]["id"]) == 2  # the title and the tags
    for output in shown, text:
        assert "enc:1:… (19 bytes)" in output
        assert "(redacted, 8 bytes)" in re.sub(r"\s+", " ", output)
        for hidden in (SECRET, GRANT["wrappedKey"], "bGl0ZXJhbA==", "erased text", "\x1b"):
            assert hidden not in output

    [narrow] = orjson.loads(await told("explain", *MISSION, "--field", "grant", "--json"))["fields"]
    assert narrow["path"] == ["grant"]
    with pytest.raises(ConfigError, match="no change of the record writes 'titel'"):
        await told("explain", *MISSION, "--field", "titel")


async def test_a_delete_that_was_passed_over_is_named_with_the_row_that_made_the_record(log, told):
    made = row("insert", "m1", 2, {"title": "t", "createdAt": at(2)})
    early = row("delete", "m1", 1, {"deletedAt": at(9)})
    await log.write([made, early])
    async with running(log.settings):
        await log.caught_up(MISSIONS)
    found = orjson.loads(await told("explain", *MISSION, "--json"))
    assert (found["deleted"], found["restored"], found["deleted_by"]) == (False, False, None)
    assert (found["made"]["id"], [over["id"] for over in found["passed_over"]]) == (made["id"], [early["id"]])
    text = await told("explain", *MISSION)
    assert re.search(f"delete passed over: .*{early['id']}", text)
    assert re.search(f"made: .*{made['id']}", text)


async def test_show_gives_the_serving_row_or_the_record_as_it_was(log, told):
    data = {"title": "t", "grant": GRANT, "note": SECRET}
    await log.write([row("insert", "m1", 1, data), row("update", "m1", 2, {"title": "u"})])
    with pytest.raises(UnknownRecordError, match="has no row"):
        await told("show", *MISSION)
    async with running(log.settings):
        await log.caught_up(MISSIONS)
    now = orjson.loads(await told("show", *MISSION, "--json"))
    assert (now["record"]["title"], now["lsn"], now["position"]["next_offset"]) == ("u", "0/1000200", 2)
    assert now["record"]["grant"]["wrappedKey"] == now["grant"]["wrappedKey"] == "(redacted, 8 bytes)"
    full = ("record", "u1", "ai", "aiMissions", "m1")
    for moment in ("1", "0/1000100", "2026-06-01T10:00:01Z"):
        was = orjson.loads(await told("show", *full, "--as-of", moment, "--json"))
        assert (was["record"]["title"], was["changes"], was["of"]) == ("t", 1, 2)
    assert "the record was not there" in await told("show", *MISSION, "--as-of", "0")
    assert '"enc:1:… (19 bytes)"' in await told("show", *MISSION)


async def test_of_a_cut_topic_it_is_said_what_comes_from_the_table(log, told):
    await log.write([row("insert", "m1", 1, {"title": "t"}), row("update", "m1", 2, {"title": "u"})])
    await cut(log, 1)
    shown = await told("explain", *MISSION)
    assert NOTE in shown
    was = orjson.loads(await told("show", *MISSION, "--as-of", "1", "--json"))
    assert (was["record"]["title"], was["notes"]) == ("t", [NOTE])


async def test_a_record_that_nobody_knows_is_an_error_with_a_remedy(log):
    done = await projector(log.settings, "explain", "agent", "u1", "a1")
    assert (done.status, done.lines) == (1, [])
    assert "error: there is no record u1/ai/agents/a1" in done.error
    assert "Check user, app, table and record id" in done.error


@pytest.mark.parametrize("text", ["yesterday", "2026-06-01T10:00:00", "-1", "0/16B3748/1", "²"])
def test_what_is_no_time_no_offset_and_no_lsn_is_refused(text):
    with pytest.raises(ConfigError):
        parse_as_of(text)


@pytest.mark.parametrize("words", [["mission", "u1"], ["record", "u1", "ai", "t"], ["thing", "u1", "m1"]])
def test_a_key_with_a_part_too_few_names_no_record(words):
    with pytest.raises(ConfigError, match="names no record"):
        identity_of(words[0], words[1:])
