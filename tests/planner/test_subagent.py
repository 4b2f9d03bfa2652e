"""Parts of the work handed to a sub-agent; S1 to S14 and K1 to K14 are the reference's cases.

Without a counterpart: S6, S12 and S13, since callers choose neither tools, nor prompt, nor model; K12, of a counter.
"""

from __future__ import annotations

import orjson
import pytest

from projector.errors import ChatUnavailableError
from projector.planner.gates import Verdict
from projector.planner.reminders import Quota
from projector.planner.subagent import MAX_PER_RUN, TASK, Order, order_of, prompt_for, refusal, summary_of, tools_for
from projector.planner.tools import RECORDED, Parameter, RejectedCall, Tool
from tests.llm.double import Double, calls, error, text
from tests.planner.test_loop import KeptSteps, answers
from tests.planner.test_loop import talk as talk_with

ID = Parameter("id", {"type": "string", "description": "which"})
LIST, GET = (Tool(name, "things", "d", (ID,), "auto", "read") for name in ("list_things", "get_thing"))
CREATE = Tool("create_thing", "things", "d", (ID,), "propose", "append")
DELETE = Tool("delete_thing", "things", "d", (ID,), "propose", "destructive")
THINGS = (LIST, GET, CREATE, DELETE)
DONE = text("Found 2 items: a, b")


def task(kind="general", prompt="find them", description="look") -> tuple[str, dict]:
    return ("task", {"subagent_type": kind, "description": description, "prompt": prompt})


def create(which: str) -> tuple[str, dict]:
    return ("create_thing", {"id": which})


async def talk(double: Double, steps: KeptSteps | None = None, **terms):
    return await talk_with(double, steps, tools=(*THINGS, TASK), **terms)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        pytest.param("research", ["list_things", "get_thing"], id="S3"),
        pytest.param("general", ["list_things", "get_thing", "create_thing", "delete_thing"], id="S4"),
        pytest.param("plan", ["list_things", "get_thing"], id="S5"),
    ],
)
def test_a_kind_of_sub_agent_has_its_tools(kind, names):
    assert [tool.name for tool in tools_for(kind, (*THINGS, TASK))] == names


@pytest.mark.parametrize("kind", ["research", "plan", "general"])
def test_a_sub_agent_is_told_what_it_is_and_its_order_word_for_word(kind):
    prompt = prompt_for(Order(kind, "d", "do {this}"))
    assert "Sub-Agent" in prompt.system  # S8
    assert kind in prompt.system  # S11
    assert prompt.user == "do {this}"


def test_the_task_tool_says_what_it_takes():
    assert (TASK.name, TASK.module, TASK.default_policy) == ("task", "_agent", "auto")  # K1, K4
    assert [p.name for p in TASK.parameters if p.required] == ["subagent_type", "description", "prompt"]  # K3
    assert TASK.parameters[0].schema["enum"] == ["research", "plan", "general"]  # K2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(None, "Invalid task args: arguments must be an object", id="K6"),
        pytest.param({"subagent_type": "evil", "description": "d", "prompt": "p"}, "research|plan|general", id="K7"),
        pytest.param(
            {"subagent_type": ["plan"], "description": "d", "prompt": "p"}, "research|plan|general", id="list"
        ),
        pytest.param({"subagent_type": "plan", "description": "", "prompt": "p"}, "description is required", id="K8"),
        pytest.param({"subagent_type": "plan", "description": "d", "prompt": " "}, "prompt is required", id="K9"),
        pytest.param({"subagent_type": "plan", "description": "d", "prompt": 7}, "prompt is required", id="number"),
    ],
)
def test_an_order_that_is_none_is_refused(arguments, words):
    with pytest.raises(RejectedCall) as refused:
        order_of(arguments)
    assert words in str(refused.value)


def test_what_a_sub_agent_may_not_call_is_said():
    assert "nicht freigegeben" in refusal("research", "create_thing")
    assert "nicht verschachtelt" in refusal("general", "task")  # K5
    assert summary_of("plan", "", 3) == "(Sub-Agent plan beendet nach 3 Runden ohne Summary.)"


async def test_only_the_summary_comes_back_and_what_it_cost_counts():
    async with Double(calls(task()), calls(create("a"), create("b")), DONE, text("fertig")) as double:
        outcome = await talk(double)
    first = double.requests[1]
    assert [m["role"] for m in first["messages"]] == ["system", "user"]  # S8
    assert first["messages"][1]["content"] == "find them"
    assert [tool["function"]["name"] for tool in first["tools"]] == [tool.name for tool in THINGS]
    assert outcome.calls == [create("a"), create("b")]  # K14, S14
    assert answers(double) == [
        {
            "success": True,
            "message": "Found 2 items: a, b",  # K10, S2
            "data": {
                "subAgentType": "general",
                "toolsCalled": 2,
                "rounds": 2,
                "stopReason": "assistant-stop",
                "usage": {"promptTokens": 200, "completionTokens": 40, "totalTokens": 240},  # S9
                "description": "look",
            },
        }
    ]
    assert (outcome.prompt_tokens, outcome.completion_tokens, outcome.rounds) == (400, 80, 2)


