"""The conversation; L1 to L10 are the reference's cases, of which L6, L8 and L9 time calls that run side by side: here
none is executed, so all is as in L10.
"""

from __future__ import annotations

import orjson
import pytest

from projector.errors import ChatUnavailableError
from projector.llm.client import OpenAIChat
from projector.planner.catalogue import CATALOGUE
from projector.planner.guardrails import MAX_STEPS
from projector.planner.loop import converse
from projector.planner.prompt import Prompt
from projector.planner.steps import Step
from projector.planner.tools import RECORDED, RejectedCall
from tests.llm.double import Double, calls, error, text

PROMPT = Prompt("S", "U")
TASK = ("create_task", {"title": "X"})
OFFERED = [tool for tool in CATALOGUE if tool.name in ("create_task", "create_note")]


class KeptSteps:
    """Steps as `jsonb` gives them back."""

    def __init__(self) -> None:
        self.kept: dict[int, Step] = {}

    async def stored(self) -> list[Step]:
        return [self.kept[seq] for seq in sorted(self.kept)]

    async def store(self, step: Step) -> None:
        response = orjson.loads(orjson.dumps(step.response, option=orjson.OPT_SORT_KEYS))
        self.kept[step.seq] = Step(
            step.seq, step.kind, step.request_digest, response, step.prompt_tokens, step.completion_tokens
        )


async def talk(
    double: Double, steps: KeptSteps | None = None, *, rounds: int = 5, prompt=PROMPT, tools=OFFERED, **terms
):
    """A whole conversation with the double; `terms` as `converse` takes them."""
    async with OpenAIChat(double.url, timeout_s=5) as chat:
        return await converse(chat, "m", prompt, tools, steps or KeptSteps(), run_id="r", max_rounds=rounds, **terms)


def answers(double: Double) -> list[dict]:
    """What the tools answered, as the last request shows it."""
    return [orjson.loads(m["content"]) for m in double.requests[-1]["messages"] if m["role"] == "tool"]


async def test_text_only_is_a_plan_without_steps():
    async with Double(text("nichts zu tun")) as double:
        outcome = await talk(double)
    assert (outcome.calls, outcome.summary, outcome.stop_reason, outcome.rounds) == (  # L1
        [],
        "nichts zu tun",
        "assistant-stop",
        1,
    )


async def test_two_calls_in_one_round_become_two_steps_and_the_last_text_the_summary():
    async with Double(
        calls(TASK, ("create_note", {"content": "N"})), text("fertig", prompt=50, completion=5)
    ) as double:
        outcome = await talk(double)
    assert outcome.calls == [TASK, ("create_note", {"content": "N"})]
    assert (outcome.summary, outcome.rounds) == ("fertig", 2)
    assert (outcome.prompt_tokens, outcome.completion_tokens) == (150, 25)
    assert answers(double) == [{"success": True, "message": RECORDED}] * 2


async def test_the_second_request_carries_the_calls_and_their_results():
    async with Double(calls(TASK), text("fertig")) as double:
        await talk(double)
    assert double.requests[1]["messages"][2:] == [  # L2
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c0", "type": "function", "function": {"name": "create_task", "arguments": '{"title":"X"}'}}
            ],
        },
        {
            "role": "tool",
            "tool_call_id": "c0",
            "content": orjson.dumps({"success": True, "message": RECORDED}).decode(),
        },
    ]


async def test_a_model_that_never_stops_calling_is_stopped():
    async with Double(calls(TASK)) as double:
        outcome = await talk(double, rounds=5)
    assert (len(outcome.calls), outcome.summary, outcome.stop_reason) == (5, "", "max-rounds")  # L5
    assert len(double.requests) == 5


async def test_denied_invented_and_wrong_calls_are_answered_and_not_planned():
    async with Double(
        calls(
            ("create_habit", {"title": "T", "icon": "i", "color": "c"}),
            ("wipe_disk", {}),
            ("create_task", {}),
            ("create_task", '{"title": '),
            TASK,
        ),
        text("fertig"),
    ) as double:
        outcome = await talk(double)
    assert outcome.calls == [TASK]
    assert outcome.rejected == 4
    assert [answer["success"] for answer in answers(double)] == [False] * 4 + [True]  # L4
    assert [answer["message"] for answer in answers(double)][:3] == [
        "Unknown tool: create_habit",
        "Unknown tool: wipe_disk",
        "Missing required parameter: title",
    ]


async def test_a_plan_has_a_limit_of_steps():
    async with Double(calls(*[TASK] * (MAX_STEPS + 3)), text("fertig")) as double:
        outcome = await talk(double)
    assert (len(outcome.calls), outcome.rejected) == (MAX_STEPS, 3)


