from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from projector.sql.connection import connect
from projector.views.declared import VIEWS
from projector.views.store import table_of
from tests.views.log import row, running


@pytest.fixture
async def two_users(log):
    """Both users have a record with the same id in every view, and name each other's space."""
    for user in ("u1", "u2"):
        mine = {"user_id": user, "space_id": "shared"}
        await log.write(
            [
                row("insert", "x", 1, {"owner": user}, **mine),
                row("insert", "x", 2, {"owner": user}, table="agents", **mine),
                row("insert", "x", 3, {"owner": user}, app_id="notes", table="notes", **mine),
            ]
        )
    async with running(log.settings):
        await log.caught_up()
    return log


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
async def test_a_reader_sees_the_rows_of_the_user_it_names_and_without_one_none(two_users, view):
    table = sql.Identifier("mana_ai", view.table)
    query = sql.SQL("select user_id, record ->> 'owner' from {}").format(table)
    async with await connect(two_users.settings, "projector_reader") as reader:
        assert await (await reader.execute(query)).fetchall() == []
        for user in ("u1", "u2"):
            await reader.execute("select set_config('app.current_user_id', %s, false)", [user])
            assert await (await reader.execute(query)).fetchall() == [(user, user)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await reader.execute(sql.SQL("delete from {}").format(table_of(view, 1)))


async def test_the_planner_reads_all_users_and_the_sink_missions_of_one(two_users):
    async with await connect(two_users.settings, "projector_planner") as planner:
        for view in VIEWS.values():
            count = sql.SQL("select count(*) from {}").format(sql.Identifier("mana_ai", view.table))
            rows = await planner.execute(count)
            assert await rows.fetchone() == (2,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await planner.execute("select from sync_changes")
    async with await connect(two_users.settings, "projector_sink") as sink:
        await sink.execute("select set_config('app.current_user_id', 'u1', false)")
        assert await (await sink.execute("select user_id from mana_ai.mission_snapshots")).fetchall() == [("u1",)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await sink.execute("select from mana_ai.agent_snapshots")
