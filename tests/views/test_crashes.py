from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest

from projector.views.declared import MISSION_ITERATIONS, MISSIONS
from projector.views.rebuild import rebuild_and_compare
from projector.views.verify import verify
from tests.views.log import row, running

STREAM = """
import asyncio
from projector.config import load_settings
from streams.views import run
asyncio.run(run(load_settings(), asyncio.Event()))
"""
USERS, COUNT = 12, 800
"""So many missions that the share of one worker is more than a single statement carries."""


@pytest.mark.parametrize(
    "points",
    [
        ("views.opened", "views.taken", "views.swapped"),
        ("views.mid_copy", "views.before_commit", "views.after_commit"),
    ],
)
async def test_workers_killed_at_any_point_leave_their_partitions_to_one_that_lives(log, points):
    def burst(number):
        return [
            row("update", f"m{n}", 100 + number, {"n": number, "iterations": [{"id": f"i{number}"}]}, user_id=user(n))
            for n in range(COUNT)
        ]

    def user(n):
        return f"u{n % USERS}"

    await log.write([row("insert", f"m{n}", n, {"title": "t", "n": n}, user_id=user(n)) for n in range(COUNT)])
    children = []
    async with running(log.settings):
        for point in points:
            environment = {**os.environ, **log.settings.environment(), "PROJECTOR_CRASH_AT": point}
            children.append(await asyncio.create_subprocess_exec(sys.executable, "-c", STREAM, env=environment))
        try:
            number = 0
            async with asyncio.timeout(40):
                # Those that have no partition yet get one when another has died.
                while any(child.returncode is None for child in children):
                    await log.write(burst(number := number + 1))
                    await asyncio.sleep(0.1)
            assert [child.returncode for child in children] == [-signal.SIGKILL] * len(points)
        finally:
            for child in children:
                if child.returncode is None:
                    child.kill()
                    await child.wait()
        await log.write(burst(number + 1))
        await log.poison(b"[]")
        await log.caught_up(MISSIONS, MISSION_ITERATIONS, timeout=40)
        for view in (MISSIONS, MISSION_ITERATIONS):
            report = await verify(log.settings, view)
            [rebuilt] = await rebuild_and_compare(log.settings, [view])
            assert (report.rows, report.examples) == (COUNT, ())
            assert (rebuilt.rows, rebuilt.examples) == (COUNT, ())
