"""What one version stored, another goes on with, or holds with the reason.

Whoever releases adds one file to `tests/data/ledgers`, made by the very code that is released and committed with it:
`SAVE_LEDGER=<release> pytest tests/planner/test_versions.py -k saved`. A file that is there is never made anew.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from projector.embedded.database import STREAM_LOGIN, create_log
from projector.embedded.servers import Servers
from projector.planner import gathering, versions
from projector.planner import run as run_module
from projector.planner.catalogue import PLANNABLE
from projector.planner.ledger import Ledger
from projector.planner.writer import Writer
from projector.sql import migrate as migrating
from projector.sql.connection import pool
from tests.fixtures.settings import Database, Template, drop_database, settings_for
from tests.llm.double import Double, Reply, calls, text
from tests.planner.ledgers import LEDGERS, load, read, save
from tests.planner.test_worker import FAST, TASK, settled, worked, working
from tests.planner.world import World

STOPPED, PLANNED, WRITTEN = "stopped", "planned", "written"
HANGS = Reply(pause_s=3600.0)
RELEASES = sorted(LEDGERS.glob("*.json"))


async def written(world: World, count: int) -> None:
    """Writes what is planned, until so many runs are written."""
    async with pool(world.settings, "projector_sink", size=1) as sink:
        writer = Writer(world.settings, sink, world.pool, FAST)
        async with asyncio.timeout(15):
            while len(world.runs(state="written")) < count:
                for run in world.runs(state="planned"):
                    await writer.write(run["run_id"], run["user_id"])
                await asyncio.sleep(0.02)
    await world.catch_up()


async def ledger_of_this_version(world: World) -> None:
    """A run that was stopped after a stored step, one whose plan is not written yet, and one that is finished."""
    await world.agent(maxConcurrentMissions=3, systemPrompt="be brief")
    await world.mission(mission=WRITTEN)
    async with Double(calls(TASK), text("fertig")) as double:
        await worked(world, double, "planned")
    await written(world, 1)
    await world.mission(mission=PLANNED)
    await world.open()
    async with Double(calls(TASK), text("fertig")) as double, working(world, double):
        await settled(world, "planned")
    await world.mission(mission=STOPPED)
    await world.open()
    async with Double(calls(TASK), HANGS) as double, working(world, double), asyncio.timeout(15):
        while len(double.requests) < 2:
            await asyncio.sleep(0.02)
    # That worker handed its run back, which one that vanishes does not.
    await world.ledger("vanished", lease_s=0.0).claim(1, per_user=1)


@contextmanager
def database_of(saved: dict[str, Any], stack: Servers, template: Template) -> Iterator[Database]:
    """A database as far migrated as the saved one was, with what that held, and then migrated by the present code."""
    every = migrating.migrations()
    name = f"test_{secrets.token_hex(6)}"
    url = stack.create_database(name)
    try:
        create_log(url)
        with psycopg.connect(url, autocommit=True) as admin:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(migrating, "migrations", lambda: [m for m in every if m.number <= saved["migration"]])
                migrating.migrate(admin)
            load(admin, saved)
            migrating.migrate(admin)
            migrating.grant_login(admin, STREAM_LOGIN)
        yield Database(name, url, template.logins.of_database(name))
    finally:
        drop_database(stack.admin_url, name)


async def goes_on(saved: dict[str, Any], stack: Servers, template: Template) -> None:
    """The present code brings every saved run to its iteration, and pays for what is missing alone."""
    before = {run["mission_id"]: run for run in saved["mana_ai.mission_runs"]}
    assert {mission: run["state"] for mission, run in before.items()} == {
        STOPPED: "running",
        PLANNED: "planned",
        WRITTEN: "written",
    }
    with database_of(saved, stack, template) as database:
        settings = settings_for(stack, database)
        async with pool(settings, "projector_planner", size=4) as connections:
            world = World(settings, database, connections)
            try:
                await world.catch_up()
                async with Double(text("weiter")) as double, working(world, double):
                    await settled(world, "planned", count=2)
                (request,) = double.requests
                assert [m["role"] for m in request["messages"]] == ["system", "user", "assistant", "tool"]
                assert request["messages"][0]["content"] == before[STOPPED]["brief"]["system"]
                await written(world, 3)
                assert {run["decision"] for run in world.runs()} == {"ran"}
                (record,) = world.admin.execute(
                    "select jsonb_object_agg(mission_id, record -> 'iterations') from mana_ai.mission_snapshots"
                ).fetchone()
                for mission, run in before.items():
                    (iteration,) = record[mission]
                    assert iteration["id"] == run["iteration_id"]
                    assert [step["intent"]["params"] for step in iteration["plan"]] == [TASK[1]]
                    assert iteration["summary"] == ("weiter" if mission == STOPPED else "fertig")
                assert len(world.ours()) == 3
            finally:
                world.close()


@pytest.mark.parametrize("file", RELEASES, ids=[file.stem for file in RELEASES])
async def test_the_present_code_goes_on_with_the_ledger_of(file: Path, stack: Servers, template: Template):
    await goes_on(read(file), stack, template)


async def test_a_ledger_of_the_present_code_can_be_saved_and_gone_on_with(
    world: World, stack: Servers, template: Template, tmp_path: Path
):
    await ledger_of_this_version(world)
    release = os.environ.get("SAVE_LEDGER")
    file = LEDGERS / f"{release}.json" if release else tmp_path / "ledger.json"
    save(world.admin, file)
    await goes_on(read(file), stack, template)


async def test_runs_with_an_agent_that_no_index_can_hold_are_claimed_after_the_migration(
    stack: Servers, template: Template
):
    saved = read(RELEASES[0])
    (run,) = (run for run in saved["mana_ai.mission_runs"] if run["mission_id"] == STOPPED)
    endless = "".join(secrets.token_hex(32) for _ in range(100))
    due = dict.fromkeys(("lease_owner", "lease_until", "admitted_at", "brief", "started_at"))
    due |= {"state": "due", "next_attempt_at": run["due_at"], "agent_id": endless, "mission_id": "endless"}
    due |= {"run_id": str(uuid4()), "iteration_id": str(uuid4())}
    saved["mana_ai.mission_runs"].append(run | due)
    with database_of(saved, stack, template) as database:
        settings = settings_for(stack, database)
        async with pool(settings, "projector_planner", size=1) as connections:
            claimed = await Ledger(connections, "w1", 60.0).claim(9, per_user=9)
    assert {run.mission_id: run.agent_id for run in claimed} == {STOPPED: run["agent_id"], "endless": endless[:256]}


async def test_every_version_that_is_listed_has_a_ledger_that_holds_it():
    ledgers = [read(file) for file in RELEASES]
    runs = [run for ledger in ledgers for run in ledger["mana_ai.mission_runs"]]
    assert {run["brief"]["version"] for run in runs} == set(versions.CONTINUED)
    assert {run["plan"]["version"] for run in runs if run["plan"]} == set(versions.WRITTEN)
    assert versions.STEPS in versions.CONTINUED
    assert versions.PLAN in versions.WRITTEN


async def stopped(world: World) -> dict[str, Any]:
    """One run that has a stored step, and nobody at it."""
    await world.agent()
    await world.mission()
    async with Double(calls(TASK), HANGS) as double:
        await world.open()
        async with working(world, double), asyncio.timeout(15):
            while len(double.requests) < 2:
                await asyncio.sleep(0.02)
    return world.run()


async def test_a_run_with_steps_of_another_version_is_held_with_version_and_remedy_and_costs_nothing(world: World):
    await stopped(world)
    world.admin.execute("update mana_ai.mission_runs set brief = brief || '{\"version\": 7}'")
    async with Double(text("nie")) as double, working(world, double):
        await settled(world, "held")
    run = world.run()
    assert (run["decision"], run["attempts"]) == ("skipped-version", 0)
    assert "version 7, and this program continues version 2 only: run a planner that" in run["reason"]
    assert double.requests == []
    # A program that lists the version goes on where the other one stopped.
    world.shift_clock_past(run["run_id"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(versions, "CONTINUED", (2, 7))
        async with Double(text("weiter")) as double, working(world, double):
            await settled(world, "planned")
    assert len(double.requests) == 1
    assert world.run()["brief"]["version"] == 7


async def test_a_plan_of_another_version_waits_with_version_and_remedy(world: World):
    await world.agent()
    await world.mission()
    async with Double(text("fertig")) as double:
        run = await worked(world, double, "planned")
    world.admin.execute("update mana_ai.mission_runs set plan = plan || '{\"version\": 7}'")
    async with pool(world.settings, "projector_sink", size=1) as sink:
        writer = Writer(world.settings, sink, world.pool, FAST)
        await writer.write(run["run_id"], "u1")
        waiting = world.run()
        assert (waiting["state"], waiting["decision"]) == ("planned", "write-refused")
        assert "version 7, and this program writes version 1 only: run a sink that" in waiting["reason"]
        assert world.ours() == []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(versions, "WRITTEN", (1, 7))
            await writer.write(run["run_id"], "u1")
    assert world.run()["state"] == "written"


async def test_a_version_that_describes_tools_otherwise_and_has_more_of_them_pays_for_no_answer_again(world: World):
    await stopped(world)
    described = tuple(replace(tool, description=f"{tool.description} (neu)") for tool in reversed(PLANNABLE))
    more = (*described, replace(described[0], name="brand_new"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "PLANNABLE", more)
        async with Double(text("weiter")) as double, working(world, double):
            await settled(world, "planned")
    (request,) = double.requests
    assert [message["role"] for message in request["messages"]] == ["system", "user", "assistant", "tool"]
    offered = [tool["function"]["name"] for tool in request["tools"]]
    assert offered == [tool.name for tool in PLANNABLE]


async def test_settings_that_were_changed_meanwhile_are_for_new_runs(world: World):
    await world.agent()
    await world.mission()
    await world.open()
    async with Double(calls(TASK), HANGS) as double, working(world, double, planner_subagents=True):
        async with asyncio.timeout(15):
            while len(double.requests) < 2:
                await asyncio.sleep(0.02)
    async with Double(text("weiter")) as double, working(world, double, planner_format="json"):
        await settled(world, "planned")
    (request,) = double.requests
    assert [message["role"] for message in request["messages"]] == ["system", "user", "assistant", "tool"]
    assert "task" in [tool["function"]["name"] for tool in request["tools"]]


async def test_what_another_version_gathered_is_gathered_anew(world: World):
    await world.agent()
    await world.mission(inputs=[{"id": "g1", "module": "goals", "table": "companionGoals"}])
    await world.open()
    world.admin.execute(
        "update mana_ai.mission_runs set brief = %s",
        [Jsonb({"version": 7, "gatheredFor": "x", "inputs": {"told": [{"strange": 1}], "gaps": []}})],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gathering, "gathered_for", lambda mission: "x")
        async with Double(text("fertig")) as double, working(world, double):
            await settled(world, "planned")
    assert world.run()["brief"]["version"] == versions.STEPS
