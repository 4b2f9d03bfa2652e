from __future__ import annotations

import asyncio

from projector.sql.connection import connect
from projector.views import rebuild
from projector.views.consume import consume
from projector.views.declared import AGENTS, MISSIONS, RECORDS, Column, View, text
from projector.views.rebuild import rebuild_and_compare
from projector.views.verify import verify
from projector.views.watermarks import Staleness
from tests.views.log import row

GOALS = View(
    name="goals",
    table="goal_snapshots",
    key=("user_id", None, None, "goal_id"),
    sources=(("ai", "goals"),),
    columns=(Column("title", "text", text("title")),),
)


async def test_a_view_is_added_by_one_declaration_and_one_table(log):
    await log.admin.execute(
        "create table mana_ai.goal_snapshots (like mana_ai.agent_snapshots_1 including all);"
        "alter table mana_ai.goal_snapshots rename agent_id to goal_id;"
        "alter table mana_ai.goal_snapshots rename status to title;"
        "alter table mana_ai.goal_snapshots enable row level security;"
        "alter table mana_ai.goal_snapshots force row level security;"
        "create policy own_rows on mana_ai.goal_snapshots for select to projector_reader"
        " using (user_id = current_setting('app.current_user_id', true));"
        "grant select on mana_ai.goal_snapshots to projector_reader;"
        "grant select, insert, update, delete on mana_ai.goal_snapshots to projector_engine;"
        "select mana_ai.keep_generations('goals', 'goal_snapshots')"
    )
    protected = await log.admin.execute(
        "select relname, relrowsecurity and relforcerowsecurity from pg_class where relname like 'goal_snapshots\\__'"
        " order by 1"
    )
    assert await protected.fetchall() == [("goal_snapshots_1", True), ("goal_snapshots_2", True)]
    await log.write([row("insert", "g1", 1, {"title": "Run"}, table="goals"), row("insert", "m1", 2, {"title": "m"})])
    stop = asyncio.Event()
    work = asyncio.create_task(consume(log.settings, GOALS, Staleness(GOALS), stop))
    await log.caught_up(GOALS)
    shown = await log.admin.execute("select user_id, goal_id, title from mana_ai.goal_snapshots")
    assert await shown.fetchall() == [("u1", "g1", "Run")]
    assert (await verify(log.settings, GOALS)).examples == ()
    [rebuilt] = await rebuild_and_compare(log.settings, [GOALS])
    assert (rebuilt.rows, rebuilt.differences) == (1, 0)
    await rebuild.start(log.settings, GOALS)
    await rebuild.promote(log.settings, GOALS)
    # The generation that was made for it is under the same policies and rights.
    async with await connect(log.settings, "projector_reader") as reader:
        for user, titles in (("u1", [("Run",)]), ("u2", [])):
            await reader.execute("select set_config('app.current_user_id', %s, false)", [user])
            found = await reader.execute("select title from mana_ai.goal_snapshots")
            assert await found.fetchall() == titles
    stop.set()
    await work


def test_every_table_of_a_configured_app_belongs_to_exactly_one_view():
    for app, table in [("ai", "aiMissions"), ("ai", "agents"), ("ai", "goals"), ("notes", "agents")]:
        assert sum(view.takes(app, table) for view in (MISSIONS, AGENTS, RECORDS)) == 1
    assert MISSIONS.apps(("notes",)) == ()
    assert RECORDS.apps(("notes", "ai")) == ("notes", "ai")
