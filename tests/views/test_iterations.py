from __future__ import annotations

import asyncio
import gzip
import random

import orjson
import pytest
from psycopg import sql

from projector.fold.iterations import IterationsState, apply, as_record
from projector.fold.iterations_codec import dump
from projector.log.change import decode
from projector.sql.connection import connect
from projector.views.compare import log_fold
from projector.views.consume import consume
from projector.views.declared import MISSION_ITERATIONS
from projector.views.jsondiff import first_difference
from projector.views.rebuild import rebuild_and_compare
from projector.views.verify import verify
from projector.views.watermarks import Staleness
from tests.fold.histories import DATA, HISTORIES
from tests.fold.iterations import array
from tests.views.log import at, early_deletes, row, value_of

CHOSEN = sql.SQL(
    "with chosen as (select * from sync_changes where table_name = 'aiMissions') select * from ({}) as folded"
)
STAMPS = [at(1), at(2), at(3), {"at": at(2), "actor": {}}, "", "soon", None]


def carried(chance, sent):
    """A value of `iterations` that repeats some of what was `sent` before, as devices do with every edit."""
    found = array(chance)
    if isinstance(found, list):
        found = [chance.choice(sent) if sent and chance.random() < 0.4 else one for one in found]
        sent += found
    return found


def history(chance, mission_id):
    """Up to a dozen rows of one mission."""
    sent = []
    if chance.random() < 0.25:
        yield from early_deletes(chance, mission_id)
    for _ in range(chance.randint(1, 8)):
        op = chance.choice(["insert", "update", "update", "update", "update", "delete"])
        data = {"iterations": carried(chance, sent)} if chance.random() < 0.85 else {}
        if chance.random() < 0.3:
            data |= chance.choice(
                [
                    {"deletedAt": at(2)},
                    {"deletedAt": None},
                    {"deletedAt.x": 1},
                    {"iterations.0": {"id": "i1"}},
                    {"updatedAt": at(3)},
                    {"iterationsOf": []},
                ]
            )
        one = row(op, mission_id, chance.randint(1, 4), data, chance.randint(1, 4))
        if chance.random() < 0.4:
            one["field_meta"] = {key: chance.choice(STAMPS) for key in data if chance.random() < 0.8}
        if chance.random() < 0.2:
            one["space_id"] = chance.choice(["s1", "s2"])
        yield one


def beyond_the_limits():
    """Two rows with more iterations, steps, fields and values than are kept."""
    many = [{"id": f"{number:05}", "plan": [{"id": "s"}]} for number in range(5010)]
    plan = [{"id": f"{number:04}", "status": "planned"} for number in range(203)]
    wide = {"id": "00011", "plan": plan} | {f"{number:03}": number for number in range(70)}
    yield row("update", "m-many", 1, {"iterations": many})
    yield row("update", "m-many", 2, {"iterations": [wide, {"id": "00000"}]})
    yield row("update", "m-many", 3, {"iterations": [{"id": "00011", "plan": [{"id": "0000"}, *plan[3:]]}]})
    for number in range(70):
        yield row("update", "m-many", 4 + number, {"iterations": [{"id": "00011", "000": f"v{number % 9}{number}"}]})


def states_of(rows):
    states = {}
    for one in rows:
        change = decode(value_of(one))
        if change.table == "aiMissions":
            apply(states.setdefault((change.user_id, change.record_id), IterationsState()), change)
    return states


def by_program(rows):
    shown = {}
    for key, state in states_of(rows).items():
        record = as_record(state)
        shown[key] = [
            *(record.fields, record.deleted, record.deleted_at_us, record.complete, record.space_id),
            *(state.newest_us, record.updated_at_us, orjson.loads(orjson.dumps(dump(state)))),
        ]
    return shown


async def by_sql(log):
    cursor = await log.admin.execute(CHOSEN.format(log_fold(MISSION_ITERATIONS)))
    return {(user, record_id): list(rest) for user, _, _, record_id, *rest in await cursor.fetchall()}


def differences(one, other):
    assert one.keys() == other.keys()
    return {key: found for key in one if (found := first_difference(one[key], other[key])) is not None}


async def test_two_folds_that_share_no_code_agree_on_every_mission(log):
    chance = random.Random(20261125)
    rows = [one for number in range(500) for one in history(chance, f"m{number}")] + list(beyond_the_limits())
    await log.store(rows)
    ours = by_program(rows)
    assert len(ours) == 501
    missions = [state.mission for state in states_of(rows).values()]
    assert sum(mission.first is not None and len(mission.early) > 0 for mission in missions) > 40
    assert sum(not one["shown"] for shown in ours.values() for one in shown[0]["iterations"]) > 100
    assert differences(await by_sql(log), ours) == {}


@pytest.mark.parametrize("history", HISTORIES)
async def test_two_folds_that_share_no_code_agree_on_a_recorded_history(log, history):
    lines = gzip.decompress((DATA / f"log-{history}.jsonl.gz").read_bytes()).splitlines()
    rows = [orjson.loads(line) for line in lines]
    await log.store(rows)
    assert differences(await by_sql(log), by_program(rows)) == {}


SEEN = "select mission_id, iteration_id, status, feedback, shown from mana_ai.mission_iteration_list order by 1, 2"


async def test_a_server_iteration_that_a_device_dropped_is_still_there_for_its_user_and_the_planner_alone(log):
    mine = {"id": "i1", "startedAt": at(1), "overallStatus": "approved", "userFeedback": "good"}
    ours = {"id": "i2", "startedAt": at(2), "overallStatus": "awaiting-review", "plan": []}
    await log.write(
        [
            row("insert", "m1", 1, {"title": "a", "iterations": [mine], "createdAt": at(1)}),
            row("update", "m1", 2, {"iterations": [mine, ours]}),
            row("update", "m1", 3, {"title": "b", "iterations": [mine]}),
            row("insert", "m2", 4, {"title": "c", "iterations": [ours], "createdAt": at(4)}, user_id="u2"),
        ]
    )
    stop = asyncio.Event()
    work = asyncio.create_task(consume(log.settings, MISSION_ITERATIONS, Staleness(MISSION_ITERATIONS), stop))
    await log.caught_up(MISSION_ITERATIONS)
    first = [("m1", "i1", "approved", "good", True), ("m1", "i2", "awaiting-review", None, False)]
    second = [("m2", "i2", "awaiting-review", None, True)]
    for role, shown in (("projector_reader", first), ("projector_sink", first), ("projector_planner", first + second)):
        async with await connect(log.settings, role) as conn:
            await conn.execute("select set_config('app.current_user_id', 'u1', false)")
            assert await (await conn.execute(SEEN)).fetchall() == shown
    report = await verify(log.settings, MISSION_ITERATIONS)
    assert (report.rows, report.examples) == (2, ())
    [rebuilt] = await rebuild_and_compare(log.settings, [MISSION_ITERATIONS])
    assert (rebuilt.rows, rebuilt.differences) == (2, 0)
    stop.set()
    await work


async def test_a_row_that_the_log_lost_takes_its_iterations_along(log):
    rows = [row("update", "m1", number, {"iterations": [{"id": f"i{number}"}]}) for number in (1, 2)]
    await log.write(rows)
    stop = asyncio.Event()
    work = asyncio.create_task(consume(log.settings, MISSION_ITERATIONS, Staleness(MISSION_ITERATIONS), stop))
    await log.caught_up(MISSION_ITERATIONS)
    await log.erase(rows[0])
    await log.caught_up(MISSION_ITERATIONS)
    assert await (await log.admin.execute(SEEN)).fetchall() == [("m1", "i2", None, None, True)]
    stop.set()
    await work