async def test_ids_of_calls_that_are_empty_or_twice_are_repaired():
    async with Double(calls(TASK, TASK, TASK, ids=["", "a", "a"]), text("fertig")) as double:
        await talk(double)
    sent = [call["id"] for call in double.requests[1]["messages"][2]["tool_calls"]]
    assert len(set(sent)) == 3
    assert "" not in sent
    assert [m["tool_call_id"] for m in double.requests[1]["messages"] if m["role"] == "tool"] == sent


async def test_ids_are_told_apart_from_those_of_earlier_rounds_and_from_repaired_ones():
    async with Double(
        calls(TASK, TASK, ids=["call_1_1", ""]), calls(TASK, TASK, ids=["call_1_1", "x"]), text("fertig")
    ) as double:
        await talk(double)
    messages = double.requests[-1]["messages"]
    sent = [call["id"] for message in messages for call in message.get("tool_calls", ())]
    assert len(set(sent)) == len(sent) == 4
    assert [m["tool_call_id"] for m in messages if m["role"] == "tool"] == sent


async def test_calls_of_one_answer_keep_their_order():
    wanted = [("create_task", {"title": f"T{n}"}) for n in range(20)]
    async with Double(calls(*wanted), text("fertig")) as double:
        outcome = await talk(double)
    assert outcome.calls == wanted  # L3, L7, L10
    assert [m["tool_call_id"] for m in double.requests[1]["messages"] if m["role"] == "tool"] == [
        f"c{n}" for n in range(20)
    ]


async def test_a_rejected_call_may_be_corrected():
    async with Double(calls(("create_task", {"titel": "X"})), calls(TASK), text("fertig")) as double:
        outcome = await talk(double)
    assert (outcome.calls, outcome.rejected) == ([TASK], 1)
    assert "Unknown parameter: titel. create_task takes title" in answers(double)[0]["message"]


class Clock:
    """Goes on by `s` seconds with each look at it."""

    def __init__(self, s: float) -> None:
        self.s = s
        self.now = 0.0

    def __call__(self) -> float:
        self.now += self.s
        return self.now


async def test_a_run_that_takes_too_long_keeps_what_is_planned_and_goes_on_from_there():
    steps = KeptSteps()
    async with Double(calls(TASK), calls(TASK), text("fertig")) as double:
        outcome = await talk(double, steps, max_s=25, clock=Clock(10))
        assert (len(double.requests), outcome.rounds, outcome.calls) == (2, 2, [TASK, TASK])
        assert (outcome.stop_reason, outcome.stopped.decision, outcome.stopped.action) == (
            "time",
            "stopped-time",
            "hold",
        )
        later = await talk(double, steps, max_s=25, clock=Clock(10))
    assert (len(double.requests), later.stop_reason, later.summary) == (3, "assistant-stop", "fertig")


async def test_nul_and_ciphertext_in_an_answer_go_no_further():
    async with Double(calls(("create_task", '{"title": "a\\u0000b enc:1:aa.bb"}')), text("ok\0")) as double:
        outcome = await talk(double)
    assert outcome.calls == [("create_task", {"title": "a\ufffdb enc:1:aa.bb"})]
    assert outcome.summary == "ok\ufffd"
    assert b"enc:1:" not in double.raw


async def test_a_conversation_taken_up_again_asks_only_for_what_is_missing():
    steps = KeptSteps()
    async with Double(calls(("create_task", '{"title":"X","priority":"low"}')), error(503)) as double:
        with pytest.raises(ChatUnavailableError):
            await talk(double, steps)
        assert len(double.requests) == 2
    async with Double(text("fertig")) as again:
        outcome = await talk(again, steps)
        assert len(again.requests) == 1
        assert again.requests[0] == double.requests[1]
    assert outcome.calls == [("create_task", {"title": "X", "priority": "low"})]
    assert (outcome.prompt_tokens, outcome.rounds) == (200, 2)


async def test_a_finished_conversation_is_repeated_without_a_call():
    steps = KeptSteps()
    async with Double(calls(TASK), text("fertig")) as double:
        first = await talk(double, steps)
    async with Double(error(500)) as silent:
        assert await talk(silent, steps) == first
        assert silent.requests == []


async def test_stored_answers_to_another_question_are_not_used():
    steps = KeptSteps()
    async with Double(calls(TASK), text("fertig")) as double:
        await talk(double, steps)
    async with Double(text("anders")) as again:
        outcome = await talk(again, steps, prompt=Prompt("S", "other"))
    assert (outcome.summary, outcome.calls) == ("anders", [])
    assert len(again.requests) == 1


async def test_results_that_followed_another_question_are_not_used():
    def refuse(tool, arguments):
        raise RejectedCall("no")

    steps = KeptSteps()
    async with Double(calls(TASK), text("fertig")) as double:
        assert (await talk(double, steps, judge=refuse)).calls == []
    async with Double(calls(TASK), text("fertig")) as again:
        assert (await talk(again, steps, prompt=Prompt("S", "other"))).calls == [TASK]