async def test_a_sub_agent_hears_of_the_budget_too():
    async with Double(calls(task()), DONE, text("fertig")) as double:
        await talk(double, quota=Quota("Mana", 1_000, 700))  # 120 tokens later
    assert ["82%" in request["messages"][0]["content"] for request in double.requests][:2] == [False, True]


async def test_several_sub_agents_of_one_answer_work_one_after_another():
    two = calls(task(prompt="one"), create("x"), task(prompt="two"))
    async with Double(two, calls(create("a")), DONE, calls(create("b")), DONE, text("fertig")) as double:
        outcome = await talk(double)
    assert outcome.calls == [create("a"), create("x"), create("b")]
    assert outcome.prompt_tokens == 600  # K11
    assert [answer["success"] for answer in answers(double)] == [True] * 3


@pytest.mark.parametrize(
    ("kind", "call", "words"),
    [
        pytest.param("research", create("a"), "nicht freigegeben", id="S7"),
        pytest.param("general", ("wipe_disk", {}), "nicht freigegeben", id="invented"),
        pytest.param("general", task(), "nicht verschachtelt", id="K5, S1"),
    ],
)
async def test_a_sub_agent_keeps_to_its_tools(kind, call, words):
    async with Double(calls(task(kind)), calls(call), DONE, text("fertig")) as double:
        outcome = await talk(double)
    assert len(double.requests) == 4
    last = double.requests[2]["messages"][-1]
    assert last["role"] == "tool"
    assert words in last["content"]
    assert (outcome.calls, outcome.rejected) == ([], 1)
    assert answers(double)[0]["message"] == "Found 2 items: a, b"


async def test_a_sub_agent_that_never_stops_is_stopped():
    endless = [calls(create(str(n))) for n in range(3)]
    async with Double(calls(task("plan")), *endless, text("fertig")) as double:
        await talk(double)
    (answer,) = answers(double)
    assert "3 Runden ohne Summary" in answer["message"]  # S10
    assert answer["data"]["stopReason"] == "max-rounds"


async def test_without_the_tool_in_the_offer_there_are_no_sub_agents():
    async with Double(calls(task()), text("fertig")) as double:
        await talk_with(double, tools=THINGS)
    assert answers(double)[0]["message"].startswith("Unknown tool: task")
    assert len(double.requests) == 2


async def test_a_bad_order_is_answered_and_asks_nobody():
    async with Double(calls(("task", '{"subagent_type":'), task("evil"), task(prompt="")), text("fertig")) as double:
        outcome = await talk(double)
    assert len(double.requests) == 2
    assert outcome.rejected == 3
    assert not any(answer["success"] for answer in answers(double))


async def test_a_run_has_a_limit_of_sub_agents():
    many = calls(*[task()] * (MAX_PER_RUN + 2))
    async with Double(many, *[DONE] * MAX_PER_RUN, text("fertig")) as double:
        outcome = await talk(double)
    assert len(double.requests) == MAX_PER_RUN + 2
    assert outcome.rejected == 2


async def test_a_refusal_is_told_and_kept_while_other_trouble_is_tried_again():
    steps = KeptSteps()
    refused = error(400, {"detail": "provider is down"})
    async with Double(calls(task()), refused, text("fertig")) as double:
        outcome = await talk(double, steps)
        assert await talk(double, steps) == outcome
    assert len(double.requests) == 3
    (answer,) = answers(double)
    assert not answer["success"]
    assert "Sub-agent failed" in answer["message"]  # K13
    assert "provider is down" in answer["message"]
    steps = KeptSteps()
    async with Double(calls(task()), calls(create("a")), error(503), DONE, text("fertig")) as double:
        with pytest.raises(ChatUnavailableError):
            await talk(double, steps)
        outcome = await talk(double, steps)
    assert len(double.requests) == 5
    assert (outcome.calls, outcome.summary) == ([create("a")], "fertig")


async def test_a_budget_that_ends_in_a_sub_agent_ends_the_run_with_what_is_planned():
    left = [1, 1]

    async def may_ask(needed: int) -> Verdict | None:
        return None if left and left.pop() else Verdict("hold", "stopped-budget", "no more")

    async with Double(calls(create("x"), task()), calls(create("a")), text("nie")) as double:
        outcome = await talk(double, may_ask=may_ask)
    assert len(double.requests) == 2
    assert (outcome.stop_reason, outcome.rounds) == ("budget", 1)
    assert outcome.calls == [create("x"), create("a")]


async def test_a_long_summary_is_cut():
    async with Double(calls(task()), text("x" * 100_000), text("fertig")) as double:
        await talk(double)
    assert len(orjson.dumps(double.requests[-1]["messages"])) < 12_000
    assert RECORDED not in answers(double)[0]["message"]
