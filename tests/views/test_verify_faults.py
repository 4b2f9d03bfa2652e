from __future__ import annotations

import pytest
from psycopg import sql

from projector.errors import HiddenRowsError
from projector.views.declared import MISSIONS, VIEWS
from projector.views.parting import Parting
from projector.views.verify import verify
from tests.views.log import at, row, running, written

ROWS = sql.SQL("mana_ai.mission_snapshots_1")
"""The table in which the faults are made."""

INSERT = row("insert", "m1", 1, {"title": "t", "state": "active", "cadence": {"kind": "daily", "atHour": 8}})
UPDATE = row("update", "m1", 2, {"cadence.atHour": 7, "title": "renamed", "nextRunAt": at(99)}, space_id="s1")
GRANT = row("update", "m1", 3, {"grant.wrappedKey": "enc:1:key", "grant.expiresAt": at(500)})
OTHER = row("insert", "m2", 4, {"title": "gone"})
DELETE = row("delete", "m2", 5, {})
HISTORY = [INSERT, UPDATE, GRANT, OTHER, DELETE]


async def serve(log, rows=HISTORY):
    """Views that have applied what is published, and are stopped."""
    await log.publish(rows)
    async with running(log.settings):
        await log.caught_up()


async def found(log, **more):
    report = await verify(log.settings, MISSIONS, settle_s=0, **more)
    assert report.differences == len(report.examples)
    return [
        (one.identity[3], one.kind, one.path, one.serving, one.log, one.parting and one.parting.change_id)
        for one in report.examples
    ]


async def test_every_fault_in_a_row_is_found_and_named_with_the_change_that_says_otherwise(log):
    await log.store(HISTORY)
    await serve(log)
    assert await found(log) == []
    state = "jsonb_set(state, '{{w,{},{}}}', '{}')".format
    faults = [
        ("record = jsonb_set(record, '{cadence,atHour}', '9')", "value", "record.cadence.atHour", "9", "7", UPDATE),
        ("record = jsonb_set(record, '{extra}', 'null')", "value", "record.extra", "null", "(absent)", None),
        ("record = record - 'title'", "value", "record.title", "(absent)", '"renamed"', UPDATE),
        ("status = 'paused'", "typed column", "status", '"paused"', '"active"', INSERT),
        ("agent_id = 'a1'", "typed column", "agent_id", '"a1"', "null", None),
        ("next_run_at = null", "typed column", "next_run_at", "null", '"2026-06-01T10:01:39+00:00"', UPDATE),
        ("space_id = 's2'", "typed column", "space_id", '"s2"', '"s1"', UPDATE),
        ("complete = false", "completeness", "complete", "false", "true", INSERT),
        ("deleted = true", "deletion", "deleted", "true", "false", INSERT),
        (
            "updated_at = '2026-06-01T10:00:02Z'",
            *("typed column", "updated_at", '"2026-06-01T10:00:02+00:00"', '"2026-06-01T10:00:03+00:00"', GRANT),
        ),
        (
            "last_applied_at = 'infinity'",
            *("typed column", "last_applied_at", '"Infinity"', '"2026-06-01T10:00:03+00:00"', GRANT),
        ),
        (
            "effective_grant = jsonb_set(effective_grant, '{wrappedKey}', '\"enc:1:wider\"')",
            *("typed column", "effective_grant.wrappedKey", '"enc:1:… (11 bytes)"', '"enc:1:… (9 bytes)"', GRANT),
        ),
        (
            "state = jsonb_set(state, '{g,0,3,wrappedKey}', '\"other\"')",
            *("state", "state.g[0][3].wrappedKey", '"… (5 bytes)"', '"enc:1:… (9 bytes)"', GRANT),
        ),
        (f"state = {state(0, 2, 5)}", "stamp", "writes.cadence.instant", "5", "null", INSERT),
        (f"state = {state(1, 3, 5)}", "stamp", "writes.cadence.atHour.created_at", "5", str(instant(2)), UPDATE),
        (f"state = {state(1, 1, 9)}", "value", "writes.cadence.atHour.value", "9", "7", UPDATE),
        ("state = jsonb_set(state, '{i,0}', '5')", "state", "state.i[0]", "5", str(instant(1)), INSERT),
        ("state = state - 'c'", "state", "state.c", "(absent)", "true", INSERT),
    ]
    await log.admin.execute(sql.SQL("create table kept as select * from {}").format(ROWS))
    for fault, kind, path, serving, says, change in faults:
        await log.admin.execute(sql.SQL("update {} set {} where mission_id = 'm1'").format(ROWS, sql.SQL(fault)))
        expected = None if change is None else change["id"]
        assert await found(log) == [("m1", kind, path, serving, says, expected)], fault
        await log.admin.execute(sql.SQL("delete from {}").format(ROWS))
        columns = written(MISSIONS)
        await log.admin.execute(sql.SQL("insert into {} ({}) select {} from kept").format(ROWS, columns, columns))
    assert await found(log) == []


