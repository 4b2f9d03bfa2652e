from __future__ import annotations

from hashlib import sha256

import pytest

from projector.log.change import MAX_DEPTH, MAX_IDENTITY
from projector.sql.connection import connect
from projector.views.declared import MISSION_ITERATIONS, MISSIONS, RECORDS
from projector.views.verify import verify
from tests.views.log import row, running, value_of

POISON = {
    "data-not-object": value_of(row("update", "m1", 5, {}) | {"data": ["title"]}),
    "empty-user-id": value_of(row("update", "m1", 5, {}) | {"user_id": ""}),
    "unknown-schema-version": value_of(row("update", "m1", 5, {}) | {"schema_version": 2}),
    "unstorable-text": value_of(row("update", "m1", 5, {"title": "a\0b"})),
    "not-json": b'{"id": ',
    "missing-column": b"{}",
    "wrong-type": value_of(row("update", "m1", 5, {}) | {"schema_version": "1", "record_id": 5, "user_id": ["u1"]}),
    "id-too-long": value_of(row("update", "m" * (MAX_IDENTITY - len("u1aiaiMissions") + 1), 5, {})),
    "wrong-key": value_of(row("update", "m1", 5, {}, user_id="u2")),
    "wrong-topic": value_of(row("update", "m1", 5, {}, app_id="notes")),
}


@pytest.mark.parametrize("reason", POISON)
async def test_a_record_that_cannot_be_folded_is_laid_aside_and_its_partition_goes_on(log, reason):
    await log.write([row("insert", "m1", 1, {"title": "before"})])
    await log.poison(POISON[reason])
    await log.write([row("update", "m1", 9, {"title": "after"})])
    async with running(log.settings):
        await log.caught_up()
    titles = await log.admin.execute("select record ->> 'title' from mana_ai.mission_snapshots")
    assert await titles.fetchall() == [("after",)]
    letters = await log.admin.execute(
        "select view, topic, \"offset\", source_place, user_id, reason, value, headers ->> 'table', attempts"
        " from mana_ai.dead_letters order by 1"
    )
    [topic] = {topic for topic, _ in log.ends}
    expected = (topic, 1, "1:0/1000200:0", "u1", reason, POISON[reason], "aiMissions", 1)
    assert await letters.fetchall() == [("iterations", *expected), ("missions", *expected)]


async def test_lone_surrogates_and_a_missing_table_are_laid_aside_too(log):
    await log.poison(value_of(row("update", "m1", 5, {"title": "?"})).replace(b'"?"', b'"\\ud800"'))
    await log.poison(None, table=None)
    async with running(log.settings):
        await log.caught_up()
    letters = await log.admin.execute(
        'select view, reason, value is null from mana_ai.dead_letters order by "offset", view'
    )
    assert await letters.fetchall() == [
        *((view, "unstorable-text", False) for view in ("iterations", "missions")),
        (RECORDS.name, "not-json", True),
    ]


async def test_rows_of_the_log_that_cannot_be_folded_are_none_of_the_sql_folds_either(log):
    await log.write(
        [
            row("insert", "m1", 1, {"title": "kept"}),
            row("update", "m1", 2, {}) | {"data": "text"},
            row("update", "m1", 3, {"title": "later"}) | {"schema_version": 2},
            row("update", "m1", 4, {}) | {"data": None},
            row("insert", "m2", 5, {}) | {"data": [1]},
            *(row("insert", long, 5, {}) for long in (LONGEST, f"{LONGEST}0")),
            *(row("update", "m1", 6, {"iterations": nested(depth)}) for depth in DEPTHS),
            *(row("update", "m1", 7, {".".join("a" * (depth + 2)): 1}) for depth in DEPTHS),
            *(row("update", "m1", 8, {"actor": 1}) | {"actor": {"of": nested(depth)}} for depth in DEPTHS),
            *(row("update", "m1", 9, {"meta": 1}) | {"field_meta": {"meta": nested(depth)}} for depth in DEPTHS),
        ]
    )
    async with running(log.settings):
        await log.caught_up()
        reports = [await verify(log.settings, view) for view in (MISSIONS, MISSION_ITERATIONS)]
    assert [(report.rows, report.examples) for report in reports] == [(2, ())] * 2
    letters = await log.admin.execute(
        "select view, reason, count(*)::int from mana_ai.dead_letters where reason = 'too-deep'"
        " group by 1, 2 order by 1"
    )
    assert await letters.fetchall() == [(view, "too-deep", 4) for view in ("iterations", "missions")]


# Not to be compressed: an index takes the longer one from a table that has fewer columns in it.
LONGEST = "".join(sha256(b"%d" % n).hexdigest() for n in range(41))[: MAX_IDENTITY - len("u1aiaiMissions")]
DEPTHS = (MAX_DEPTH - 2, MAX_DEPTH - 1)
"""Arrays below a field of a column: the most that is folded, and one more."""


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


async def test_a_reader_sees_own_dead_letters_only(log):
    await log.poison(b"[]", user_id="u1")
    await log.poison(b"[]", user_id="u2")
    async with running(log.settings):
        await log.caught_up()
    async with await connect(log.settings, "projector_reader") as reader:
        await reader.execute("select set_config('app.current_user_id', 'u2', false)")
        rows = await reader.execute("select view, user_id, key, value from mana_ai.dead_letters order by 1")
        assert await rows.fetchall() == [(view, "u2", b"u2", b"[]") for view in ("iterations", "missions")]
