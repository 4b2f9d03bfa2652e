from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from projector.config import Settings
from projector.errors import ChatAnswerError, ChatError, ChatRefusedError, ChatUnavailableError, ConfigError
from projector.llm import observe
from projector.llm.client import MAX_BODY_BYTES, OpenAIChat
from tests.llm.double import Double, Reply, calls, error, text
from tests.serving import Received, Serving

MESSAGES = [{"role": "system", "content": "S"}, {"role": "user", "content": "grüße"}]
TOOLS = [{"type": "function", "function": {"name": "create_task", "parameters": {}}}]


async def ask(double: Double, *, timeout_s: float = 5.0, tools=TOOLS, api_key: str = "k"):
    async with OpenAIChat(double.url + "/", api_key=api_key, timeout_s=timeout_s) as chat:
        return await chat.complete("mana/reasoning", MESSAGES, tools, run_id="run-1")


async def failure(reply: Reply, *, timeout_s: float = 5.0) -> ChatError:
    async with Double(reply) as double:
        with pytest.raises(ChatError) as caught:
            await ask(double, timeout_s=timeout_s)
    return caught.value


async def test_a_request_has_the_wire_form_of_the_reference():
    async with Double(text("fertig")) as double:
        await ask(double)
    assert double.requests == [
        {
            "model": "mana/reasoning",
            "messages": MESSAGES,
            "tools": TOOLS,
            "tool_choice": "auto",
            "temperature": 0.3,
            "stream": False,
        }
    ]
    assert double.run_ids == ["run-1"]
    assert b"POST /v1/chat/completions HTTP/1.1" in double.raw
    assert b"authorization: bearer k" in bytes(double.raw).lower()


async def test_without_tools_none_are_offered_and_none_is_chosen():
    async with Double(text("fertig")) as double:
        await ask(double, tools=[])
    assert "tools" not in double.requests[0]
    assert "tool_choice" not in double.requests[0]


async def test_a_text_answer_is_read_with_its_usage():
    async with Double(text("fertig", prompt=900, completion=40)) as double:
        answer = await ask(double)
    assert answer.content == "fertig"
    assert answer.tool_calls == ()
    assert (answer.finish_reason, answer.model) == ("stop", "double/1")
    assert (answer.prompt_tokens, answer.completion_tokens) == (900, 40)


async def test_tool_calls_are_read_and_rubbish_arguments_are_told_apart_from_none():
    async with Double(calls(("a", {"x": 1}), ("b", ""), ("c", '{"x": '), ("d", "[1]"))) as double:
        answer = await ask(double)
    assert [call.name for call in answer.tool_calls] == ["a", "b", "c", "d"]
    assert [call.arguments for call in answer.tool_calls] == [{"x": 1}, {}, None, None]
    assert answer.tool_calls[2].raw == '{"x": '


@pytest.mark.parametrize(("sent", "read"), [("length", "length"), ("content_filter", "content_filter"), ("x", "stop")])
async def test_unknown_finish_reasons_count_as_stop(sent, read):
    async with Double(text("t", finish=sent)) as double:
        assert (await ask(double)).finish_reason == read


async def test_missing_usage_counts_as_nothing():
    async with Double(Reply(body=b'{"choices":[{"message":{"content":"t"},"finish_reason":null}]}')) as double:
        answer = await ask(double)
    assert (answer.prompt_tokens, answer.completion_tokens, answer.finish_reason) == (0, 0, "stop")


async def test_an_answer_of_no_use_says_what_it_cost_and_no_cost_is_beyond_counting():
    usage = b'"usage":{"prompt_tokens":18446744073709551615,"completion_tokens":20}'
    found = await failure(Reply(body=b'{"choices":[],' + usage + b"}"))
    assert isinstance(found, ChatAnswerError)
    assert (found.prompt_tokens, found.completion_tokens) == (10**9, 20)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
async def test_an_endpoint_in_trouble_is_worth_another_try(status):
    found = await failure(error(status, {"detail": {"kind": "rate_limit", "message": "slow"}}))
    assert isinstance(found, ChatUnavailableError)
    assert found.transient
    assert found.message.endswith(f"{status} (rate_limit)")
    assert found.detail == "slow"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_a_refused_request_is_not_worth_another_try(status):
    found = await failure(error(status, {"detail": "no such model"}))
    assert isinstance(found, ChatRefusedError)
    assert not found.transient
    assert "no such model" not in found.message
    assert found.detail == "no such model"


async def test_retry_after_is_read():
    found = await failure(error(429, retry_after="17"))
    assert isinstance(found, ChatUnavailableError)
    assert found.retry_after_s == 17


async def test_the_words_of_a_refusal_that_is_no_json_are_kept():
    assert (await failure(error(502, b"bad gateway,\n says nginx"))).detail == "bad gateway, says nginx"


async def test_silence_ends_at_the_deadline():
    started = time.monotonic()
    found = await failure(Reply(body=text("t").body, pause_s=30), timeout_s=0.3)
    assert isinstance(found, ChatUnavailableError)
    assert time.monotonic() - started < 5


async def test_a_body_that_drips_ends_at_the_deadline_too():
    started = time.monotonic()
    found = await failure(Reply(body=text("t").body, drip_s=0.05), timeout_s=0.5)
    assert isinstance(found, ChatUnavailableError)
    assert time.monotonic() - started < 5


