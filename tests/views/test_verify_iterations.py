from __future__ import annotations

import orjson
import pytest
from psycopg import sql

from projector.views.declared import MISSION_ITERATIONS
from projector.views.parting import Parting
from projector.views.verify import verify
from tests.views.log import at, row, running

ROWS = sql.SQL("mana_ai.mission_iterations_1")
"""The table in which the faults are made."""

RUNNING = {"id": "i1", "startedAt": at(1), "overallStatus": "running", "currentPhase": "calling-llm", "plan": []}
STAGED = {
    "id": "i1",
    "startedAt": at(1),
    "overallStatus": "awaiting-review",
    "plan": [{"id": "s1", "status": "planned"}],
    "summary": "three tasks",
}
ANSWERED = {
    **STAGED,
    "userFeedback": "fewer",
    "overallStatus": "approved",
    "plan": [{"id": "s1", "status": "approved", "proposalId": "p1"}, {"id": "s2", "status": "planned"}],
}
SECOND = {"id": "i2", "startedAt": at(3), "overallStatus": "running", "currentPhase": "calling-llm"}
MADE = row("insert", "m1", 1, {"title": "t", "iterations": [RUNNING], "createdAt": at(1)})
PLANNED = row("update", "m1", 2, {"iterations": [STAGED]}, space_id="s1")
DECIDED = row("update", "m1", 3, {"iterations": [ANSWERED, SECOND]})
STALE = row("update", "m1", 4, {"title": "u", "iterations": [STAGED]})
OTHER = row("insert", "m2", 5, {"iterations": [{"id": "j1", "overallStatus": "running"}], "createdAt": at(5)})
HISTORY = [MADE, PLANNED, DECIDED, STALE, OTHER]


async def serve(log, rows=HISTORY):
    """The view has applied what is published, and is stopped."""
    await log.publish(rows)
    async with running(log.settings):
        await log.caught_up(MISSION_ITERATIONS)


async def found(log, **more):
    report = await verify(log.settings, MISSION_ITERATIONS, settle_s=0, **more)
    assert report.differences == len(report.examples)
    return [
        (one.identity[3], one.kind, one.path, one.serving, one.log, one.parting and one.parting.change_id)
        for one in report.examples
    ]


def put(path: str, value: object, column: str = "record") -> str:
    text = orjson.dumps(value).decode().replace("'", "''")
    return f"{column} = jsonb_set({column}, '{{{path}}}', '{text}')"


EXTRA = {"iteration": {"id": "i9"}, "shown": True, "broughtBy": MADE["id"], "changedBy": MADE["id"]}
FIRST = "record.iterations.i1"
FAULTS = [
    # status, feedback, what was planned, of the shown record alone
    (put("iterations,0,iteration,overallStatus", "failed"), f"{FIRST}.iteration.overallStatus", DECIDED),
    ("record = record #- '{iterations,0,iteration,userFeedback}'", f"{FIRST}.iteration.userFeedback", DECIDED),
    (put("iterations,0,iteration,summary", "two"), f"{FIRST}.iteration.summary", PLANNED),
    (put("iterations,0,iteration,plan,0,status", "failed"), f"{FIRST}.iteration.plan.s1.status", DECIDED),
    ("record = record #- '{iterations,0,iteration,plan,0,proposalId}'",
     f"{FIRST}.iteration.plan.s1.proposalId", DECIDED),
    ("record = record #- '{iterations,0,iteration,plan,1}'", f"{FIRST}.iteration.plan.s2", DECIDED),
    (put("iterations,0,iteration,plan,2", {"id": "s3"}), f"{FIRST}.iteration.plan.s3", DECIDED),
    (put("iterations,1,iteration,currentPhase", "done"), "record.iterations.i2.iteration.currentPhase", DECIDED),
    # an iteration too many, too few, and one that devices do not have any more
    (put("iterations,2", EXTRA), "record.iterations.i9", None),
    ("record = record #- '{iterations,1}'", "record.iterations.i2", DECIDED),
    (put("iterations,1,shown", True), "record.iterations.i2.shown", STALE),
    (put("iterations,0,broughtBy", STALE["id"]), f"{FIRST}.broughtBy", MADE),
    (put("iterations,0,changedBy", STALE["id"]), f"{FIRST}.changedBy", DECIDED),
    ("record = jsonb_set(record, '{iterations}', jsonb_path_query_array(record, '$.iterations[1,0]'))",
     "record.iterations[0].id", None),
    ("deleted = true", "deleted", MADE),
    ("complete = false", "complete", MADE),
    ("deleted_at = '2026-06-01T10:00:02Z'", "deleted_at", MADE),
    ("space_id = 's2'", "space_id", PLANNED),
    ("last_applied_at = '2026-06-01T10:00:02Z'", "last_applied_at", STALE),
    ("updated_at = null", "updated_at", STALE),
    # what the state says, of the mission and of an iteration, where nothing of it shows
    (put("w,0,2", 5, "state"), "writes.iterations.instant", STALE),
    (put("i,0", 5, "state"), "state.i[0]", MADE),
    ("state = state - 'c'", "state.c", MADE),
    (put("s,2", "s2", "state"), "state.s[2]", PLANNED),
    (put("n", 5, "state"), "state.n", MADE),
    (put("n", 1 << 60, "state"), "state.n", STALE),
    (put("o,0,0", 5, "state"), "state.e.i1.b[0]", MADE),
    (put("o,2,2", "another", "state"), "state.e.i1.f.plan[0][0][2]", DECIDED),
    (put("e,i1,b", 1, "state"), "state.e.i1.b[0]", MADE),
    (put("e,i1,f,summary,0,1", "two", "state"), "state.e.i1.f.summary[0][1]", PLANNED),
    (put("e,i1,t,s1,1,proposalId,1", "p2", "state"), "state.e.i1.t.s1.1.proposalId[1]", DECIDED),
    ("state = state #- '{e,i1,t,s2}'", "state.e.i1.t.s2", DECIDED),
    ("state = state #- '{e,i1,f,userFeedback}'", "state.e.i1.f.userFeedback", DECIDED),
    (put("e,i9", {"b": 0}, "state"), "state.e.i9", MADE),
    # the record after the state
    (f"{put('iterations,0,iteration,overallStatus', 'odd')}, {put('e,i1,s,1', 'odd', 'state')}",
     f"{FIRST}.iteration.overallStatus", DECIDED),
    ("record = record #- '{iterations,0,iteration,userFeedback}', state = state #- '{e,i1,f,userFeedback}'",
     f"{FIRST}.iteration.userFeedback", DECIDED),
    (f"{put('iterations,1,shown', True)}, {put('w,0,1', ['i1', 'i2'], 'state')}", "record.iterations.i2.shown", STALE),
]  # fmt: skip


