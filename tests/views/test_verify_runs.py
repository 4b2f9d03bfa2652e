from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from typing import NamedTuple

import orjson
import pytest
from psycopg import sql

from projector.errors import RunContinuedError
from projector.views.declared import MISSIONS
from projector.views.verify import verify
from tests.views.log import row, running, written

ROWS = sql.SQL("mana_ai.mission_snapshots_1")


class Done(NamedTuple):
    status: int
    lines: list[dict]
    error: str


async def begin(settings, *words: str) -> asyncio.subprocess.Process:
    outer = {name: value for name, value in os.environ.items() if not name.startswith("PROJECTOR_")}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "projector", "verify", "missions", "--json", *words),
        env={**outer, **settings.environment()},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def end(process: asyncio.subprocess.Process) -> Done:
    out, error = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return Done(process.returncode, [orjson.loads(line) for line in out.splitlines()], error.decode())


def rows_of(user: str, records: int, updates: int):
    for number in range(records):
        yield row("insert", f"m{number:03}", number, {"title": "t", "state": "active"}, user_id=user)
        for update in range(updates):
            yield row("update", f"m{number:03}", 100 + update, {"title": f"t{update}"}, user_id=user)


@pytest.fixture
async def served(log):
    """Many small users, and one with too many rows for a page; 120 records of 360 changes."""
    rows = [one for number in range(20) for one in rows_of(f"u{number:02}", 3, 2)]
    rows += rows_of("u10-large", 60, 2)
    await log.write(rows)
    async with running(log.settings):
        await log.caught_up(MISSIONS)
    return log


async def corrupt(log, *records: tuple[str, str]) -> None:
    for user, mission in records:
        statement = sql.SQL("update {} set status = 'odd' where user_id = %s and mission_id = %s").format(ROWS)
        await log.admin.execute(statement, [user, mission])


async def test_pages_of_users_and_of_records_of_a_large_one_cover_everything_once(served):
    faults = [("u00", "m000"), ("u10-large", "m000"), ("u10-large", "m059"), ("u19", "m002")]
    await corrupt(served, *faults)
    extra = (
        "insert into {rows} ({columns}) select {columns} from (select r.*"
        ' from {rows} m, jsonb_populate_record(m, \'{{"user_id": "u99"}}\') r limit 1) as one'
    )
    await served.admin.execute(sql.SQL(extra).format(rows=ROWS, columns=written(MISSIONS)))
    for size in (20, 100_000):
        seen, digests = [], []
        report = await verify(
            served.settings, MISSIONS, settle_s=0, page_changes=size, progress=seen.append, digests=digests.append
        )
        assert (report.rows, report.differences) == (121, 5)
        assert [one.identity[0] for one in report.examples] == [*(user for user, _ in faults), "u99"]
        assert (seen[-1].changes, seen[-1].total, seen[-1].eta_s) == (360, 360, 0)
        keys = [one.identity for one in digests]
        assert len(keys) == len(set(keys)) == 121
        assert sum(one.row != one.log for one in digests) == 5
        if size == 20:
            changes = [after.changes - before.changes for before, after in itertools.pairwise(seen)]
            assert max(changes) <= 20


async def test_killed_in_the_middle_and_resumed_it_covers_everything_once_and_keeps_what_it_found(served):
    await corrupt(served, ("u00", "m000"), ("u10-large", "m030"), ("u19", "m002"))
    script = (
        "import asyncio; from projector.config import load_settings; from projector.views.declared import MISSIONS;"
        "from projector.views.verify import verify;"
        "asyncio.run(verify(load_settings(), MISSIONS, settle_s=0, page_changes=20, rate=200,"
        " progress=lambda one: print(one.changes, flush=True)))"
    )
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script),
        env={**os.environ, **served.settings.environment()},
        stdout=asyncio.subprocess.PIPE,
    )
    done = 0
    assert child.stdout is not None
    while done < 140:  # in the middle of the large user
        done = int(await asyncio.wait_for(child.stdout.readline(), 20))
    child.send_signal(signal.SIGKILL)
    await child.wait()
    changes = await served.admin.execute("select changes, finished_at, after_record from mana_ai.verify_runs")
    [(stored, finished, record)] = await changes.fetchall()
    assert done <= stored < 360
    assert (finished, record[0]) == (None, "u10-large")
    resumed = await end(await begin(served.settings, "--resume", "--rate", "0", "--settle", "0"))
    assert resumed.status == 1, resumed.error
    assert resumed.lines[0]["event"] == "progress"
    assert resumed.lines[0]["changes"] > stored
    last = resumed.lines[-1]
    assert (last["event"], last["rows"], last["differences"]) == ("compared", 120, 3)
    assert [one["identity"][::3] for one in last["examples"]] == [
        ["u00", "m000"],
        ["u10-large", "m030"],
        ["u19", "m002"],
    ]
    assert {one["path"] for one in last["examples"]} == {"status"}
    # Nothing is left to resume, so it begins anew.
    assert (await verify(served.settings, MISSIONS, settle_s=0, resume=True)).rows == 120


async def test_no_more_rows_of_the_log_are_folded_in_a_second_than_asked_for(served):
    seen = []
    rate = 100
    report = await verify(
        served.settings, MISSIONS, users=["u10-large"], settle_s=0, rate=rate, page_changes=60, progress=seen.append
    )
    assert (report.rows, seen[-1].changes) == (60, 180)
    assert max(one.changes_per_s for one in seen) <= 1.01 * rate


async def test_of_two_processes_that_go_on_with_the_same_run_one_gives_up(served):
    started = asyncio.Event()
    first = asyncio.create_task(
        verify(served.settings, MISSIONS, settle_s=0, page_changes=20, rate=200, progress=lambda _: started.set())
    )
    await started.wait()
    second = verify(served.settings, MISSIONS, settle_s=0, page_changes=20, resume=True)
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(one) for one in outcomes if isinstance(one, Exception)] == [RunContinuedError]
    assert [one.rows for one in outcomes if not isinstance(one, Exception)] == [120]


async def test_nothing_differs_while_devices_write(log):
    async def write():
        for burst in range(60):
            rows = [row("update", f"m{n % 3}", burst, {"title": f"{burst}"}, user_id=f"u{n}") for n in range(40)]
            await log.store(rows)
            await log.publish(rows)

    async with running(log.settings):
        writing = asyncio.create_task(write())
        looks = 0
        while not writing.done():
            report = await verify(log.settings, MISSIONS, page_changes=500)
            assert report.examples == ()
            looks += 1
        await writing
        assert looks > 1
        await log.caught_up(MISSIONS)
        report = await verify(log.settings, MISSIONS)
    assert (report.rows, report.differences) == (40, 0)
