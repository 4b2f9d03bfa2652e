"""Plans of models without function calls, from the request to the plan."""

from __future__ import annotations

import orjson
import pytest

from projector.planner.agent import agent_of
from projector.planner.guardrails import MAX_STEPS
from projector.planner.mission import mission_of
from projector.planner.prompt import prompt_of
from projector.planner.reminders import Quota
from tests.llm.double import Double, calls, error, text
from tests.planner.test_loop import OFFERED, TASK, KeptSteps
from tests.planner.test_loop import talk as talk_with
from tests.planner.test_worker import worked
from tests.planner.world import World

GOOD = {"summary": "Aufgabe", "toolName": "create_task", "params": {"title": "X"}, "rationale": "weil"}
BAD = GOOD | {"params": {"title": 7}}
MARK = "Mit deinem Plan stimmt etwas nicht"


def plan(*steps, summary="Plan") -> str:
    return f"```json\n{orjson.dumps({'summary': summary, 'steps': steps}).decode()}\n```"


async def talk(double: Double, steps: KeptSteps | None = None, **terms):
    return await talk_with(double, steps, form="json", **terms)


async def test_a_plan_in_the_answer_is_a_plan_and_no_function_is_offered():
    async with Double(text(plan(GOOD, GOOD))) as double:
        outcome = await talk(double)
    (request,) = double.requests
    assert not {"tools", "tool_choice"} & request.keys()
    assert outcome.calls == [TASK, TASK]
    assert [(step.summary, step.rationale) for step in outcome.steps] == [("Aufgabe", "weil")] * 2
    assert (outcome.summary, outcome.stop_reason, outcome.rounds) == ("Plan", "assistant-stop", 1)


@pytest.mark.parametrize(
    ("first", "words"),
    [
        ("Ich würde eine Aufgabe anlegen.", "- no JSON block found"),
        (None, "- no JSON block found"),
        (plan(GOOD)[:-30], "- no JSON block found"),
        (plan(GOOD, BAD), "- step[1] create_task: Parameter title must be of type string"),
        (plan(GOOD | {"toolName": "rm_rf"}), '- step[0].toolName "rm_rf" is not in the allowed tool set'),
        (plan(GOOD | {"params": {}}), "- step[0] create_task: Missing required parameter: title"),
        (plan(GOOD | {"params": [1]}), "- step[0] create_task: Arguments must be one JSON object"),
        (plan(GOOD | {"params": {"title": "X", "extra": 1}}), "Unknown parameter: extra"),
        (plan(GOOD | {"params": {"title": " "}}), "Guardrail: create_task needs a title"),
        (plan(GOOD | {"rationale": ""}), "- step[0].rationale is required"),
    ],
)
async def test_what_is_wrong_is_told_once_and_may_be_mended(first, words):
    async with Double(text(first), text(plan(GOOD, summary="besser")), text("nie")) as double:
        outcome = await talk(double)
    assert len(double.requests) == 2
    roles = [message["role"] for message in double.requests[1]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert double.requests[1]["messages"][3]["content"].startswith(MARK)
    assert words in double.requests[1]["messages"][3]["content"]
    assert (outcome.calls, outcome.summary, outcome.rejected, outcome.rounds) == ([TASK], "besser", 0, 2)


@pytest.mark.parametrize("second", [plan(GOOD, BAD, summary="Plan"), "Entschuldigung.", None])
async def test_good_steps_stay_when_the_others_are_not_mended(second):
    async with Double(text(plan(GOOD, BAD)), text(second), text("nie")) as double:
        outcome = await talk(double)
    assert len(double.requests) == 2
    assert (outcome.calls, outcome.rejected, outcome.summary) == ([TASK], 1, "Plan")
    assert outcome.stopped is None


async def test_an_answer_without_a_plan_is_none():
    steps = KeptSteps()
    async with Double(text("nein"), text("nein")) as double:
        outcome = await talk(double, steps)
        assert await talk(double, steps) == outcome
    assert len(double.requests) == 2
    assert (outcome.stopped.action, outcome.stopped.decision) == ("fail", "no-plan")
    assert (outcome.stop_reason, outcome.calls) == ("no-plan", [])


async def test_an_empty_plan_is_a_plan():
    async with Double(text(plan(summary="nichts zu tun"))) as double:
        outcome = await talk(double)
    assert (outcome.calls, outcome.summary, outcome.stopped) == ([], "nichts zu tun", None)


async def test_native_calls_count_for_nothing_here():
    async with Double(calls(TASK), text(plan(GOOD))) as double:
        outcome = await talk(double)
    assert outcome.calls == [TASK]
    assert len(double.requests) == 2


async def test_a_plan_is_no_longer_than_others():
    async with Double(text(plan(*[GOOD] * (MAX_STEPS + 5)))) as double:
        outcome = await talk(double)
    assert len(outcome.calls) == MAX_STEPS
    assert outcome.rejected == 5
    assert "The plan is full" in double.requests[1]["messages"][3]["content"]


async def test_the_budget_is_spoken_of_here_too():
    async with Double(text("nein"), text(plan(GOOD))) as double:
        await talk(double, quota=Quota("Mana", 1000, 700))
    systems = [request["messages"][0]["content"] for request in double.requests]
    assert ["82%" in system for system in systems] == [False, True]


async def test_a_setting_says_that_the_model_has_no_function_calls(world: World):
    await world.agent(policy={"tools": {"create_note": "deny"}, "defaultForAi": "propose"})
    await world.mission()
    denied = {"toolName": "create_note", "params": {"content": "N"}, "rationale": "r"}
    async with Double(error(503), text(plan(GOOD, denied))) as double:
        run = await worked(world, double, "planned", planner_format="json")
    assert run["plan"]["steps"] == [
        {"summary": "Aufgabe", "toolName": "create_task", "params": {"title": "X"}, "rationale": "weil"}
    ]
    assert (run["plan"]["rejectedCalls"], run["plan"]["rounds"]) == (1, 2)
    system = double.requests[0]["messages"][0]["content"]
    assert "  • create_task (todo) — " in system
    assert "create_note" not in system
    assert 'step[1].toolName "create_note" is not in the allowed tool set' in str(double.requests[-1]["messages"])


async def test_a_run_without_a_plan_fails_and_says_so(world: World):
    await world.agent()
    await world.mission()
    async with Double(text("nein")) as double:
        run = await worked(world, double, "planned", planner_format="json")
    assert len(double.requests) == 2
    assert (run["decision"], run["plan"]["error"]["name"]) == ("failed", "NoPlan")
    assert run["reason"] == "the model wrote no plan: no JSON block found"


def test_the_prompt_has_what_the_reference_asks_of_it():
    iteration = {"startedAt": "t", "plan": [{"status": "rejected", "summary": "s"}], "userFeedback": "lieber nicht"}
    mission = mission_of({"title": "T", "objective": "O", "iterations": [iteration]})
    prompt = prompt_of(mission, agent_of("a", {"systemPrompt": "kurz"}), rounds=5, listed=OFFERED)
    for token in ("JSON", "rationale", "create_task", "(required)", "[low|medium|high]", "kurz"):
        assert token in prompt.system
    for token in ("# Mission: T", "O", "lieber nicht", "[rejected]"):
        assert token in prompt.user
    assert "gib leere steps zurück" in prompt_of(mission, agent_of("a", {}), rounds=5, listed=[]).system
