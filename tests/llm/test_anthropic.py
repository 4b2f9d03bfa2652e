"""Anthropic's API as it is recorded in its documentation, over a socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from projector.errors import RouteError
from tests.llm.test_router import FAST, both, routed, told
from tests.llm.test_streams import read, text
from tests.llm.upstream import BODY, SILENT, SSE, Script, Upstream, answer, event, failure

SCHEMA = {"type": "object", "properties": {"q": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "search", "description": "finds", "parameters": SCHEMA}}]


def said(*content: dict[str, Any], stop: str = "end_turn", **usage: int) -> Script:
    body = {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": list(content),
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {"input_tokens": 12, "output_tokens": 6, **usage},
    }
    return Script(pieces=(orjson.dumps(body),))


def refused(status: int, kind: str, message: str = "told by the provider", **headers: str) -> Script:
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    return failure(status, body, request_id="req_1", **headers)


def provider(upstream: Upstream) -> str:
    return f"kind: anthropic, base_url: '{upstream.url}', api_key_env: KEY_OF_P1"


async def ask(folder: Path, script: Script, body: dict[str, Any] = BODY) -> tuple[Any, Upstream]:
    """What comes of a chain of Anthropic (p1) and of another (p2), which is well."""
    found, p1, *_ = await both(folder, script, body=body, first=provider)
    return found, p1


async def test_a_conversation_is_told_in_its_words(tmp_path: Path):
    png = "iVBORw0KGgo="
    body = {
        "model": "mana/x",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "look"}]},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png}"}}]},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://h/p.png"}}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "search", "arguments": '{"q": "a"}'}},
                    {"id": "c2", "type": "function", "function": {"name": "search", "arguments": "not json"}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "found"},
            {"role": "tool", "tool_call_id": "c2", "content": "nothing"},
            {"role": "user", "content": "go on"},
        ],
        "tools": TOOLS,
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "temperature": 1.4,
        "stop": "END",
        "max_completion_tokens": 77,
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}},
    }
    _, p1 = await ask(tmp_path, said({"type": "text", "text": "x"}), body)
    (request,) = p1.requests
    assert request.path == "/v1/messages"
    assert request.headers["x-api-key"] == "secret-key-of-p1"
    assert request.headers["anthropic-version"] == "2023-06-01"
    assert request.body == {
        "model": "m1",
        "max_tokens": 77,
        "system": "be brief",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": png}},
                    {"type": "image", "source": {"type": "url", "url": "https://h/p.png"}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "tool_use", "id": "c1", "name": "search", "input": {"q": "a"}},
                    {"type": "tool_use", "id": "c2", "name": "search", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": "found"},
                    {"type": "tool_result", "tool_use_id": "c2", "content": "nothing"},
                    {"type": "text", "text": "go on"},
                ],
            },
        ],
        "tools": [{"name": "search", "description": "finds", "input_schema": SCHEMA}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "temperature": 1,
        "stop_sequences": ["END"],
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
        "stream": False,
    }


async def test_a_limit_of_tokens_is_the_requests_or_the_entrys_or_one_that_the_documentation_names(tmp_path: Path):
    aliases = "  mana/x: {chain: [p1/m1]}\n  mana/y: {chain: [{model: p1/m1, max_output_tokens: 9000}]}"
    async with (
        Upstream(said({"type": "text", "text": "x"})) as p1,
        routed(tmp_path, aliases, p1=provider(p1)) as router,
    ):
        for asked in ({}, {"model": "mana/y"}, {"model": "mana/y", "max_tokens": 10}):
            await router.complete({**BODY, **asked})
    assert [request.body["max_tokens"] for request in p1.requests] == [4096, 9000, 10]


async def test_an_answer_has_openais_form(tmp_path: Path):
    found, _ = await ask(
        tmp_path,
        said(
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "toolu_1", "name": "search", "input": {"q": "a"}},
            stop="tool_use",
            cache_read_input_tokens=100,
        ),
        {**BODY, "tools": TOOLS},
    )
    assert found.resolved == "p1/m1"
    (choice,) = found.body["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "I look."
    assert choice["message"]["tool_calls"] == [
        {"id": "toolu_1", "type": "function", "function": {"name": "search", "arguments": '{"q":"a"}'}}
    ]
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (112, 6)


@pytest.mark.parametrize(
    ("stop", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("something_new", "something_new"),
    ],
)
async def test_a_reason_to_stop_is_told_in_openais_words(tmp_path: Path, stop: str, finish: str):
    found, _ = await ask(tmp_path, said({"type": "text", "text": "x"}, stop=stop))
    assert found.body["choices"][0]["finish_reason"] == finish


FAILED = [
    (refused(429, "rate_limit_error", retry_after="9"), "rate_limit"),
    (refused(529, "overloaded_error"), "upstream"),
    (refused(500, "api_error"), "upstream"),
    (refused(404, "not_found_error"), "not_found"),
    (refused(413, "request_too_large"), "context_length"),
    (refused(200, "overloaded_error"), "upstream"),
    (failure(200, b"<html>"), "protocol"),
    (SILENT, "timeout"),
    (Script(pieces=(b"{",), ending="cut"), "upstream"),
    (failure(200, {"type": "message"}), "protocol"),
    (failure(200, {"type": "message", "content": [{"type": "tool_use"}], "usage": 5}), "protocol"),
]


@pytest.mark.parametrize(("script", "kind"), FAILED, ids=[f"{s.status} {k}" for s, k in FAILED])
async def test_a_failure_is_told_by_its_kind_and_the_next_is_asked(tmp_path: Path, script: Script, kind: str):
    found, _ = await ask(tmp_path, script)
    assert told(found)[0][1] == kind
    assert found.resolved == "p2/m1"


async def test_an_answer_of_another_form_is_paid_for_all_the_same(tmp_path: Path):
    usage = {"input_tokens": 12, "output_tokens": 3}
    for content in (None, [{"type": "tool_use"}]):
        found, _ = await ask(tmp_path, failure(200, {"type": "message", "content": content, "usage": usage}))
        assert (told(found)[0][1], found.attempts[0].usage.prompt_tokens) == ("protocol", 12)


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (refused(400, "invalid_request_error"), "bad_request"),
        (refused(401, "authentication_error"), "auth"),
        (refused(402, "billing_error"), "payment"),
        (refused(403, "permission_error"), "auth"),
        (said(stop="refusal"), "blocked"),
    ],
)
async def test_what_nobody_would_do_better_goes_to_the_caller(tmp_path: Path, script: Script, kind: str):
    found, _ = await ask(tmp_path, script)
    assert isinstance(found, RouteError)
    assert found.kind == kind
    assert found.attempts[0].usage.prompt_tokens == (12 if kind == "blocked" else 0), "what it cost all the same"


def saying(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, *parts]}]}


UNWORDED: dict[str, dict[str, Any]] = {
    "sound": saying({"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}),
    "a file": saying({"type": "file", "file": {"file_id": "f"}}),
    "a refusal": {"messages": [{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}]},
    "functions": {"functions": [{"name": "f"}]},
    "two answers": {"n": 2},
}


@pytest.mark.parametrize("lacking", UNWORDED)
@pytest.mark.parametrize("kind", ["anthropic", "google"])
async def test_what_it_has_no_word_for_is_asked_of_the_next(tmp_path: Path, kind: str, lacking: str):
    async with Upstream(answer()) as p1, Upstream(answer()) as p2:
        other = f"kind: {kind}, base_url: '{p1.url}'"
        async with routed(tmp_path, p1=other, p2=p2) as router:
            found = await router.complete({**BODY, **UNWORDED[lacking]})
    assert told(found) == [("p1/m1", "capability", None), ("p2/m1", "ok", 200)]
    assert p1.calls == 0


async def test_json_without_a_schema_is_asked_of_the_next(tmp_path: Path):
    body = {**BODY, "response_format": {"type": "json_object"}}
    found, p1 = await ask(tmp_path, said({"type": "text", "text": "x"}), body)
    assert told(found) == [("p1/m1", "capability", None), ("p2/m1", "ok", 200)]
    assert p1.calls == 0


def stream_of(*events: dict[str, Any], **options: Any) -> Script:
    return Script(pieces=[event(told, told["type"]) for told in events], headers=SSE, **options)


START = {
    "type": "message_start",
    "message": {"id": "msg_01", "role": "assistant", "content": [], "usage": {"input_tokens": 20, "output_tokens": 1}},
}
PING = {"type": "ping"}


def block(index: int, **content: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": content}


def delta(index: int, **content: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": content}


def stopped(reason: str) -> list[dict[str, Any]]:
    return [
        {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 15}},
        {"type": "message_stop"},
    ]


async def streamed(folder: Path, script: Script) -> tuple[list[dict[str, Any]], RouteError | None, Any]:
    async with Upstream(script) as p1:
        options = {"stream_options": {"include_usage": True}}
        async with routed(folder, more=FAST, p1=provider(p1)) as router, router.stream({**BODY, **options}) as stream:
            return *await read(stream), stream


async def test_a_stream_has_openais_chunks_and_S7_fragments_of_calls(tmp_path: Path):
    events = [
        START,
        PING,
        block(0, type="text", text=""),
        delta(0, type="text_delta", text="I "),
        delta(0, type="text_delta", text="look."),
        {"type": "content_block_stop", "index": 0},
        block(1, type="tool_use", id="toolu_1", name="search", input={}),
        delta(1, type="input_json_delta", partial_json='{"q":'),
        delta(1, type="input_json_delta", partial_json=' "a"}'),
        block(2, type="tool_use", id="toolu_2", name="search", input={}),
        delta(2, type="input_json_delta", partial_json="{}"),
        *stopped("tool_use"),
    ]
    chunks, broken, stream = await streamed(tmp_path, stream_of(*events))
    assert broken is None
    assert text(chunks) == "I look."
    calls: dict[int, dict[str, str]] = {}
    for part in (c for chunk in chunks for choice in chunk["choices"] for c in choice["delta"].get("tool_calls", ())):
        call = calls.setdefault(part["index"], {"id": part.get("id", ""), "arguments": ""})
        call["arguments"] += part["function"]["arguments"]
    assert calls == {0: {"id": "toolu_1", "arguments": '{"q": "a"}'}, 1: {"id": "toolu_2", "arguments": "{}"}}
    assert [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]][-1] == "tool_calls"
    assert chunks[-1]["usage"] == {"prompt_tokens": 20, "completion_tokens": 15, "total_tokens": 35}
    assert (stream.usage.prompt_tokens, stream.usage.completion_tokens) == (20, 15)
    assert len({chunk["id"] for chunk in chunks}) == 1


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (stream_of(START, block(0, type="text"), ending="cut"), "upstream"),
        (stream_of(START, block(0, type="text")), "upstream"),
        (stream_of(START, {"type": "error", "error": {"type": "overloaded_error"}}), "upstream"),
        (stream_of(START, {"type": "error", "error": {"type": "rate_limit_error"}}), "rate_limit"),
        (stream_of(START, ending="hang"), "timeout"),
    ],
    ids=["cut", "ended", "overloaded", "rate", "idle"],
)
async def test_a_stream_that_breaks_off_is_an_error(tmp_path: Path, script: Script, kind: str):
    _, broken, stream = await streamed(tmp_path, script)
    assert broken is not None
    assert broken.kind == kind
    assert stream.attempts[0].usage.prompt_tokens == 20, "it is paid for all the same"


async def test_F13_a_stream_is_asked_for_in_the_form_that_was_wished(tmp_path: Path):
    wished = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}
    async with (
        Upstream(stream_of(START, *stopped("end_turn"))) as p1,
        routed(tmp_path, p1=provider(p1)) as router,
        router.stream({**BODY, "response_format": wished}) as stream,
    ):
        assert (await read(stream))[1] is None
    found = p1.requests[0].body
    assert found["output_config"]["format"]["schema"] == SCHEMA


async def test_its_models_are_listed(tmp_path: Path):
    async with (
        Upstream(said()) as p1,
        routed(tmp_path, p1=provider(p1)) as router,
    ):
        assert await router.offered("p1") == {"m1", "m2"}
