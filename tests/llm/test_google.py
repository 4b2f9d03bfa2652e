"""Google's API as it is recorded in its documentation, over a socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from projector.errors import BlockedError, RouteError
from tests.llm.test_router import FAST, both, routed, told
from tests.llm.test_streams import read, text
from tests.llm.upstream import BODY, SILENT, SSE, Script, Upstream, event, failure, words

SCHEMA = {"type": "object", "properties": {"q": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "search", "description": "finds", "parameters": SCHEMA}}]
USAGE = {"promptTokenCount": 9, "candidatesTokenCount": 4, "thoughtsTokenCount": 6, "totalTokenCount": 19}


def generated(*parts: dict[str, Any], finish: str | None = "STOP", usage: bool = True) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "responseId": "r1"} | ({"usageMetadata": USAGE} if usage else {})


def said(*parts: dict[str, Any], finish: str | None = "STOP") -> Script:
    return Script(pieces=(orjson.dumps(generated(*parts, finish=finish)),))


def refused(status: int, name: str, *details: dict[str, Any]) -> Script:
    return failure(status, {"error": {"code": status, "message": "told", "status": name, "details": list(details)}})


def provider(upstream: Upstream) -> str:
    return f"kind: google, base_url: '{upstream.url}', api_key_env: KEY_OF_P1"


async def ask(folder: Path, script: Script, body: dict[str, Any] = BODY) -> tuple[Any, Upstream]:
    """What comes of a chain of Google (p1) and of another (p2), which is well."""
    found, p1, *_ = await both(folder, script, body=body, first=provider)
    return found, p1


async def test_a_conversation_is_told_in_its_words(tmp_path: Path):
    body = {
        "model": "mana/x",
        "messages": [
            {"role": "system", "content": "be brief"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "search", "arguments": '{"q": "a"}'},
                        "extra_content": {"google": {"thought_signature": "signed"}},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": '{"found": 1}'},
            {
                "role": "assistant",
                "content": "more",
                "tool_calls": [{"id": "c2", "type": "function", "function": {"name": "search", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "c2", "content": "plain text"},
        ],
        "tools": TOOLS,
        "tool_choice": {"type": "function", "function": {"name": "search"}},
        "temperature": 0.5,
        "max_tokens": 50,
        "stop": ["END"],
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}},
    }
    _, p1 = await ask(tmp_path, said({"text": "x"}), body)
    (request,) = p1.requests
    assert request.path == "/v1/models/m1:generateContent"
    assert request.headers["x-goog-api-key"] == "secret-key-of-p1"
    assert request.body == {
        "systemInstruction": {"parts": [{"text": "be brief"}]},
        "contents": [
            {"role": "user", "parts": [{"text": "look"}, {"inlineData": {"mimeType": "image/png", "data": "AA=="}}]},
            {
                "role": "model",
                "parts": [{"functionCall": {"name": "search", "args": {"q": "a"}}, "thoughtSignature": "signed"}],
            },
            {"role": "user", "parts": [{"functionResponse": {"name": "search", "response": {"found": 1}}}]},
            {
                "role": "model",
                "parts": [
                    {"text": "more"},
                    {
                        "functionCall": {"name": "search", "args": {}},
                        "thoughtSignature": "skip_thought_signature_validator",
                    },
                ],
            },
            {
                "role": "user",
                "parts": [{"functionResponse": {"name": "search", "response": {"result": "plain text"}}}],
            },
        ],
        "tools": [
            {"functionDeclarations": [{"name": "search", "description": "finds", "parametersJsonSchema": SCHEMA}]}
        ],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["search"]}},
        "generationConfig": {
            "temperature": 0.5,
            "maxOutputTokens": 50,
            "stopSequences": ["END"],
            "responseMimeType": "application/json",
            "responseJsonSchema": SCHEMA,
        },
    }


async def test_an_answer_has_openais_form(tmp_path: Path):
    parts = [
        {"text": "hm", "thought": True},
        {"text": "I look."},
        {"functionCall": {"name": "search", "args": {"q": "a"}}, "thoughtSignature": "signed"},
    ]
    found, _ = await ask(tmp_path, said(*parts), {**BODY, "tools": TOOLS})
    (choice,) = found.body["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", "I look.")
    assert call["function"] == {"name": "search", "arguments": '{"q":"a"}'}
    assert call["id"].startswith("call_")
    assert call["extra_content"] == {"google": {"thought_signature": "signed"}}
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (9, 10)


async def test_R2_an_answer_that_is_cut_at_its_length_is_an_answer(tmp_path: Path):
    found, _ = await ask(tmp_path, said({"text": "as far as"}, finish="MAX_TOKENS"))
    assert (found.resolved, found.body["choices"][0]["finish_reason"]) == ("p1/m1", "length")
    found, _ = await ask(tmp_path, said(finish="MAX_TOKENS"))
    assert (found.resolved, found.body["choices"][0]["message"]["content"]) == ("p1/m1", None)


@pytest.mark.parametrize("finish", ["SAFETY", "RECITATION", "PROHIBITED_CONTENT", "SPII", "BLOCKLIST"])
async def test_6_a_content_policy_is_never_asked_around(tmp_path: Path, finish: str):
    found, _ = await ask(tmp_path, said(finish=finish))
    assert (found.kind, len(found.attempts)) == ("blocked", 1)
    assert found.attempts[0].usage.prompt_tokens == USAGE["promptTokenCount"], "it is paid for all the same"
    found, _ = await ask(tmp_path, failure(200, {"promptFeedback": {"blockReason": finish}}))
    assert (found.kind, found.upstream_code) == ("blocked", finish)
    found, _ = await ask(tmp_path, said({"text": "some"}, finish=finish))
    assert found.body["choices"][0]["finish_reason"] == "content_filter"


FAILED = [
    (refused(429, "RESOURCE_EXHAUSTED", {"retryDelay": "17s"}), "rate_limit"),
    (refused(503, "UNAVAILABLE"), "upstream"),
    (refused(504, "DEADLINE_EXCEEDED"), "upstream"),
    (refused(404, "NOT_FOUND"), "not_found"),
    (failure(200, {"error": {"code": 503}}), "upstream"),
    (failure(503, {"error": {"details": 5}}), "upstream"),
    (failure(200, b"<html>"), "protocol"),
    (SILENT, "timeout"),
    (Script(pieces=(b"{",), ending="cut"), "upstream"),
    (failure(200, {"candidates": []}), "protocol"),
    (failure(200, {"candidates": [{}]}), "protocol"),
    (failure(200, {"candidates": [{"content": {"parts": 5}}]}), "protocol"),
    (failure(200, {"candidates": [{"content": None, "finishReason": "STOP"}]}), "protocol"),
    (said(finish="MALFORMED_FUNCTION_CALL"), "protocol"),
    (said({"text": "hm", "thought": True}, finish="OTHER"), "protocol"),
]


@pytest.mark.parametrize(("script", "kind"), FAILED, ids=[f"{s.status} {k}" for s, k in FAILED])
async def test_a_failure_is_told_by_its_kind_and_the_next_is_asked(tmp_path: Path, script: Script, kind: str):
    found, _ = await ask(tmp_path, script)
    assert told(found)[0][1] == kind
    assert found.resolved == "p2/m1"


async def test_the_time_it_asks_to_wait_stands_in_its_body(tmp_path: Path):
    async with (
        Upstream(refused(429, "RESOURCE_EXHAUSTED", {"retryDelay": "17s"})) as p1,
        routed(tmp_path, p1=provider(p1)) as router,
    ):
        with pytest.raises(RouteError) as caught:
            await router.complete(BODY)
    assert caught.value.retry_after == pytest.approx(17, abs=0.5)


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (refused(400, "INVALID_ARGUMENT"), "bad_request"),
        (refused(400, "INVALID_ARGUMENT", {"reason": "API_KEY_INVALID"}), "auth"),
        (refused(403, "PERMISSION_DENIED"), "auth"),
    ],
)
async def test_what_nobody_would_do_better_goes_to_the_caller(tmp_path: Path, script: Script, kind: str):
    found, _ = await ask(tmp_path, script)
    assert isinstance(found, RouteError)
    assert found.kind == kind


async def test_a_picture_elsewhere_is_asked_of_the_next(tmp_path: Path):
    picture = [{"type": "image_url", "image_url": {"url": "https://h/p.png"}}]
    found, p1 = await ask(
        tmp_path, said({"text": "x"}), {"model": "mana/x", "messages": [{"role": "user", "content": picture}]}
    )
    assert told(found)[0] == ("p1/m1", "capability", None)
    assert p1.calls == 0


def stream_of(*events: dict[str, Any], **options: Any) -> Script:
    return Script(pieces=[event(told) for told in events], headers=SSE, **options)


async def test_R1_a_stream_has_openais_chunks_and_yields_nothing_before_the_provider_does(tmp_path: Path):
    events = [
        generated({"text": "hm", "thought": True}, finish=None, usage=False),
        generated({"text": "I "}, finish=None),
        generated({"text": "look."}, finish=None),
        generated({"functionCall": {"name": "search", "args": {"q": "a"}}}, finish=None),
        generated({"functionCall": {"name": "search", "args": {}}}),
    ]
    async with Upstream(failure(503)) as down, Upstream(stream_of(*events)) as p1:
        aliases = "  mana/x: {chain: [down/m1, p1/m1]}"
        async with (
            routed(tmp_path, aliases, down=provider(down), p1=provider(p1)) as router,
            router.stream({**BODY, "stream_options": {"include_usage": True}}) as stream,
        ):
            assert stream.resolved == "p1/m1"
            chunks, broken = await read(stream)
    assert p1.requests[0].path == "/v1/models/m1:streamGenerateContent?alt=sse"
    assert broken is None
    assert text(chunks) == "I look."
    calls = [c for chunk in chunks for choice in chunk["choices"] for c in choice["delta"].get("tool_calls", ())]
    assert [(call["index"], call["function"]["arguments"]) for call in calls] == [(0, '{"q":"a"}'), (1, "{}")]
    assert [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]][-1] == "tool_calls"
    assert chunks[-1]["usage"]["total_tokens"] == 19


async def test_a_stream_that_says_nothing_for_an_odd_reason_is_asked_of_the_next(tmp_path: Path):
    async with (
        Upstream(stream_of(generated(finish="MALFORMED_FUNCTION_CALL"))) as p1,
        Upstream(words("from p2")) as p2,
        routed(tmp_path, p1=provider(p1), p2=p2) as router,
        router.stream(BODY) as stream,
    ):
        assert told(stream) == [("p1/m1", "protocol", 200), ("p2/m1", "ok", 200)]
        assert stream.attempts[0].usage.prompt_tokens == USAGE["promptTokenCount"], "it is paid for all the same"


async def test_a_refused_prompt_of_a_stream_is_paid_for_all_the_same(tmp_path: Path):
    refused_prompt = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": USAGE}
    async with Upstream(stream_of(refused_prompt)) as p1, routed(tmp_path, p1=provider(p1)) as router:
        with pytest.raises(BlockedError) as caught:
            await router.stream(BODY).__aenter__()
    assert caught.value.attempts[0].usage.prompt_tokens == USAGE["promptTokenCount"]


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (stream_of(generated({"text": "half"}, finish=None), ending="cut"), "upstream"),
        (stream_of(generated({"text": "half"}, finish=None)), "upstream"),
        (stream_of(generated({"text": "half"}, finish=None), {"error": {"code": 429}}), "rate_limit"),
        (stream_of(generated({"text": "half"}, finish=None), ending="hang"), "timeout"),
    ],
    ids=["cut", "ended", "error", "idle"],
)
async def test_a_stream_that_breaks_off_is_an_error(tmp_path: Path, script: Script, kind: str):
    async with (
        Upstream(script) as p1,
        routed(tmp_path, more=FAST, p1=provider(p1)) as router,
        router.stream(BODY) as stream,
    ):
        chunks, broken = await read(stream)
    assert text(chunks) == "half"
    assert broken is not None
    assert broken.kind == kind
    assert stream.attempts[0].usage.prompt_tokens == USAGE["promptTokenCount"], "though it is told before the end"


async def test_F13_a_stream_is_asked_for_in_the_form_that_was_wished(tmp_path: Path):
    wished = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}
    async with (
        Upstream(stream_of(generated({"text": "{}"}))) as p1,
        routed(tmp_path, p1=provider(p1)) as router,
        router.stream({**BODY, "response_format": wished}) as stream,
    ):
        assert (await read(stream))[1] is None
    found = p1.requests[0].body
    assert found["generationConfig"]["responseJsonSchema"] == SCHEMA


async def test_its_models_are_listed(tmp_path: Path):
    async with Upstream(said()) as p1:
        p1.inventory = failure(200, {"models": [{"name": "models/m1"}, {"name": "models/m2"}]})
        async with routed(tmp_path, p1=provider(p1)) as router:
            assert await router.offered("p1") == {"m1", "m2"}
