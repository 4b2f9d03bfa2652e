"""`projector rebuild`: what each command says and how it ends."""

from __future__ import annotations

import orjson
import pytest

from tests.cli.test_wait import projector
from tests.views.log import open_log, row, running


@pytest.fixture
async def log(settings):
    async with open_log(settings) as opened:
        await opened.write([row("insert", f"m{n}", n, {"state": "active"}, user_id=f"u{n}") for n in range(5)])
        yield opened


async def test_the_way_of_a_rebuild_by_its_commands(log):
    async def rebuild(*words):
        return await projector(log.settings, "rebuild", *words)

    async with running(log.settings):
        await log.caught_up()
        done = await rebuild("promote", "missions")
        assert (done.status, "projector rebuild start" in done.error) == (1, True)

        done = await rebuild("start", "missions", "--json")
        assert done.status == 0
        told = [orjson.loads(line) for line in done.lines]
        assert (told[-2]["event"], told[-2]["events"], told[-2]["eta_s"]) == ("progress", 5, 0.0)
        status = {name: told[-1][name] for name in ("event", "view", "serving", "state", "source", "events", "total")}
        expected = {"event": "status", "view": "missions", "serving": 1, "state": "ready", "source": "topics"}
        assert status == expected | {"events": 5, "total": 5}

        done = await rebuild("start", "missions")
        assert (done.status, "holds a finished rebuild" in done.error, "--yes" in done.error) == (2, True, True)

        await log.admin.execute("update mana_ai.mission_snapshots_1 set status = 'paused' where mission_id = 'm3'")
        done = await rebuild("diff", "missions")
        assert done.status == 1
        assert done.lines[:2] == [
            "missions           5 rows      1 differences",
            "  u3/m3 status: serving paused, rebuilt active",
        ]
        assert (await rebuild("promote", "missions")).status == 1
        done = await rebuild("promote", "missions", "--accept-differences", "--json")
        assert [orjson.loads(line)["event"] for line in done.lines] == ["compared", "promoted"]

        lines = (await rebuild("status")).lines
        assert lines[0] == "agents     serving 1, spare 2: empty"
        assert lines[2].startswith("missions   serving 2, spare 1: what served before the promotion at ")
        assert (await rebuild("rollback", "missions")).lines[-1].endswith("serves from the rows that served before")
        done = await rebuild("cancel", "missions")
        assert (done.status, "what served before the last promotion" in done.error) == (2, True)
        assert (await rebuild("cancel", "missions", "--yes")).lines == ["missions   spare generation emptied"]
        assert (await rebuild("cancel", "missions")).lines == ["missions   nothing to cancel"]
        done = await rebuild("start", "missons")
        assert (done.status, "there is no view 'missons'" in done.error) == (2, True)
