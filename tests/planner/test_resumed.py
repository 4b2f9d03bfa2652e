"""A run that dies and is taken up again: the same requests, the same plan, and nothing paid for twice."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from projector.llm.client import OpenAIChat
from projector.planner.compaction import PROMPT as TO_FOLD
from projector.planner.conversation import Folding
from projector.planner.loop import converse
from projector.planner.outcome import Outcome
from projector.planner.plan import plan_digest
from projector.planner.reminders import Quota
from projector.planner.steps import Step
from projector.planner.subagent import TASK as DELEGATE
from projector.planner.worker import Worker
from tests.llm.double import Double, Reply, calls, error, text
from tests.planner.test_folding import SUMMARY, sized
from tests.planner.test_json_round import BAD, GOOD, plan
from tests.planner.test_loop import OFFERED, PROMPT, TASK, KeptSteps
from tests.planner.test_replay import replayed
from tests.planner.test_worker import FAST, settled, working
from tests.planner.world import World

WRONG = ("create_task", {})
NOTE = ("create_note", {"content": "N"})


def order(kind: str, prompt: str) -> tuple[str, dict]:
    return ("task", {"subagent_type": kind, "description": "d", "prompt": prompt})


CALLS = (
    sized(calls(TASK, order("general", "one"), WRONG), 60_000),
    calls(NOTE, WRONG),
    text("the first sub-agent's summary"),
    sized(calls(order("research", "two"), order("evil", "x"), WRONG, WRONG), 95_000),
    error(400, {"detail": "too much"}),
    Reply(body=b"{"),  # the folding fails, and once more below it does not
    sized(calls(WRONG, WRONG), 97_000),
    text(SUMMARY),
    calls(NOTE),
    text("fertig"),
)
TERMS = {
    "calls": {
        "tools": [*OFFERED, DELEGATE],
        "folding": Folding(100_000, "fast"),
        "quota": Quota("Mana", 400_000, 200_000),
        "max_rounds": 9,
    },
    "json": {"tools": OFFERED, "form": "json", "quota": Quota("Mana", 1_000, 800), "max_rounds": 9},
}
REPLIES = {"calls": CALLS, "json": (text(plan(GOOD, BAD)), text(plan(GOOD, GOOD, BAD)))}


class Killed(Exception):
    pass


class Dying(KeptSteps):
    """The process dies as soon as a step is stored, whichever it is."""

    async def store(self, step: Step) -> None:
        await super().store(step)
        raise Killed


async def whole(form: str, steps: KeptSteps) -> tuple[Outcome, bytes]:
    """The conversation, taken up again as often as it dies, and every request made for it."""
    async with Double(*REPLIES[form]) as double, OpenAIChat(double.url, timeout_s=5) as chat:
        while True:
            try:
                outcome = await converse(chat, "m", PROMPT, log=steps, run_id="r", **TERMS[form])
            except Killed:
                continue
            return outcome, orjson.dumps(double.requests)


async def test_the_conversation_below_has_everything_in_it():
    steps = KeptSteps()
    outcome, requests = await whole("calls", steps)
    asked = orjson.loads(requests)
    assert len(asked) == len(CALLS)
    assert [request["messages"][0]["content"] == TO_FOLD for request in asked].count(True) == 2
    assert [step.kind for step in steps.kept.values()].count("compact") == 2
    said = [request["messages"][0]["content"] for request in asked]
    for words in ("Tagesbudget", "fehlgeschlagen", "compact-summary", "Sub-Agent vom Typ research"):
        assert any(words in content for content in said), words
    assert outcome.calls == [TASK, NOTE, NOTE]
    assert outcome.summary == "fertig"


@pytest.mark.parametrize("form", ["calls", "json"])
async def test_a_kill_after_each_stored_step_changes_no_byte_and_pays_for_nothing_again(form):
    steps = KeptSteps()
    undisturbed = await whole(form, steps)
    assert len(steps.kept) >= 6
    dying = Dying()
    assert await whole(form, dying) == undisturbed
    assert dying.kept == steps.kept


async def test_a_run_keeps_the_terms_it_began_with_and_its_ledger_counts_every_answer(world: World):
    await world.agent(maxTokensPerDay=1_000_000)
    await world.mission()
    world.admin.execute(
        "insert into mana_ai.token_usage (user_id, agent_id, mission_id, run_id, tokens_used)"
        " values ('u1', 'a1', 'm0', gen_random_uuid(), 700000)"
    )
    many = [("create_note", {"content": f"N{n}"}) for n in range(4)]
    replies = [
        sized(calls(TASK, order("general", "one"), *many), 60_000),
        sized(calls(NOTE), 100),
        Reply(body=text("done").body, pause_s=20),
    ]
    terms = {"planner_subagents": True, "planner_context_tokens": 100_000, "max_tokens_per_run": 1_000_000}
    async with Double(*replies) as double:
        await world.open()
        async with OpenAIChat(double.url) as chat:
            worker = Worker(world.settings.model_copy(update=terms), world.pool, chat, FAST)
            running = asyncio.create_task(worker.run(asyncio.Event()))
            async with asyncio.timeout(15):
                while len(double.requests) < 3:
                    await asyncio.sleep(0.02)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        double.replies[2:] = [
            text("done"),
            text("done"),
            sized(calls(TASK, TASK), 95_000),
            text(SUMMARY),
            text("fertig"),
        ]
        changed = terms | {"planner_context_tokens": 0, "planner_compact_model": "other"}
        await world.edit_agent(maxTokensPerDay=2_000_000, name="Anders")
        async with working(world, double, **changed):
            await settled(world, "planned")
    assert double.requests[2] == double.requests[3]  # the one that got no answer
    assert len(double.requests) == 7
    assert double.requests[5]["messages"][0]["content"] == TO_FOLD
    assert (
        "<user_data>Mana</user_data> hat 86% (855370 / 1000000 Tokens)" in double.requests[6]["messages"][0]["content"]
    )
    run = world.run()
    assert run["brief"]["spentBefore"] == 700_000
    assert [step["toolName"] for step in run["plan"]["steps"]] == [
        "create_task",
        *["create_note"] * 5,
        "create_task",
        "create_task",
    ]
    assert await replayed(world, run["run_id"]) == plan_digest(run["plan"])
    kinds = world.admin.execute("select kind, count(*) from mana_ai.run_steps group by kind").fetchall()
    assert dict(kinds) == {"llm": 5, "tool": 9, "compact": 1}
    (spent,) = world.admin.execute(
        "select sum(tokens_used) from mana_ai.token_usage where mission_id = 'm1'"
    ).fetchone()
    assert spent == run["prompt_tokens"] + run["completion_tokens"] == 60_010 + 110 + 120 + 95_010 + 120 + 120
