"""A conversation that is folded on its way; the names L11 to L16 are those of the reference's cases."""

from __future__ import annotations

import orjson
import pytest

from projector.planner.compaction import PROMPT
from projector.planner.conversation import Folding
from projector.planner.gates import Verdict
from tests.llm.double import Double, Reply, calls, error, text
from tests.planner.test_loop import TASK, KeptSteps, talk

SUMMARY = "## Goal\nG\n## Decisions\nD\n## Tools Called\nT\n## Current Progress\nFOLDED"
ROUND = [TASK] * 5


def sized(reply: Reply, prompt: int) -> Reply:
    """The same answer to a request that is said to have had so many tokens."""
    body = orjson.loads(reply.body)
    body["usage"] = {"prompt_tokens": prompt, "completion_tokens": 10}
    return Reply(body=orjson.dumps(body))


def foldings(double: Double) -> list[dict]:
    return [request for request in double.requests if request["messages"][0]["content"] == PROMPT]


def sent(double: Double) -> list[list[str]]:
    """The roles of each request."""
    return [[message["role"] for message in request["messages"]] for request in double.requests]


WINDOW = Folding(100_000, "fast")


@pytest.mark.parametrize("folding", [Folding(200_000, "fast"), Folding(0, "fast")], ids=["L11", "L14"])
async def test_what_fits_is_not_folded(folding):
    async with Double(sized(calls(*ROUND), 90_000), sized(calls(*ROUND), 92_000), text("fertig")) as double:
        await talk(double, folding=folding)
    assert foldings(double) == []


async def test_what_would_not_fit_is_folded_once_at_a_turn_and_the_model_is_told():
    replies = [sized(calls(*ROUND), 92_000), sized(calls(TASK), 95_000), text(SUMMARY, prompt=30, completion=5)]
    async with Double(*replies, sized(calls(TASK), 99_000), text("fertig")) as double:
        outcome = await talk(double, folding=WINDOW)
    (request,) = foldings(double)  # L12, and L13: once, whatever the endpoint says of sizes
    assert double.requests[2] is request
    assert (request["model"], [m["role"] for m in request["messages"]]) == ("fast", ["system", "user"])  # C18
    assert not {"tools", "tool_choice"} & request.keys()
    assert [each["temperature"] for each in double.requests] == [0.3, 0.3, 0.2, 0.3, 0.3]
    after = double.requests[3]["messages"]
    assert [m["role"] for m in after] == ["system", "user", "assistant", "assistant", "tool"]
    assert "FOLDED" in after[2]["content"]
    assert after[0]["content"].startswith("S\n\n<reminder>")  # L15
    assert ["compact-summary" in r["messages"][0]["content"] for r in double.requests] == [False] * 3 + [True] * 2
    assert len(outcome.calls) == 7
    assert (outcome.prompt_tokens, outcome.completion_tokens) == (92_000 + 95_000 + 30 + 99_000 + 100, 55)  # C16


@pytest.mark.parametrize(
    "reply",
    [error(503), error(400), Reply(body=b"{"), text(""), text(None), text("nichts"), calls(TASK)],
    ids=["503", "400", "no JSON", "empty", "none", "no section", "calls"],
)
async def test_a_folding_that_fails_leaves_the_conversation_as_it_is(reply):
    steps = KeptSteps()
    async with Double(sized(calls(*ROUND), 92_000), sized(calls(TASK), 95_000), reply, text("fertig")) as double:
        outcome = await talk(double, steps, folding=WINDOW)
        asked = len(double.requests)
        assert await talk(double, steps, folding=WINDOW) == outcome
    assert len(double.requests) == asked == 4
    assert (outcome.summary, len(outcome.calls)) == ("fertig", 6)
    assert sent(double)[3] == sent(double)[1] + ["assistant", "tool"]  # L16


async def test_a_folding_that_failed_is_tried_again_in_the_next_round_and_what_it_cost_counts():
    useless = Reply(body=b'{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}')
    big = sized(calls(TASK), 95_000)
    async with Double(sized(calls(*ROUND), 92_000), big, useless, big, text(SUMMARY), text("fertig")) as double:
        outcome = await talk(double, folding=WINDOW)
    assert len(foldings(double)) == 2
    assert outcome.prompt_tokens == 92_000 + 2 * 95_000 + 7 + 200


async def test_a_folding_is_asked_for_like_any_call_that_has_to_be_paid():
    asked: list[int] = []
    last = 3

    async def may_ask(needed: int) -> Verdict | None:
        asked.append(needed)
        return Verdict("hold", "stopped-budget", "no more") if len(asked) == last else None

    async with Double(sized(calls(*ROUND), 92_000), sized(calls(TASK), 95_000), text(SUMMARY)) as double:
        outcome = await talk(double, folding=WINDOW, may_ask=may_ask)
    assert asked == [1, 92_010, 95_010]
    assert (len(double.requests), outcome.stop_reason, outcome.rounds) == (2, "budget", 2)
    last = 0
    asked.clear()
    replies = [sized(calls(*ROUND), 92_000), sized(calls(TASK), 95_000), text(SUMMARY), text("fertig")]
    async with Double(*replies) as double:
        await talk(double, folding=WINDOW, may_ask=may_ask)
    assert asked == [1, 92_010, 95_010, 1]  # what follows is short again


async def test_an_endpoint_that_tells_no_sizes_is_judged_by_bytes():
    long = ("create_note", {"content": "x" * 3_000})
    quiet = [
        sized(reply, 0) for reply in (calls(long), calls(long), calls(long), calls(long), text(SUMMARY), text("fertig"))
    ]
    async with Double(*quiet) as double:
        await talk(double, folding=Folding(3_500, "fast"))
    assert len(foldings(double)) == 1
    assert len(orjson.dumps(double.requests[-1])) < len(orjson.dumps(double.requests[3]))


async def test_long_results_are_cut_before_anything_is_folded():
    def judge(tool, arguments):
        return "x" * 9_000

    async with Double(sized(calls(TASK), 50), sized(calls(TASK), 50), text("fertig"), text("nie")) as double:
        await talk(double, judge=judge, folding=Folding(3_000, "fast"))
    assert foldings(double) == []
    results = [[m["content"] for m in r["messages"] if m["role"] == "tool"] for r in double.requests]
    assert len(results[1][0]) > 9_000
    assert all("Zeichen gekürzt" in each and len(each) < 2_100 for each in results[2])