async def test_nobody_listening_is_unavailable():
    async with Double(text("t")) as double:
        url = double.url
    async with OpenAIChat(url, timeout_s=2) as chat:
        with pytest.raises(ChatUnavailableError, match="unreachable"):
            await chat.complete("m", MESSAGES, TOOLS, run_id="r")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b'"text"',
        b"{}",
        b'{"choices":[]}',
        b'{"choices":[{}]}',
        b'{"choices":[{"message":null}]}',
        b'{"choices":[{"message":{"tool_calls":[1]}}]}',
        b'{"choices":[{"message":{"tool_calls":[{"function":{}}]}}]}',
        b'{"choices":[{"message":{"content":"\xff"}}]}',
        b'{"choices":[{"message":{"content":"half',
    ],
)
async def test_an_answer_without_a_usable_choice_is_an_error(body):
    assert isinstance(await failure(Reply(body=body)), ChatAnswerError)


async def test_an_endless_answer_is_cut_off():
    found = await failure(text("x" * (MAX_BODY_BYTES + 1)))
    assert isinstance(found, ChatAnswerError)
    assert str(MAX_BODY_BYTES) in found.message


def test_without_an_endpoint_the_setting_is_named():
    with pytest.raises(ConfigError, match="PROJECTOR_LLM_BASE_URL"):
        OpenAIChat.from_settings(Settings())


async def test_what_follows_an_answer_on_its_connection_is_not_taken_for_the_next_one():
    """An endpoint, or a proxy before it, that sends an answer twice: the second would go to another user's run."""
    asked = 0
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        serving.add(asyncio.current_task())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]))
                asked += 1
                body = text(f"answer {asked}").body
                writer.write((b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body) * 2)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, OpenAIChat(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as chat:
        answers = [await chat.complete("mana/reasoning", MESSAGES, TOOLS, run_id=run) for run in ("run-1", "run-2")]
        await asyncio.gather(*filter(None, serving))
    assert [answer.content for answer in answers] == ["answer 1", "answer 2"]


async def test_no_failure_of_one_call_keeps_back_another():
    trouble = [error(500)] * 3 + [error(429, retry_after="40"), error(404), error(401)]
    async with Double(*trouble, text("fertig")) as double, OpenAIChat(double.url, timeout_s=5) as chat:
        for asked in range(len(trouble)):
            with pytest.raises(ChatError):
                await chat.complete("m", MESSAGES, TOOLS, run_id="r")
            assert len(double.requests) == asked + 1, "asked once, and not again"
        assert (await chat.complete("m", MESSAGES, TOOLS, run_id="r")).content == "fertig"


async def test_the_log_has_a_line_for_each_call_without_chains_too(monkeypatch):
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(
        observe, "log", SimpleNamespace(info=lambda event, **told: lines.append({"event": event, **told}))
    )
    async with Double(text("fertig"), error(503)) as double, OpenAIChat(double.url, timeout_s=5) as chat:
        await chat.complete("mana/x", MESSAGES, TOOLS, run_id="run-1")
        with pytest.raises(ChatUnavailableError):
            await chat.complete("mana/x", MESSAGES, TOOLS, run_id="run-2")
    assert [(line["event"], line["call_id"], line["outcome"], line["attempts"]) for line in lines] == [
        ("call", "run-1", "ok", "endpoint/mana/x=ok"),
        ("call", "run-2", "no_healthy_provider", "endpoint/mana/x=upstream 503"),
    ]
    assert "grüße" not in str(lines)


async def test_no_more_calls_than_places_are_under_way():
    most = under_way = 0

    class Counting(Double):
        async def serve(self, *given: Any) -> bool:
            nonlocal most, under_way
            under_way += 1
            most = max(most, under_way)
            try:
                return await super().serve(*given)
            finally:
                under_way -= 1

    counting = Counting(Reply(body=text("t").body, pause_s=0.05))
    async with counting as double, OpenAIChat(double.url, connections=2) as chat:
        await asyncio.gather(*(chat.complete("m", MESSAGES, [], run_id="r") for _ in range(6)))
    assert (most, len(double.requests)) == (2, 6)


async def test_a_call_for_which_no_place_comes_free_in_time_is_worth_another_try():
    async with Double(Reply(body=text("t").body, pause_s=30)) as double:
        began = time.monotonic()
        async with OpenAIChat(double.url, timeout_s=0.3, connections=1) as chat:
            calls = (chat.complete("m", MESSAGES, [], run_id="r") for _ in range(3))
            found = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(error) for error in found] == [ChatUnavailableError] * 3
    assert time.monotonic() - began < 5


async def test_each_call_has_a_connection_of_its_own():
    connections = set()

    class Kept(Serving):
        async def serve(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            connections.add(writer)
            body = text("t").body
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            return True

    async with Kept() as kept, OpenAIChat(kept.url) as chat:
        for _ in range(3):
            await chat.complete("m", MESSAGES, [], run_id="r")
    assert len(connections) == 3


@pytest.mark.parametrize(
    ("setting", "url", "key"),
    [
        ("PROJECTOR_LLM_BASE_URL", "model.test", ""),
        ("PROJECTOR_LLM_BASE_URL", "http://user:password@model.test", ""),
        ("PROJECTOR_LLM_API_KEY", "http://model.test", "two\nlines"),
    ],
)
def test_what_no_request_can_be_made_with_is_found_at_the_start(setting: str, url: str, key: str):
    with pytest.raises(ConfigError, match=setting) as caught:
        OpenAIChat(url, api_key=key)
    assert "password@" not in str(caught.value)
    assert "lines" not in str(caught.value)
