"""Research in runs: the real worker and database, and services that speak HTTP."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import psycopg
import pytest
from prometheus_client import REGISTRY
from pydantic import SecretStr

from projector.errors import ConfigError
from projector.planner.pace import Pace
from projector.planner.research.jobs import Jobs
from projector.planner.research.seek import MAX_FAILURES
from projector.planner.research.services import ResearchServices
from projector.planner.retention import prune_batch
from projector.sql import query
from projector.sql.connection import connect
from tests.cli.in_process import read
from tests.llm.double import Double, calls, error, text
from tests.planner.research_double import DROP, ResearchDouble
from tests.planner.test_inputs import GOAL, GOAL_REF, NOTE_REF, section
from tests.planner.test_inputs import count as inputs_counted
from tests.planner.test_replay import command
from tests.planner.test_tracing import told
from tests.planner.test_worker import FAST, settled, worked, working
from tests.planner.world import World
from tests.planner.writing import write_back

QUICK = replace(FAST, first_poll_s=0.0)
SLOW = replace(FAST, first_poll_s=1000.0, longest_poll_s=1000.0)
DEEP = {"objective": "Mach einen Deep Dive zu Tomaten"}
SHALLOW = {"objective": "Finde aktuelle News zu Tomaten"}
DEEP_BLOCK = (
    '<user_data>\n### news-research/web: Deep Research: "Mach einen Deep Dive zu Tomaten"\n'
    '# Deep-Research: "Mach einen Deep Dive zu Tomaten"\n\nTomaten brauchen Sonne.\n\n'
    "## Quellen\n- [Quelle](https://source.example/1) — viel Sonne\n</user_data>\n"
    "Nenne und verwende als Quellen nur die in dieser Recherche aufgeführten URLs; erfinde keine."
)


def jobs(world: World) -> list[dict]:
    rows = world.admin.execute(
        "select to_jsonb(j) from mana_ai.mission_research_jobs j order by user_id, mission_id"
    ).fetchall()
    return [row for (row,) in rows]


def inputs_told(double: Double, request: int = 0) -> str:
    return section(double.requests[request]["messages"][1]["content"])


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"mana_ai_research_{name}_total", labels) or 0


async def ready(world: World, **mission) -> None:
    await world.agent()
    await world.mission(**mission)


async def write(world: World) -> str:
    run = world.run(state="planned")
    async with await connect(world.settings, "projector_sink") as conn:
        return await write_back(conn, run["run_id"], run["user_id"], zone=ZoneInfo("UTC"), pace=Pace())


# Shallow


async def test_shallow_research_is_told_as_an_input_of_its_own(world: World):
    await ready(world, **SHALLOW)
    async with ResearchDouble() as research, Double(text("fertig")) as double:
        await worked(world, double, "planned", **research.settings)
    assert inputs_told(double) == (
        '<user_data>\n### news-research/web: Web-Research: "Finde aktuelle News zu Tomaten"\n'
        '# Web-Research: "Finde aktuelle News zu Tomaten"\n\n1 Feeds, 2 Artikel\n\n'
        "## Neues vom Garten\n> Die Tomaten reifen.\nURL: https://news.example/1\nDatum: 2026-04-01\n\n"
        "## Ohne Auszug\nURL: https://news.example/2\n</user_data>\n"
        "Nenne und verwende als Quellen nur die in dieser Recherche aufgeführten URLs; erfinde keine."
    )
    (discover,), (search,) = research.asked["discover"], research.asked["search"]
    assert discover["body"] == {"query": SHALLOW["objective"], "language": "de", "limit": 5}
    assert search["body"] == {"feeds": ["https://feed.example/1"], "query": SHALLOW["objective"], "limit": 8}
    assert discover["headers"]["x-user-id"] == "u1"
    assert research.tasks == {}


async def test_e14_a_plan_goes_on_without_research_when_the_service_is_down(world: World):
    failed = counted("shallow", result="failed")
    await ready(world, **SHALLOW)
    async with ResearchDouble(failing={"search": [503]}) as research, Double(text("fertig")) as double:
        run = await worked(world, double, "planned", **research.settings)
    assert inputs_told(double) == "_(Nicht lesbar und deshalb nicht dabei: Web-Recherche (nicht erreichbar))_"
    assert run["plan"]["summary"] == "fertig"
    assert counted("shallow", result="failed") == failed + 1


@pytest.mark.parametrize("found", [{"feeds": []}, {"articles": []}, {"feeds": [{"title": "t"}, 7]}, {"articles": "x"}])
async def test_research_that_finds_nothing_is_no_input(world: World, found):
    await ready(world, **SHALLOW)
    async with ResearchDouble(**found) as research, Double(text("fertig")) as double:
        await worked(world, double, "planned", **research.settings)
    assert inputs_told(double) == "_(keine verlinkten Inputs)_"


async def test_a_mission_that_asks_for_none_and_an_installation_without_services_research_nothing(world: World):
    await ready(world, objective="Gieße die Tomaten")
    await world.mission(mission="m2", agentId="a1", **SHALLOW)
    async with ResearchDouble() as research, Double(text("fertig")) as double:
        await world.open()
        async with working(world, double):
            await settled(world, "planned", count=2)
    assert not research.asked
    assert {inputs_told(double, n) for n in (0, 1)} == {"_(keine verlinkten Inputs)_"}


async def test_no_ciphertext_reaches_a_research_service_or_comes_back_from_it(world: World):
    secret = "enc:1:aXY=.Y3Q="
    await ready(world, objective=f"Deep Dive, News: {secret}")
    answer = {"answer": f"a {secret}", "citations": [{"url": "https://x.example", "title": secret}]}
    async with ResearchDouble(answer=answer) as research, Double(text("fertig")) as double:
        await worked(world, double, "planned", pace=QUICK, **research.settings)
    assert len(research.tasks) == 1
    assert b"enc:1:" not in research.raw + double.raw


# Deep


async def test_e15_a_deep_dive_is_submitted_waits_while_it_runs_and_is_told_when_it_is_done(world: World):
    before = {name: counted(f"jobs_{name}", provider="gemini-deep-research-max") for name in ("submitted", "completed")}
    skips, spent = counted("jobs_pending_skips"), counted("credits", provider="gemini-deep-research-max")
    await ready(world, **DEEP)
    async with ResearchDouble(statuses=["queued", "running", "completed"]) as research, Double(text("ja")) as double:
        run = await worked(world, double, "held", pace=SLOW, **research.settings)
        assert (run["decision"], run["attempts"], run["admitted_at"]) == ("research-pending", 0, None)
        assert "gemini-deep-research-max" in run["reason"]
        assert (run["next_attempt_at"] - run["updated_at"]).total_seconds() == pytest.approx(1000, abs=1)
        (job,) = jobs(world)
        assert (job["state"], job["task_id"], job["run_id"]) == ("submitted", "task/1", str(run["run_id"]))
        world.shift_clock_past(run["run_id"])
        async with working(world, double, QUICK, **research.settings):
            await settled(world, "planned")
        assert [len(research.asked[call]) for call in ("submit", "poll", "discover")] == [1, 3, 0]
        assert inputs_told(double) == DEEP_BLOCK
        assert [job["state"] for job in jobs(world)] == ["completed"]
        assert await write(world) == "written"
        assert jobs(world) == []
    (submit,) = research.asked["submit"]
    assert submit["body"] == {"query": DEEP["objective"], "provider": "gemini-deep-research-max"}
    assert submit["headers"]["idempotency-key"] == str(run["run_id"])
    sent = [submit["headers"][f"x-{name}"] for name in ("service-key", "user-id", "app-id")]
    assert sent == ["research-key", "u1", "mana-ai"]
    assert research.asked["poll"][0]["path"].endswith("/task%2F1")
    assert (world.run()["attempts"], counted("jobs_pending_skips")) == (1, skips + 3)
    assert counted("credits", provider="gemini-deep-research-max") == spent + 500
    for name, value in before.items():
        assert counted(f"jobs_{name}", provider="gemini-deep-research-max") == value + 1


async def test_what_a_job_costs_stays_with_its_run_when_the_job_is_gone(world: World, capsys):
    await ready(world, **DEEP)
    async with ResearchDouble() as research, Double(text("ja")) as double:
        run = await worked(world, double, "planned", pace=QUICK, **research.settings)
    await write(world)
    assert jobs(world) == []
    [shown] = await command(world, capsys, "show", run["run_id"])
    assert (shown["research_credits"], shown["research_at"] is None) == (500.0, False)
    told_of_it = await asyncio.to_thread(read, world.settings, capsys, "runs", "show", str(run["run_id"]))
    assert re.search("research  deep, begun 2.*Z, 500 credits", told_of_it)
    assert (await told(world, run))[0].attributes["projector.research.credits"] == 500.0


async def test_a_day_has_no_more_deep_jobs_than_the_setting_says_and_the_rest_get_shallow_research(world: World):
    capped = counted("capped")
    await world.agent(maxConcurrentMissions=5)
    for mission in ("m1", "m2", "m3"):
        await world.mission(mission=mission, **DEEP)
    await world.open()
    async with ResearchDouble() as research, Double(text("ja")) as double:
        terms = research.settings | {"max_research_per_day": 2}
        async with working(world, double, QUICK, **terms):
            await settled(world, "planned", count=3)
        assert (len(research.tasks), len(jobs(world)), counted("capped")) == (2, 2, capped + 1)
        assert sorted("Web-Research" in inputs_told(double, n) for n in range(3)) == [False, False, True]
        # The next day is another one.
        world.admin.execute("update mana_ai.mission_runs set research_at = research_at - interval '1 day'")
        await world.mission(mission="m4", **DEEP)
        await world.open()
        async with working(world, double, QUICK, **terms):
            await settled(world, "planned", count=4)
    assert (len(research.tasks), counted("capped")) == (3, capped + 1)


async def test_workers_that_begin_jobs_at_once_keep_to_the_days_number(world: World):
    await world.agent(maxConcurrentMissions=9)
    for mission in ("m1", "m2"):
        await world.mission(mission=mission, **DEEP)
    await world.open()
    first, second = await world.ledger().claim(2, per_user=10)
    begun = Jobs(world.pool, "w1")
    with psycopg.connect(world.database.admin_url) as another:
        # Another worker at the moment between its count and its commit.
        another.execute(query("planner/lock_research"))
        another.execute("update mana_ai.mission_runs set research_at = now() where run_id = %s", [first.run_id])
        asked = asyncio.create_task(begun.intend(second, "p", "q", most_a_day=1))
        done, _ = await asyncio.wait({asked}, timeout=0.3)
        assert not done
        another.commit()
        assert await asyncio.wait_for(asked, 10) is None
    assert jobs(world) == []
    assert await begun.intend(second, "p", "q", most_a_day=2) is not None


async def test_a_run_that_waits_for_a_job_reads_no_record_until_that_is_done(world: World):
    await world.record("companion", "companionGoals", "g1", **GOAL)
    await ready(world, inputs=[GOAL_REF], **DEEP)
    read_before = inputs_counted("goals", "told")
    async with ResearchDouble(statuses=["running", "running", "completed"]) as research, Double(text("ja")) as double:
        run = await worked(world, double, "held", pace=SLOW, **research.settings)
        for polls in (1, 2):
            world.shift_clock_past(run["run_id"])
            async with working(world, double, SLOW, **research.settings), asyncio.timeout(15):
                while jobs(world)[0]["polls"] <= polls or world.run()["state"] == "running":
                    await asyncio.sleep(0.02)
        assert inputs_counted("goals", "told") == read_before + 1  # before the job was begun
        world.shift_clock_past(run["run_id"])
        async with working(world, double, SLOW, **research.settings):
            await settled(world, "planned")
    assert inputs_counted("goals", "told") == read_before + 2
    assert "Laufen" in inputs_told(double)


async def test_a_waiting_run_takes_no_place_from_its_agents_other_missions(world: World):
    await ready(world, **DEEP)
    async with ResearchDouble() as research, Double(text("ja")) as double:
        await worked(world, double, "held", pace=SLOW, **research.settings)
        await world.mission(mission="m2")
        await world.open()
        async with working(world, double, SLOW, **research.settings):
            await settled(world, "planned")
    assert world.run(mission_id="m2")["state"] == "planned"


async def test_deep_research_is_off_until_it_is_turned_on_but_a_job_that_runs_is_asked_for(world: World):
    await ready(world, **DEEP)
    async with ResearchDouble(statuses=["running"]) as research, Double(text("ja")) as double:
        off = research.settings | {"deep_research": world.settings.deep_research}
        await worked(world, double, "planned", **off)
        assert (list(research.tasks), "Web-Research" in inputs_told(double)) == ([], True)
        await write(world)
        await world.catch_up()
        await world.mission(mission="m2", **DEEP)
        await world.open()
        async with working(world, double, SLOW, **research.settings):
            await settled(world, "held")
        research.statuses = ["completed"]
        world.shift_clock_past(world.run(mission_id="m2")["run_id"])
        async with working(world, double, **off):
            await settled(world, "planned")
    assert inputs_told(double, 1) == DEEP_BLOCK


@pytest.mark.parametrize(
    ("service", "reason"),
    [
        ({"statuses": ["failed"]}, "the service says failed"),
        ({"statuses": ["running", "cancelled"]}, "the service says cancelled"),
        ({"answer": {"answer": "  "}}, "its answer is empty"),
        ({"answer": None}, "its answer is empty"),
        ({"failing": {"poll": [404]}}, "answered 404"),
        ({"failing": {"submit": [402]}}, "answered 402"),
        ({"failing": {"poll": [503] * MAX_FAILURES}}, "answered 503"),
        ({"failing": {"submit": [503] * MAX_FAILURES}}, "answered 503"),
        ({"statuses": ["lost"]}, "the answer has no status that we know"),
    ],
)
async def test_a_job_that_ends_without_a_result_leaves_the_run_to_shallow_research(world: World, service, reason):
    ended = "jobs_completed" if reason == "its answer is empty" else "jobs_failed"
    before = counted(ended, provider="gemini-deep-research-max")
    await ready(world, **DEEP)
    async with ResearchDouble(**service) as research, Double(text("ja")) as double:
        await worked(world, double, "planned", pace=QUICK, **research.settings)
        assert 'Web-Research: "Mach einen Deep Dive' in inputs_told(double)
        assert [(job["state"], job["reason"]) for job in jobs(world)] == [("failed", reason)]
        assert len(research.tasks) <= 1
    assert counted(ended, provider="gemini-deep-research-max") == before + 1


async def test_deep_research_that_failed_is_a_gap_where_there_is_no_other(world: World):
    await ready(world, **DEEP)
    async with ResearchDouble(statuses=["failed"]) as research, Double(text("ja")) as double:
        await worked(world, double, "planned", pace=QUICK, **research.settings | {"news_url": ""})
    assert inputs_told(double) == "_(Nicht lesbar und deshalb nicht dabei: Web-Recherche (nicht erreichbar))_"


async def test_a_job_that_takes_too_long_is_given_up(world: World):
    await ready(world, **DEEP)
    async with ResearchDouble(statuses=["running"]) as research, Double(text("ja")) as double:
        run = await worked(world, double, "held", pace=SLOW, **research.settings)
        world.admin.execute("update mana_ai.mission_research_jobs set intended_at = now() - interval '3 hours'")
        world.shift_clock_past(run["run_id"])
        async with working(world, double, QUICK, **research.settings):
            await settled(world, "planned")
    assert jobs(world)[0]["reason"] == "it was not done within 7200 s"


async def test_an_answer_without_sources_is_told_and_one_of_any_shape_does_no_harm(world: World):
    await ready(world, **DEEP)
    answer = {"answer": "A\0B", "citations": [7, {"title": 1, "url": "https://a b", "snippet": None}]}
    async with ResearchDouble(answer=answer) as research, Double(text("ja")) as double:
        await worked(world, double, "planned", pace=QUICK, **research.settings)
    assert "A\ufffdB" in inputs_told(double)


async def test_a_lost_answer_to_a_submission_leads_to_one_task(world: World):
    await ready(world, **DEEP)
    async with ResearchDouble(failing={"submit": [DROP]}) as research, Double(text("ja")) as double:
        await worked(world, double, "planned", pace=QUICK, **research.settings)
    assert (len(research.asked["submit"]), len(research.tasks)) == (2, 1)
    assert inputs_told(double) == DEEP_BLOCK


async def test_a_result_outlives_a_planner_that_fails_and_is_used_by_the_missions_next_run(world: World):
    await ready(world, **DEEP)
    async with ResearchDouble() as research, Double(error(401)) as double:
        await worked(world, double, "planned", pace=QUICK, **research.settings)
        assert world.run()["decision"] == "failed"
        await write(world)
        await world.catch_up()
        assert [job["state"] for job in jobs(world)] == ["completed"]
        await world.edit(nextRunAt="2026-01-01T00:00:00.000Z")
        await world.open()
        double.replies = [text("ja")]
        async with working(world, double, QUICK, **research.settings):
            await settled(world, "planned")
    assert (len(world.runs()), len(research.asked["submit"])) == (2, 1)
    assert [inputs_told(double, n) for n in (0, 1)] == [DEEP_BLOCK] * 2


@pytest.mark.parametrize("change", ["another question", "an old answer"])
async def test_an_answer_of_an_earlier_run_is_used_only_if_it_is_one_to_this_question_and_new(world: World, change):
    await ready(world, **DEEP)
    async with ResearchDouble() as research, Double(error(401)) as double:
        await worked(world, double, "planned", pace=QUICK, **research.settings)
        await write(world)
        await world.catch_up()
        objective = DEEP["objective"]
        if change == "another question":
            objective = "Ein Deep Dive zu Gurken"
        else:
            world.admin.execute("update mana_ai.mission_research_jobs set intended_at = now() - interval '8 days'")
        await world.edit(nextRunAt="2026-01-01T00:00:00.000Z", objective=objective)
        await world.open()
        double.replies = [text("ja")]
        async with working(world, double, QUICK, **research.settings):
            await settled(world, "planned")
    assert [task.query for task in research.tasks.values()] == [DEEP["objective"], objective]


async def test_a_job_that_an_earlier_run_intended_is_submitted_under_that_ones_key(world: World):
    await ready(world, **DEEP)
    async with ResearchDouble(failing={"submit": [503]}) as research, Double(text("ja")) as double:
        first = await worked(world, double, "held", pace=SLOW, **research.settings)
        world.admin.execute("update mana_ai.mission_runs set state = 'cancelled', reason = 'r', next_attempt_at = null")
        await world.edit(nextRunAt="2026-01-01T00:00:00.000Z")
        await world.open()
        async with working(world, double, QUICK, **research.settings):
            await settled(world, "planned")
    assert {asked["headers"]["idempotency-key"] for asked in research.asked["submit"]} == {str(first["run_id"])}
    assert len(research.asked["submit"]) == 2


async def test_pruning_a_run_takes_the_job_that_it_began(world: World):
    await ready(world, **DEEP)
    async with ResearchDouble() as research, Double(error(401)) as double:
        await worked(world, double, "planned", pace=QUICK, **research.settings)
    await write(world)
    assert len(jobs(world)) == 1
    async with world.pool.connection() as conn:
        assert await prune_batch(conn, "runs", datetime.now(UTC) + timedelta(days=1)) == 1
    assert jobs(world) == []


async def test_a_job_that_a_later_run_asks_for_is_not_taken_with_the_run_that_began_it(world: World):
    await ready(world, **DEEP)
    async with ResearchDouble(statuses=["running"]) as research, Double(text("ja")) as double:
        await worked(world, double, "held", pace=SLOW, **research.settings)
    world.admin.execute("update mana_ai.mission_runs set state = 'cancelled', reason = 'r', next_attempt_at = null")
    async with world.pool.connection() as conn:
        assert await prune_batch(conn, "runs", datetime.now(UTC) + timedelta(days=1)) == 0
        world.admin.execute("update mana_ai.mission_research_jobs set intended_at = now() - interval '2 days'")
        assert await prune_batch(conn, "runs", datetime.now(UTC) + timedelta(days=1)) == 1


async def test_an_answer_goes_with_the_prompts_of_its_run(world: World):
    await ready(world, **DEEP)
    async with ResearchDouble() as research, Double(error(401)) as double:
        await worked(world, double, "planned", pace=QUICK, **research.settings)
    await write(world)
    async with world.pool.connection() as conn:
        assert await prune_batch(conn, "steps", datetime.now(UTC) + timedelta(days=1)) == 1
    assert jobs(world) == []


async def test_a_job_that_was_submitted_is_asked_for_again_however_old_it_is(world: World):
    await ready(world, **DEEP)
    async with (
        ResearchDouble(failing={"poll": [503]}) as research,
        Double(text("ja")) as double,
    ):
        run = await worked(world, double, "held", pace=SLOW, **research.settings)
        world.admin.execute("update mana_ai.mission_research_jobs set intended_at = now() - interval '3 hours'")
        world.shift_clock_past(run["run_id"])
        async with working(world, double, QUICK, **research.settings):
            await settled(world, "planned")
    assert inputs_told(double) == DEEP_BLOCK


async def test_each_due_time_has_one_job_and_a_run_none_after_it_was_written(world: World):
    await ready(world, **DEEP)
    async with ResearchDouble() as research, Double(text("ja")) as double:
        for number in (1, 2):
            await world.open()
            async with working(world, double, QUICK, **research.settings):
                await settled(world, "planned")
            await write(world)
            await world.catch_up()
            assert (await world.open(), len(research.tasks), jobs(world)) == (0, number, [])
            await world.edit(nextRunAt=f"2026-01-0{number}T00:00:00.000Z")
    assert len({task.key for task in research.tasks.values()}) == 2


async def test_a_run_over_its_budget_or_held_for_its_gaps_researches_nothing(world: World):
    await world.agent(maxTokensPerDay=0)
    await world.agent(agent="a2")
    await world.mission(**DEEP)
    await world.mission(mission="m2", agentId="a2", inputs=[NOTE_REF], **DEEP)
    await world.open()
    async with (
        ResearchDouble() as research,
        Double(text("nie")) as double,
        working(world, double, missions_with_gaps="hold", **research.settings),
    ):
        await settled(world, "held", count=2)
    assert {run["decision"] for run in world.runs()} == {"skipped-budget", "skipped-gaps"}
    assert (dict(research.asked), double.requests) == ({}, [])


async def test_nothing_is_researched_while_effects_are_stopped(world: World):
    await ready(world, **DEEP)
    world.admin.execute("update mana_ai.effects set stopped_at = now(), reason = 'by a test'")
    async with ResearchDouble() as research, Double(text("nie")) as double:
        run = await worked(world, double, "held", pace=SLOW, **research.settings)
    assert (run["decision"], dict(research.asked)) == ("skipped-stopped", {})


def test_deep_research_needs_an_address(settings):
    with pytest.raises(ConfigError, match="PROJECTOR_RESEARCH_URL"):
        ResearchServices.from_settings(settings.model_copy(update={"deep_research": True}))


# Crashes

WORKER = """
import asyncio
from projector.config import load_settings
from projector.llm.client import OpenAIChat
from projector.planner.pace import Pace
from projector.planner.research.services import ResearchServices
from projector.planner.worker import Worker
from projector.sql.connection import pool

