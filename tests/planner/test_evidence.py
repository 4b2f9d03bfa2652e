"""What `runs show` tells of a run without a word of its user: what it read, which gates it passed, where it went."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from projector.log.place import parse_lsn
from projector.planner.retention import prune
from projector.planner.writer import Writer
from projector.sql.connection import connect, pool
from tests.cli.in_process import read
from tests.fixtures.settings import login_in
from tests.llm.double import Double, error, text
from tests.planner.test_inputs import GOAL, GOAL_REF, NOTE_REF, planned_with
from tests.planner.test_replay import END, command
from tests.planner.test_tracing import told
from tests.planner.test_worker import FAST
from tests.planner.world import World

USELESS = error(200, {"choices": [], "usage": {"prompt_tokens": 30, "completion_tokens": 4}, "secret": "Laufen"})
GOAL_BYTES = len(b"Fortschritt: 2 / 3 (week)")


async def test_a_run_shows_its_inputs_by_size_its_gaps_and_its_gates_also_when_they_are_pruned(
    world: World, capsys: pytest.CaptureFixture[str]
):
    world.admin.execute(
        "insert into mana_ai.token_usage (user_id, agent_id, mission_id, run_id, tokens_used)"
        " values ('u1', 'a1', 'm0', gen_random_uuid(), 700)"
    )
    await world.record("companion", "companionGoals", "g1", **GOAL)
    async with Double(text("fertig")) as double:
        run = await planned_with(world, double, GOAL_REF, NOTE_REF)
    [shown] = await command(world, capsys, "show", run["run_id"])
    assert shown["brief"]["inputs"] == {
        "told": [{"module": "goals", "bytes": GOAL_BYTES}],
        "gaps": ["notes: missing"],
    }
    assert shown["gates"] == {"running": 0, "places": 1, "spent": 700, "reserved": 0, "cap": None}
    told = await asyncio.to_thread(read, world.settings, capsys, "runs", "show", str(run["run_id"]))
    assert "agent active, 0 of 1 runs at once, 700 tokens spent in 24 hours, 0 reserved by others" in told
    assert "Laufen" not in told
    world.admin.execute(END)
    async with await connect(world.settings, "projector_planner") as conn:
        assert [taken async for taken in prune(conn, {"steps": datetime.now(UTC)})] == [("steps", 1)]
    assert "Fortschritt" not in str(world.run()["brief"])
    [pruned] = await command(world, capsys, "show", run["run_id"])
    assert (pruned["brief"]["inputs"], pruned["gates"]) == (shown["brief"]["inputs"], shown["gates"])


async def test_calls_that_failed_are_told_with_their_time_their_tokens_and_none_of_their_words(
    world: World, capsys: pytest.CaptureFixture[str]
):
    async with Double(USELESS, error(503, {"error": {"message": "Laufen"}}), text("fertig")) as double:
        run = await planned_with(world, double)
    [shown] = await command(world, capsys, "show", run["run_id"])
    failed = shown["failed_calls"]
    assert [(one["error"], one["prompt_tokens"], one["completion_tokens"]) for one in failed] == [
        ("ChatAnswerError", 30, 4),
        ("ChatUnavailableError", 0, 0),
    ]
    assert all(one["ms"] >= 0 and one["cost"] is None and one["route"] == [] for one in failed)
    text_shown = await asyncio.to_thread(read, world.settings, capsys, "runs", "show", str(run["run_id"]))
    assert "30 + 4 tokens, ChatAnswerError in " in text_shown
    assert "Laufen" not in text_shown
    chats = [span for span in await told(world, run) if span.name.startswith("chat")]
    assert [span.error for span in chats] == ["", "ChatAnswerError", "ChatUnavailableError"]
    assert sum(span.attributes["gen_ai.usage.input_tokens"] for span in chats) == world.run()["prompt_tokens"] == 130
    assert len({span.span_id for span in chats}) == 3


async def test_what_an_endpoint_says_when_it_refuses_is_told_with_the_content_alone(
    world: World, capsys: pytest.CaptureFixture[str]
):
    said = "not a prompt that I take: \0Laufen"
    async with Double(error(400, {"error": {"message": said}})) as double:
        with capture_logs() as logs:
            run = await planned_with(world, double)
    assert run["reason"].endswith(": answered 400")
    assert run["plan"]["detail"] == "not a prompt that I take: \ufffdLaufen"
    assert "Laufen" not in str(logs)
    show = ["runs", "show", str(run["run_id"])]
    assert "Laufen" not in await asyncio.to_thread(read, world.settings, capsys, *show)
    with login_in(world.settings, "projector_planner", "projector_content") as reader:
        assert "Laufen" in await asyncio.to_thread(read, reader, capsys, *show, "--content")
    world.admin.execute(END)
    async with await connect(world.settings, "projector_planner") as conn:
        assert [taken async for taken in prune(conn, {"steps": datetime.now(UTC)})] == [("steps", 1)]
    pruned = world.run()["plan"]
    assert "detail" not in pruned
    assert pruned["error"] == run["plan"]["error"]


async def test_of_calls_that_failed_the_last_twenty_are_kept(world: World):
    replies = [USELESS, USELESS, *(error(503) for _ in range(20)), text("fertig")]
    async with Double(*replies) as double:
        await planned_with(world, double, pace=replace(FAST, max_attempts=30))
    [(kept,)] = world.admin.execute("select failed_calls from mana_ai.mission_runs").fetchall()
    assert [one["error"] for one in kept] == ["ChatUnavailableError"] * 20


async def test_a_written_run_shows_where_its_row_is_in_the_log_and_whether_that_has_come_back(
    world: World, capsys: pytest.CaptureFixture[str]
):
    async with Double(text("fertig")) as double:
        run = await planned_with(world, double)
    [planned] = await command(world, capsys, "show", run["run_id"])
    assert (planned["written_lsn"], planned["seen_lsn"]) == (None, None)
    world.watch_messages()
    async with pool(world.settings, "projector_sink", size=1) as connections:
        await Writer(world.settings, connections, world.pool, FAST).write(run["run_id"], "u1")
    decoded = world.admin.execute(
        "select lsn::text, data from pg_logical_slot_get_changes('watch_' || current_database(), null, null)"
    ).fetchall()
    [row] = [lsn for lsn, data in decoded if data.startswith("table public.sync_changes: INSERT:")]
    commit = [lsn for lsn, data in decoded if data.startswith("COMMIT")][-1]
    [written] = await command(world, capsys, "show", run["run_id"])
    assert parse_lsn(row) < parse_lsn(written["written_lsn"]) <= parse_lsn(commit)
    assert (written["seen_source"], written["seen_lsn"]) == (None, None)
    shown = await asyncio.to_thread(read, world.settings, capsys, "runs", "show", str(run["run_id"]))
    assert f"row below LSN {written['written_lsn']}, not back from the log yet" in shown
    await world.catch_up()
    [back] = await command(world, capsys, "show", run["run_id"])
    assert (back["written_lsn"], back["seen_source"], back["seen_lsn"]) == (written["written_lsn"], 1, "0/1")
    shown = await asyncio.to_thread(read, world.settings, capsys, "runs", "show", str(run["run_id"]))
    assert f"row below LSN {written['written_lsn']}, back by 1:0/1" in shown
    # Another iteration that is back says nothing of this one.
    world.admin.execute("update mana_ai.mission_runs set change_id = gen_random_uuid()")
    [other] = await command(world, capsys, "show", run["run_id"])
    assert other["seen_lsn"] is None
