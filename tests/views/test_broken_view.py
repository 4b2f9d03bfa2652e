from __future__ import annotations

import asyncio
from dataclasses import replace

import psycopg
import pytest
from structlog.testing import capture_logs

import streams.views
from projector.views.declared import AGENTS, MISSIONS, RECORDS, Column
from tests.views.log import row, running


def fail(record):
    raise ZeroDivisionError(record.fields["title"])


BROKEN = replace(AGENTS, columns=(Column("status", "text", fail),))


async def work_beside_it(log):
    async with running(log.settings):
        await log.caught_up(MISSIONS, RECORDS)
        await log.write([row("insert", "m1", 2, {"title": "t"}), row("insert", "a2", 3, {}, table="agents")])
        await log.caught_up(MISSIONS, RECORDS)


async def test_a_view_with_a_bug_stops_alone_and_lays_nothing_aside(log, monkeypatch):
    monkeypatch.setattr(streams.views, "VIEWS", {"missions": MISSIONS, "agents": BROKEN, "records": RECORDS})
    await log.write([row("insert", "a1", 1, {"title": "t"}, table="agents")])
    with capture_logs() as logs, pytest.raises(ZeroDivisionError):
        await work_beside_it(log)
    [stopped] = [line for line in logs if line["event"] == "view stopped"]
    assert stopped["view"] == "agents"
    assert stopped["exc_info"]
    # It stands before what it stumbled over, and nothing of that counts as handled.
    positions = await log.admin.execute(
        "select view, max(next_offset)::int from mana_ai.stream_positions group by view order by view"
    )
    assert await positions.fetchall() == [("agents", 0), ("missions", 3), ("records", 3)]
    assert await (await log.admin.execute("select from mana_ai.dead_letters")).fetchall() == []
    monkeypatch.undo()
    async with running(log.settings):  # mended
        await log.caught_up()
    shown = await log.admin.execute("select agent_id from mana_ai.agent_snapshots order by 1")
    assert await shown.fetchall() == [("a1",), ("a2",)]


async def test_what_the_server_can_never_store_stops_a_view_that_would_begin_again_for_ever():
    async def session():
        raise psycopg.errors.ProgramLimitExceeded("index row size 2720 exceeds btree version 4 maximum 2704")

    async with asyncio.timeout(5):
        error = await streams.views.keep_up("missions", session, asyncio.Event())
    assert isinstance(error, psycopg.errors.ProgramLimitExceeded)
