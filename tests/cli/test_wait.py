from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import NamedTuple

import orjson
import pytest

from projector.errors import ConfigError, NotReachedError
from projector.log.place import lsn_text
from projector.sql.connection import connect
from projector.views.declared import AGENTS, MISSIONS, VIEWS
from projector.views.wait import wait_for_lsn, wal_end
from tests.views.log import open_log, row, running


class Done(NamedTuple):
    status: int
    lines: list[str]
    error: str


@pytest.fixture
async def log(settings):
    async with open_log(settings) as opened:
        await opened.make_watermarks()
        yield opened


@pytest.fixture
async def reader(settings):
    async with await connect(settings, "projector_reader") as conn:
        yield conn


async def projector(settings, *words: str) -> Done:
    outer = {name: value for name, value in os.environ.items() if not name.startswith("PROJECTOR_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "projector", *words),
        env={**outer, **settings.environment()},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return Done(process.returncode, out.decode().splitlines(), error.decode())


async def test_a_script_writes_and_waits_and_then_reads_what_it_wrote(log, reader):
    async with running(log.settings):
        await log.write([row("insert", "m1", 1, {"title": "t"})])
        written, _ = await wal_end(reader)
        waiting = asyncio.create_task(projector(log.settings, "wait", "--json"))
        while not waiting.done():
            # As the stream does when it runs dry: some LSN before the one wanted, then one beyond.
            await log.watermark((await wal_end(reader))[0], time.time())
            await asyncio.sleep(0.1)
        done = await waiting
        assert (done.status, done.error) == (0, "")
        told = [orjson.loads(line) for line in done.lines]
        assert [one["view"] for one in told] == list(VIEWS)
        assert all(one["seconds"] < 30 for one in told)
        rows = await log.admin.execute("select record from mana_ai.mission_snapshots")
        assert await rows.fetchall() == [({"title": "t"},)]
        named = await projector(log.settings, "wait", "--lsn", lsn_text(written), "--view", "agents")
        assert (named.status, named.error) == (0, "")
        [line] = named.lines
        assert line.startswith(f"agents     has applied {lsn_text(written)} after ")


async def test_when_time_is_up_the_stage_that_is_behind_is_named(log, reader):
    lsn, _ = await wal_end(reader)
    nothing = await projector(log.settings, "wait", "--timeout", "0.3")
    assert (nothing.status, nothing.lines) == (1, [])
    assert "has no watermark of this server" in nothing.error
    assert "projector run cdc" in nothing.error
    await log.watermark(lsn - 8, time.time())
    with pytest.raises(NotReachedError, match=f"the topics go up to {lsn_text(lsn - 8)}, not {lsn_text(lsn)}"):
        await wait_for_lsn(log.settings, reader, MISSIONS, lsn, 0.3)
    await log.write([row("insert", "m1", 1, {"title": "t"})])
    await log.watermark(lsn, time.time())
    late = await projector(log.settings, "wait", "--lsn", lsn_text(lsn), "--timeout", "1", "--view", "missions")
    [(topic, partition)] = log.ends
    assert late.status == 1
    assert f"the topics go up to {lsn_text(lsn)}, but after " in late.error
    assert f"view missions is at offset 0 of {topic}-{partition}, not 1" in late.error
    assert "projector run views" in late.error


async def test_a_watermark_of_an_earlier_source_says_nothing_about_this_server(log, reader):
    await log.admin.execute(
        "insert into mana_ai.cdc_sources (generation, system_identifier, slot_name) values (1, 'a', 's'), (2, 'b', 's')"
    )
    lsn, _ = await wal_end(reader)
    await log.watermark(lsn + 0x1000000, time.time(), source=1)
    with pytest.raises(NotReachedError, match="no watermark of this server"):
        await wait_for_lsn(log.settings, reader, MISSIONS, lsn, 0.5)
    await log.watermark(lsn, time.time(), source=2)
    await wait_for_lsn(log.settings, reader, MISSIONS, lsn, 5)


async def test_only_the_topics_of_the_view_count(log, reader):
    async with running(log.settings):
        await log.caught_up()
        lsn, _ = await wal_end(reader)
        ends = log.all_ends()
        [notes] = [topic for topic in ends if topic.endswith(".sync_changes.notes")]
        ends[notes][0] += 1000
        await log.watermark(lsn, time.time(), ends)
        await wait_for_lsn(log.settings, reader, AGENTS, lsn, 5)
        del ends[next(topic for topic in ends if topic.endswith(".sync_changes.ai"))]
        await log.watermark(lsn, time.time(), ends)
        with pytest.raises(NotReachedError, match="which the stream does not publish"):
            await wait_for_lsn(log.settings, reader, AGENTS, lsn, 5)


async def test_an_lsn_that_the_server_has_not_come_to_is_refused_at_once(log, reader):
    lsn, _ = await wal_end(reader)
    started = time.monotonic()
    with pytest.raises(ConfigError, match="ahead of the server"):
        await wait_for_lsn(log.settings, reader, MISSIONS, lsn + (1 << 40), 30)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("words", [["--lsn", "16B3748"], ["--lsn", "0/16B374800"], ["--lsn", "0/0x10"]])
async def test_what_is_no_lsn_is_named_with_an_example(settings, words):
    done = await projector(settings, "wait", *words)
    assert done.status == 2
    assert f"--lsn {words[1]!r} is no LSN" in done.error
    assert "0/16B3748" in done.error


async def test_an_unknown_view_is_answered_with_those_there_are(settings):
    done = await projector(settings, "wait", "--view", "goals")
    assert done.status == 2
    assert ", ".join(VIEWS) in done.error
