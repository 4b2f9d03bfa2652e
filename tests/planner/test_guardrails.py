from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

from projector.planner.catalogue import CATALOGUE
from projector.planner.guardrails import MAX_INPUT_UNITS, MAX_STEPS, judge_input, judge_step
from projector.planner.outcome import PlannedStep
from projector.planner.tools import RECORDED, RejectedCall
from tests.llm.double import Double, calls, text
from tests.planner.test_loop import TASK, answers, talk
from tests.planner.test_worker import worked
from tests.planner.world import World

TOOLS = {tool.name: tool for tool in CATALOGUE}
EMPTY = ("create_task", {"title": " "})


def judged(name: str, arguments: dict, *planned: dict) -> str:
    return judge_step(TOOLS[name], arguments, [PlannedStep(name, each) for each in planned])


def counted(guardrail: str, severity: str) -> float:
    labels = {"guardrail": guardrail, "severity": severity}
    return REGISTRY.get_sample_value("mana_ai_guardrails_total", labels) or 0.0


@pytest.mark.parametrize(
    ("told", "blocked"),
    [
        ("x" * MAX_INPUT_UNITS, False),
        ("x" * (MAX_INPUT_UNITS + 1), True),
        ("😀" * (MAX_INPUT_UNITS // 2), False),
        ("😀" * (MAX_INPUT_UNITS // 2) + "x", True),
    ],
)
def test_what_is_told_is_counted_in_utf16_units(told, blocked):
    finding = judge_input(told)
    assert (finding is not None) == blocked
    assert finding is None or (finding.guardrail, finding.severity) == ("input-size-limit", "block")


def test_a_plan_has_a_limit_of_steps():
    full = [{"title": str(n)} for n in range(MAX_STEPS)]
    assert judged("create_task", {"title": "x"}, *full[1:]) == ""
    with pytest.raises(RejectedCall, match=r"^Guardrail: The plan is full: 25 steps at most$"):
        judged("create_task", {"title": "x"}, *full)


def test_a_plan_has_a_limit_of_size():
    note = {"content": "ö" * 30_000}
    assert judged("create_note", note, note, note) == ""
    with pytest.raises(RejectedCall, match=r"^Guardrail: The plan is full: 200000 bytes of arguments at most$"):
        judged("create_note", note, note, note, note)
    assert judged("create_task", {"title": "x"}, note, note, note) == ""


@pytest.mark.parametrize(("name", "field"), [("create_task", "title"), ("save_news_article", "url")])
def test_what_says_nothing_is_blocked(name, field):
    assert judged(name, {field: "x"}) == ""
    for empty in ({field: ""}, {field: " \n"}, {}):
        with pytest.raises(RejectedCall, match=f"^Guardrail: {name} needs a {field} that is not empty$"):
            judged(name, empty)


def test_destroying_twice_is_warned_of_and_the_very_same_is_blocked():
    destructive = next(tool for tool in CATALOGUE if tool.effect == "destructive" and tool.parameters)
    field = destructive.parameters[0].name
    before = counted("duplicate-destructive-tool", "warn")
    assert judged(destructive.name, {field: "a"}) == ""
    assert "is planned more than once" in judged(destructive.name, {field: "b"}, {field: "a"})
    assert counted("duplicate-destructive-tool", "warn") == before + 1
    with pytest.raises(RejectedCall, match="is planned already"):
        judged(destructive.name, {field: "a"}, {field: "a"})


async def test_a_blocked_call_is_a_failed_result_and_twice_a_reason_to_stop():
    before = counted("empty-required-params", "block")
    async with Double(calls(EMPTY), calls(EMPTY), calls(TASK), text("fertig")) as double:
        outcome = await talk(double)
    assert answers(double)[0] == {
        "success": False,
        "message": "Guardrail: create_task needs a title that is not empty",
    }
    assert answers(double)[2] == {"success": True, "message": RECORDED}
    assert (outcome.calls, outcome.rejected) == ([TASK], 2)
    assert "fehlgeschlagen" in double.requests[2]["messages"][0]["content"]
    assert counted("empty-required-params", "block") == before + 2


async def test_a_mission_with_too_much_to_tell_fails_before_anything_is_asked(world: World, monkeypatch):
    monkeypatch.setattr("projector.planner.guardrails.MAX_INPUT_UNITS", 100)
    await world.agent()
    await world.mission(objective="o" * 200)
    async with Double(text("nie")) as double:
        run = await worked(world, double, "planned")
    assert double.requests == []
    assert (run["decision"], run["plan"]["error"]["name"]) == ("failed", "TooLong")
    assert run["reason"].startswith("Guardrail: the mission tells ")
    assert "o" * 200 in run["brief"]["user"]