async def test_every_fault_in_an_iteration_is_found_and_named_with_the_change_that_says_otherwise(log):
    await log.store(HISTORY)
    await serve(log)
    assert await found(log) == []
    await log.admin.execute(sql.SQL("create table kept as select * from {}").format(ROWS))
    for fault, path, change in FAULTS:
        await log.admin.execute(sql.SQL("update {} set {} where mission_id = 'm1'").format(ROWS, sql.SQL(fault)))
        [(mission, _, at_path, serving, says, first)] = await found(log)
        assert (mission, at_path, first) == ("m1", path, change and change["id"]), fault
        assert serving != says
        await log.admin.execute(sql.SQL("delete from {}").format(ROWS))
        await log.admin.execute(sql.SQL("insert into {} select * from kept").format(ROWS))
    assert await found(log) == []


async def test_both_values_are_told_and_rows_too_few_and_too_many(log):
    await log.store(HISTORY)
    await serve(log)
    lost = "record = record #- '{iterations,0,iteration,userFeedback}'"
    await log.admin.execute(sql.SQL("update {} set {} where mission_id = 'm1'").format(ROWS, sql.SQL(lost)))
    await log.admin.execute(sql.SQL("update {} set mission_id = 'm3' where mission_id = 'm2'").format(ROWS))
    wrong, missing, extra = await found(log)
    feedback = f"{FIRST}.iteration.userFeedback"
    assert wrong == ("m1", "value", feedback, "(absent)", '"fewer"', DECIDED["id"])
    assert missing[:4] == ("m2", "missing row", "", "(absent)")
    assert missing[5] == OTHER["id"]
    assert extra[:3] == ("m3", "extra row", "")
    assert extra[5] == OTHER["id"]


@pytest.mark.parametrize(
    ("dropped", "path", "serving", "says"),
    [
        # Without it, the stale copy would be the first with this plan, and newer than what was decided.
        (PLANNED, f"{FIRST}.iteration.plan.s2", "(absent)", '{"id":"s2","status":"planned"}'),
        (DECIDED, f"{FIRST}.iteration.overallStatus", '"awaiting-review"', '"approved"'),
        (STALE, "record.iterations.i2.shown", "true", "false"),
    ],
    ids=["planned", "decided", "stale"],
)
async def test_an_event_that_the_row_lacks_is_named_with_where_it_is(log, dropped, path, serving, says):
    await log.store(HISTORY)
    await serve(log, [one for one in HISTORY if one is not dropped])
    [lost] = (await verify(log.settings, MISSION_ITERATIONS, settle_s=0)).examples
    assert (lost.kind, lost.path, lost.parting) == ("not in the topic", path, Parting(dropped["id"], "not applied"))
    assert (lost.serving, lost.log) == (serving, says)
    # In the topic, below the position, and not in the row.
    await log.publish([dropped])
    await log.admin.execute(
        "update mana_ai.stream_positions set next_offset = (select max(next_offset) + 1 from mana_ai.stream_positions)"
        " where view = 'iterations' and next_offset > 0"
    )
    [lost] = (await verify(log.settings, MISSION_ITERATIONS, settle_s=0)).examples
    assert (lost.kind, lost.path, lost.parting) == ("value", path, Parting(dropped["id"], "not applied"))
    assert lost.where.endswith(f"at offset {len(HISTORY) - 1}")


async def test_what_the_view_has_still_before_it_is_no_difference_and_does_not_hide_one(log):
    await log.store(HISTORY)
    await serve(log)
    await log.write(
        [
            row("update", "m1", 9, {"iterations": [{**SECOND, "overallStatus": "approved"}]}),
            row("insert", "m9", 9, {"iterations": [SECOND]}),
        ]
    )
    assert await found(log) == []
    lost = "record = record #- '{iterations,0,iteration,userFeedback}'"
    await log.admin.execute(sql.SQL("update {} set {} where mission_id = 'm1'").format(ROWS, sql.SQL(lost)))
    feedback = f"{FIRST}.iteration.userFeedback"
    assert await found(log) == [("m1", "value", feedback, "(absent)", '"fewer"', DECIDED["id"])]