async def main():
    settings = load_settings()
    async with (
        OpenAIChat.from_settings(settings) as model,
        ResearchServices.from_settings(settings) as services,
        pool(settings, "projector_planner", size=2) as connections,
    ):
        pace = Pace(poll_s=0.02, first_poll_s=0.0)
        await Worker(settings, connections, model, pace, services=services).run(asyncio.Event())

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("point", "state"),
    [
        ("planner.after_research_intent", "intended"),
        ("planner.after_research_submit", "intended"),
        ("planner.after_research_stored", "completed"),
    ],
)
async def test_a_worker_that_is_killed_neither_doubles_a_job_nor_loses_its_result(world: World, point, state):
    await ready(world, **DEEP)
    await world.open()
    async with ResearchDouble() as research, Double(calls(("create_note", {"content": "N"})), text("ja")) as double:
        changed = world.settings.model_copy(update=research.settings | {"llm_base_url": double.url})
        environment = {**os.environ, **changed.environment(), "PROJECTOR_CRASH_AT": point}
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", WORKER, env=environment)
        try:
            async with asyncio.timeout(60):
                assert await child.wait() == -signal.SIGKILL
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        assert ([job["state"] for job in jobs(world)], double.requests) == ([state], [])
        polled = len(research.asked["poll"])
        world.shift_clock_past(world.run()["run_id"])
        async with working(world, double, QUICK, **research.settings):
            await settled(world, "planned")
        assert len(research.tasks) == 1
        assert len({asked["headers"]["idempotency-key"] for asked in research.asked["submit"]}) == 1
        if state == "completed":
            assert len(research.asked["poll"]) == polled
        assert inputs_told(double) == DEEP_BLOCK
        assert await write(world) == "written"
    assert len(world.ours()) == 1


async def test_a_key_that_the_service_does_not_know_costs_no_job(world: World):
    await ready(world, **DEEP)
    async with ResearchDouble(statuses=["running", "completed"]) as research, Double(text("ja")) as double:
        run = await worked(world, double, "held", pace=SLOW, **research.settings)
        for key in ("another", "research-key"):
            world.shift_clock_past(run["run_id"])
            polled = len(research.asked["poll"])
            async with working(world, double, SLOW, **research.settings | {"research_key": SecretStr(key)}):
                async with asyncio.timeout(15):
                    while len(research.asked["poll"]) == polled or world.run()["state"] == "running":
                        await asyncio.sleep(0.02)
        world.shift_clock_past(run["run_id"])
        async with working(world, double, QUICK, **research.settings):
            await settled(world, "planned")
    assert inputs_told(double) == DEEP_BLOCK
