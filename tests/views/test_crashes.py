from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest

from projector.views import kafka
from projector.views.declared import MISSIONS
from projector.views.rebuild import rebuild_and_compare
from projector.views.verify import verify
from tests.views.log import row, running

STREAM = """
import asyncio
from projector.config import load_settings
from streams.views import run
asyncio.run(run(load_settings(), asyncio.Event()))
"""


@pytest.mark.parametrize("point", ["views.before_commit", "views.mid_copy", "views.after_commit"])
async def test_killed_anywhere_the_views_go_on_as_if_nothing_had_been(log, point, monkeypatch):
    await log.write([row("insert", f"m{n}", n, {"title": "t", "n": n}) for n in range(80)])
    environment = {**os.environ, **log.settings.environment(), "PROJECTOR_CRASH_AT": f"{point}:2"}
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", STREAM, env=environment)
    try:
        for burst in range(100):
            await log.write([row("update", f"m{n}", 100 + burst, {"n": burst}) for n in range(80)])
            if child.returncode is not None:
                break
            await asyncio.sleep(0.1)
        assert await asyncio.wait_for(child.wait(), 20) == -signal.SIGKILL
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    await log.poison(b"[]")
    # In another group: in the same one the dead member would be waited for.
    consumer = kafka.consumer
    monkeypatch.setattr(kafka, "consumer", lambda settings, group=None: consumer(settings, group and f"{group}.again"))
    async with running(log.settings):
        await log.caught_up(MISSIONS)
        report = await verify(log.settings, MISSIONS)
        [rebuilt] = await rebuild_and_compare(log.settings, [MISSIONS])
    assert (report.rows, report.examples) == (80, ())
    assert (rebuilt.rows, rebuilt.examples) == (80, ())