def instant(seconds: int) -> int:
    return 1780308000000000 + seconds * 1000000


async def test_a_deletion_undone_and_rows_too_few_and_too_many_are_found(log):
    await log.store(HISTORY)
    await serve(log)
    await log.admin.execute(
        sql.SQL("update {} set deleted = false, deleted_at = null where mission_id = 'm2'").format(ROWS)
    )
    await log.admin.execute(sql.SQL("delete from {} where mission_id = 'm1'").format(ROWS))
    await log.admin.execute(
        sql.SQL(
            "insert into {rows} ({columns}) select {columns} from (select r.*"
            " from {rows} m, jsonb_populate_record(m, '{{\"mission_id\": \"m3\"}}') r where m.mission_id = 'm2') as one"
        ).format(rows=ROWS, columns=written(MISSIONS))
    )
    missing, undone, extra = await found(log)
    assert missing[:4] == ("m1", "missing row", "", "(absent)")
    assert "enc:1:key" not in missing[4]
    assert missing[5] == INSERT["id"]
    assert undone == ("m2", "deletion", "deleted", "false", "true", DELETE["id"])
    assert extra[:3] == ("m3", "extra row", "")
    assert extra[5] in (OTHER["id"], DELETE["id"])


async def test_an_event_that_the_view_never_saw_is_named_with_where_it_is(log):
    await log.store(HISTORY)
    await serve(log, [one for one in HISTORY if one is not UPDATE])
    [dropped] = (await verify(log.settings, MISSIONS, settle_s=0)).examples
    assert (dropped.kind, dropped.parting) == ("not in the topic", Parting(UPDATE["id"], "not applied"))
    assert dropped.where.startswith("not in ")
    assert (dropped.path, dropped.serving, dropped.log) == ("record.cadence.atHour", "8", "7")
    # In the topic, below the position, and not in the row.
    await log.publish([UPDATE])
    await log.admin.execute(
        "update mana_ai.stream_positions set next_offset = (select max(next_offset) + 1 from mana_ai.stream_positions)"
        " where view = 'missions' and next_offset > 0"
    )
    [dropped] = (await verify(log.settings, MISSIONS, settle_s=0)).examples
    assert (dropped.kind, dropped.parting) == ("value", Parting(UPDATE["id"], "not applied"))
    assert dropped.where.endswith(f"at offset {len(HISTORY) - 1}")


async def test_rows_changed_and_removed_beneath_the_view_are_found(log):
    await log.store(HISTORY)
    await serve(log)
    await log.admin.execute('update sync_changes set data = data || \'{"title": "x"}\' where id = %s', [UPDATE["id"]])
    assert await found(log) == [("m1", "value", "record.title", '"renamed"', '"x"', UPDATE["id"])]
    await log.admin.execute("delete from sync_changes where id = %s", [UPDATE["id"]])
    [gone] = (await verify(log.settings, MISSIONS, settle_s=0)).examples
    assert gone.parting == Parting(UPDATE["id"], "not in the log")


async def test_what_the_view_has_still_before_it_is_no_difference_and_does_not_hide_one(log):
    await log.store(HISTORY)
    await serve(log)
    late = [row("update", "m1", 9, {"title": "late"}), row("insert", "m9", 9, {"title": "new"})]
    await log.write(late)
    assert await found(log) == []
    await log.admin.execute(sql.SQL("update {} set status = 'paused' where mission_id = 'm1'").format(ROWS))
    assert await found(log) == [("m1", "typed column", "status", '"paused"', '"active"', INSERT["id"])]


async def test_a_change_that_reaches_the_topic_while_it_is_waited_for_is_no_difference(log):
    late = row("update", "m1", 9, {"title": "late"})
    await log.store([*HISTORY, late])
    await serve(log)
    async with running(log.settings):
        await log.publish([late])
        assert (await verify(log.settings, MISSIONS)).differences == 0


async def test_an_erasure_that_the_view_has_still_before_it_is_waited_for(log):
    await log.store(HISTORY)
    await serve(log)
    await log.erase(UPDATE)
    assert (await verify(log.settings, MISSIONS, settle_s=0)).differences == 1
    async with running(log.settings):
        assert (await verify(log.settings, MISSIONS)).differences == 0


async def test_a_role_that_does_not_see_every_row_is_an_error(log):
    await log.store(HISTORY)
    await log.admin.execute("alter role projector_engine nobypassrls")
    try:
        with pytest.raises(HiddenRowsError):
            await verify(log.settings, MISSIONS, users=["u1"], settle_s=0)
    finally:
        await log.admin.execute("alter role projector_engine bypassrls")


async def test_columns_that_are_not_compared_are_named(log):
    skipped = {name: (await verify(log.settings, view)).skipped for name, view in VIEWS.items()}
    assert skipped == dict.fromkeys(VIEWS, ("source", "source_lsn"))
