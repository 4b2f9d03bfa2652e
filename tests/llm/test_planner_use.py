"""The planner and its model: an alias, asked in this process; numbers are those of the new facts (P) and of 11.4."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from projector.config import Settings
from projector.errors import ChatError, ChatRefusedError, ChatUnavailableError, ConfigError
from projector.llm.choice import chat_model
from projector.llm.client import OpenAIChat
from projector.llm.routed import RoutedChat
from projector.planner.loop import converse
from tests.llm.test_router import TOOLS, metric, routed
from tests.llm.upstream import ABORT, SILENT, Script, Upstream, answer, error, failure, registry
from tests.planner.test_loop import OFFERED, PROMPT, KeptSteps

MESSAGES = [{"role": "user", "content": "what I ask"}]


def test_P1_who_plans_or_replays_loads_no_http_client():
    code = (
        "import sys, projector.llm.router; print('pydantic' in sys.modules);"
        "import projector.planner.worker, projector.llm.choice, projector.llm.routed;"
        "print([name for name in ('aiohttp', 'httpx2', 'openai', 'fastapi') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.split("\n")[:2] == ["False", "[]"], "and the router by itself does without the settings"


def calls_task(request: object) -> Script:
    call = {"id": "c1", "type": "function", "function": {"name": "create_task", "arguments": '{"title": "X"}'}}
    return answer(None, tool_calls=[call], finish="tool_calls")


async def test_P2_what_was_answered_once_is_never_asked_again(tmp_path: Path):
    steps = KeptSteps()
    async with (
        Upstream(calls_task, answer("fertig")) as p1,
        RoutedChat(routed(tmp_path, p1=p1), timeout_s=5) as chat,
    ):
        for _ in range(2):
            outcome = await converse(chat, "mana/x", PROMPT, OFFERED, steps, run_id="r", max_rounds=5)
            assert (outcome.calls, outcome.summary) == ([("create_task", {"title": "X"})], "fertig")
            assert p1.calls == 2
    assert steps.kept[1].response["model"] == "p1/m1", "who answered is kept with the answer"


async def test_11_1_the_request_has_the_form_of_the_planners_and_the_answer_its_parts(tmp_path: Path):
    async with Upstream(answer("hello")) as p1, RoutedChat(routed(tmp_path, p1=p1), timeout_s=5) as chat:
        found = await chat.complete("mana/x", MESSAGES, TOOLS, run_id="run-1")
        await chat.complete("mana/x", MESSAGES, [], run_id="run-1")
    assert p1.requests[0].body == {
        "model": "m1",
        "messages": MESSAGES,
        "tools": TOOLS,
        "tool_choice": "auto",
        "temperature": 0.3,
        "stream": False,
    }
    assert "tools" not in p1.requests[1].body
    assert (found.content, found.finish_reason, found.model) == ("hello", "stop", "p1/m1")
    assert (found.prompt_tokens, found.completion_tokens) == (10, 5)


LATER: dict[str, tuple[Script, float]] = {
    "no provider": (ABORT, 5),
    "rate limit of 40 s": (error(429, retry_after="40"), 40),
    "rate limit of an hour": (error(429, retry_after="3600"), 300),
    "deadline": (SILENT, 5),
    "auth": (error(401), 300),
    "payment": (error(402), 300),
}


@pytest.mark.parametrize("case", LATER)
async def test_11_4_what_may_mend_is_tried_again_later(tmp_path: Path, case: str):
    script, wait_s = LATER[case]
    async with Upstream(script) as p1:
        more = "budgets: {min_attempt_s: 0.2, first_byte_s: 0.3}"
        async with RoutedChat(routed(tmp_path, more=more, p1=p1), timeout_s=0.5) as chat:
            with pytest.raises(ChatUnavailableError) as caught:
                await chat.complete("mana/x", MESSAGES, [], run_id="r")
    assert caught.value.transient
    assert caught.value.retry_after_s == pytest.approx(wait_s, abs=0.5)
    assert "told by" not in caught.value.message
    assert caught.value.detail == ("" if script in (ABORT, SILENT) else "told by the provider")


@pytest.mark.parametrize("script", [error(400), error(400, "content_filter"), error(413)])
async def test_11_4_what_can_never_work_ends_the_run(tmp_path: Path, script: Script):
    before = metric("mana_ai_llm_calls_total", result="refused")
    aliases = "  mana/x: {chain: [p1/m1]}\n  mana/blind: {chain: [p2/m1]}"
    blind = "base_url: 'http://h', supports: [], probe: {kind: none}"
    async with (
        Upstream(script) as p1,
        RoutedChat(routed(tmp_path, aliases, p1=p1, p2=blind), timeout_s=5) as chat,
    ):
        with pytest.raises(ChatRefusedError) as refused:
            await chat.complete("mana/x", MESSAGES, [], run_id="r")
        with pytest.raises(ChatError) as unknown:
            await chat.complete("mana/nope", MESSAGES, [], run_id="r")
        with pytest.raises(ChatRefusedError):
            await chat.complete("mana/blind", MESSAGES, TOOLS, run_id="r")
    assert not unknown.value.transient
    assert refused.value.detail == "told by the provider"
    assert metric("mana_ai_llm_calls_total", result="refused") == before + 3


async def test_F2_for_the_planner_a_refused_key_is_passed_over_with_an_alarm(tmp_path: Path):
    before = metric("llm_alarms_total", provider="p1", kind="auth")
    async with (
        Upstream(error(401)) as p1,
        Upstream(answer("from p2")) as p2,
        RoutedChat(routed(tmp_path, p1=p1, p2=p2), timeout_s=5) as chat,
    ):
        assert (await chat.complete("mana/x", MESSAGES, [], run_id="r")).content == "from p2"
    assert metric("llm_alarms_total", provider="p1", kind="auth") == before + 1


def useless(prompt: int) -> Script:
    return failure(200, {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": 2}})


async def test_what_an_answer_of_no_use_cost_counts_whoever_answers_in_the_end(tmp_path: Path):
    more = "breaker: {failure_threshold: 9}\npolicy: {last_retry: 0}"
    async with (
        Upstream(useless(70), useless(70), useless(70), useless(10**18)) as p1,
        Upstream(answer("from p2"), useless(70), error(400, "content_filter")) as p2,
        RoutedChat(routed(tmp_path, more=more, p1=p1, p2=p2), timeout_s=5) as chat,
    ):
        before = metric("llm_tokens_total", alias="mana/x", provider="p1", model="m1", type="prompt")
        found = await chat.complete("mana/x", MESSAGES, [], run_id="r")
        assert (found.content, found.prompt_tokens, found.completion_tokens) == ("from p2", 80, 7)
        assert metric("llm_tokens_total", alias="mana/x", provider="p1", model="m1", type="prompt") == before + 70
        lost = [(ChatUnavailableError, (140, 4)), (ChatRefusedError, (70, 2)), (ChatRefusedError, (10**9, 2))]
        for kind, paid in lost:
            with pytest.raises(kind) as caught:
                await chat.complete("mana/x", MESSAGES, [], run_id="r")
            assert (caught.value.prompt_tokens, caught.value.completion_tokens) == paid


async def test_the_planner_takes_the_chains_where_there_is_a_file_and_one_endpoint_else(tmp_path: Path):
    async with Upstream(answer()) as p1:
        path = registry(tmp_path, p1=p1).path
        assert isinstance(chat_model(Settings(llm_config=str(path), llm_base_url=p1.url)), RoutedChat)
    assert isinstance(chat_model(Settings(llm_base_url="http://127.0.0.1:1")), OpenAIChat)
    with pytest.raises(ConfigError):
        chat_model(Settings())


async def test_the_first_call_knows_already_who_is_away(tmp_path: Path):
    async with Upstream(SILENT) as p1, Upstream(answer()) as p2:
        p1.inventory = error(503)
        more = "breaker: {failure_threshold: 1}"
        async with RoutedChat(routed(tmp_path, more=more, p1=p1, p2=p2), timeout_s=5) as chat:
            await chat.complete("mana/x", MESSAGES, [], run_id="r")
    assert p1.calls == 0
