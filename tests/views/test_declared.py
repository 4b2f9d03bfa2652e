from __future__ import annotations

import asyncio

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
        "grant select, insert, update, delete on mana_ai.goal_snapshots to projector_engine;"
        "select mana_ai.keep_generations('goals', 'goal_snapshots')"
    )
    await log.write([row("insert", "g1", 1, {"title": "Run"}, table="goals"), row("insert", "m1", 2, {"title": "m"})])
    stop = asyncio.Event()
    work = asyncio.create_task(consume(log.settings, GOALS, Staleness(GOALS), stop))
    await log.caught_up(GOALS)
    shown = await log.admin.execute("select user_id, goal_id, title from mana_ai.goal_snapshots")
    assert await shown.fetchall() == [("u1", "g1", "Run")]
    assert (await verify(log.settings, GOALS)).examples == ()
    [rebuilt] = await rebuild_and_compare(log.settings, [GOALS])
    assert (rebuilt.rows, rebuilt.differences) == (1, 0)
    stop.set()
    await work


def test_every_table_of_a_configured_app_belongs_to_exactly_one_view():
    for app, table in [("ai", "aiMissions"), ("ai", "agents"), ("ai", "goals"), ("notes", "agents")]:
        assert sum(view.takes(app, table) for view in (MISSIONS, AGENTS, RECORDS)) == 1
    assert MISSIONS.apps(("notes",)) == ()
    assert RECORDS.apps(("notes", "ai")) == ("notes", "ai")
