from __future__ import annotations

import asyncio

import pytest

from projector.cdc import user_tables as cdc
from projector.errors import UserInLogError
from projector.log.topics import Topics, partition_of
from projector.planner import user_tables as planner
from projector.sql.connection import connect
from projector.views import erase, kafka, rebuild
from projector.views.declared import AGENTS, MISSIONS, RECORDS, VIEWS
from projector.views.positions import widths_of
from projector.views.user_records import find_user_records
from projector.views.verify import verify
from tests.fixtures.transactions import send_in_transaction
from tests.views.log import row, running, value_of

USER = "anna"


def rows_of(user):
    return [
        row("insert", "m1", 1, {"title": "t", "state": "active"}, user_id=user),
        row("update", "m1", 2, {"note": "n"}, user_id=user),
        row("insert", "a1", 3, {"name": "Mana"}, user_id=user, table="agents"),
        row("insert", "n1", 4, {"text": "x"}, user_id=user, app_id="notes", table="notes"),
        row("update", "bad", 5, {}, user_id=user) | {"data": "text"},
    ]


async def erase_user(log, user=USER):
    settings = log.settings
    topics = {topic for view in VIEWS.values() for topic in kafka.topics_of(settings, view)}
    widths = widths_of(await kafka.partitions_of(settings, topics))
    async with await connect(settings, "projector_engine") as conn:
        await erase.erase_user(conn, settings, user, erase.TABLES, await kafka.cluster_id(settings), widths)


async def counts(log, user):
    found = {}
    async with await connect(log.settings, "projector_engine") as conn, conn.transaction():
        for table in erase.TABLES:
            found[table.table] = await table.count(conn, user)
    return found


async def test_engines_at_work_forget_an_erased_user_and_nobody_else(log):
    mine, others = rows_of(USER), rows_of("bertha")
    await log.write([*mine, *others])
    async with running(log.settings):
        await log.caught_up()
        for view in VIEWS.values():
            await rebuild.start(log.settings, view)
        kept = await counts(log, "bertha")
        assert await counts(log, USER) == kept
        both = {f"{view.table}_{generation}": 1 for view in VIEWS.values() for generation in (1, 2)}
        assert kept == {**both, "dead_letters": 2, "verify_runs": 0}
        await log.admin.execute("delete from sync_changes where user_id = %s", [USER])
        await erase_user(log)
        assert set((await counts(log, USER)).values()) == {0}
        assert await counts(log, "bertha") == kept
        # What comes next is folded from nothing, not from what the engine remembered.
        await log.write([row("update", "m1", 9, {"title": "back"}, user_id=USER)])
        await log.caught_up()
        [(record,)] = await (
            await log.admin.execute("select record from mana_ai.mission_snapshots where user_id = %s", [USER])
        ).fetchall()
        assert record == {"title": "back"}
        for view in VIEWS.values():
            assert (await verify(log.settings, view)).examples == ()
            assert (await rebuild.promote(log.settings, view)).examples == ()


async def test_nothing_is_erased_while_the_log_could_bring_it_back(log):
    await log.write(rows_of(USER))
    async with running(log.settings):
        await log.caught_up()
        before = await counts(log, USER)
        with pytest.raises(UserInLogError, match="5 rows"):
            await erase_user(log)
        assert await counts(log, USER) == before


async def test_a_letter_that_came_under_another_key_goes_with_the_user_whom_its_value_names(log):
    stray = row("insert", "m1", 1, {"title": "secret"}, user_id='an"na')
    alike = row("insert", "m1", 1, {"title": "u"}, user_id='an"na2')
    for one in (stray, alike):
        await log._settle([await log.send("ai", "bertha", value_of(one), "insert", "aiMissions", one["id"])])
    async with running(log.settings):
        await log.caught_up()
        assert (await counts(log, "bertha"))["dead_letters"] == 4
        await erase_user(log, 'an"na')
        assert (await counts(log, "bertha"))["dead_letters"] == 2
        assert (await counts(log, 'an"na2'))["dead_letters"] == 2


async def test_a_run_of_verify_that_names_a_user_goes_with_them(log):
    await log.write([*rows_of(USER), *rows_of("bertha")])
    async with running(log.settings):
        await log.caught_up()
        await log.admin.execute("update mana_ai.mission_snapshots_1 set status = 'odd' where user_id = %s", [USER])
        for view in (MISSIONS, AGENTS):
            await verify(log.settings, view, settle_s=0)
        for column, value in (("after_user", USER), ("after_record", [USER, "ai", "aiMissions", "m1"])):
            unfinished = "insert into mana_ai.verify_runs (view, total, {}) values ('missions', 9, %s)"
            await log.admin.execute(unfinished.format(column), [value])
        assert (await counts(log, USER))["verify_runs"] == 3
        await log.admin.execute("delete from sync_changes where user_id = %s", [USER])
        await erase_user(log)
        left = await log.admin.execute("select view, after_user, after_record from mana_ai.verify_runs")
        # That of agents named users only until it was finished.
        assert await left.fetchall() == [("agents", None, None)]


async def test_the_topics_tell_which_changes_a_rebuild_would_fold_again(log):
    mine = rows_of(USER)
    await log.write([*mine, *rows_of("bertha")])
    topics = kafka.topics_of(log.settings, RECORDS)
    widths = widths_of(await kafka.partitions_of(log.settings, topics))

    async def found(user):
        return {
            one.topic.rpartition(".")[2]: (one.records, one.standing, one.end >= one.records)
            for one in await find_user_records(log.settings, user, topics, widths, lambda *_: None)
        }

    assert await found(USER) == {"ai": (4, 4, True), "notes": (1, 1, True)}
    for one in mine:
        await log.erase(one)
    assert await found(USER) == {"ai": (8, 0, True), "notes": (2, 0, True)}
    servers, topic = log.settings.kafka_bootstrap_servers, Topics(log.settings.topic_prefix).changes("notes")
    await send_in_transaction(servers, topic, partition_of(b"bertha", widths[topic]), b"somebody", b"{}")
    async with asyncio.timeout(20):
        assert await found("bertha") == {"ai": (4, 4, True), "notes": (1, 1, True)}
    await log.truncate()
    assert await found("bertha") == {"ai": (4, 0, True), "notes": (1, 0, True)}
    assert await found("nobody") == {"ai": (0, 0, True), "notes": (0, 0, True)}


async def test_a_rebuild_after_an_erasure_that_the_topics_tell_of_shows_nothing(log):
    mine = rows_of(USER)
    await log.write([*mine, *rows_of("bertha")])
    async with running(log.settings):
        await log.caught_up()
        for one in mine:
            await log.erase(one)
        await erase_user(log)
        await log.caught_up()
        for difference in await rebuild.rebuild_and_compare(log.settings, VIEWS.values()):
            assert (difference.rows, difference.examples) == (1, ())


async def test_every_table_that_names_users_is_erased_or_has_a_reason_not_to_be(log):
    found = await log.admin.execute(
        "select distinct c.table_name from information_schema.columns c"
        " join information_schema.tables t using (table_schema, table_name)"
        " where c.table_schema = 'mana_ai' and c.column_name ~ 'user' and t.table_type = 'BASE TABLE'"
    )
    erased = {table.table for table in (*erase.TABLES, *cdc.TABLES, *planner.TABLES)}
    # These name the user they have come to, and nobody once they are finished.
    assert {name for (name,) in await found.fetchall()} == erased | {cdc.FILLS.table, erase.REBUILDS.table}
