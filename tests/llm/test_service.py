"""The service over HTTP, and OpenAI's own client against it; numbers are those of the spec's facts."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import openai
import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from projector.config import Settings
from projector.errors import ConfigError, ModelNotFoundError, RouteError
from projector.llm.breaker import Lease
from projector.llm.prometheus import PrometheusMetrics
from projector.llm.registry import Registry
from projector.llm.router import LLMRouter
from projector.llm.service import app as app_module
from projector.llm.service import door
from projector.llm.service.door import Key, Rate
from projector.llm.service.server import serving
from tests.llm.clock import Clock
from tests.llm.test_router import FAST, TOOLS, metric, no_pause
from tests.llm.upstream import (
    ABORT,
    BODY,
    DONE,
    SILENT,
    Script,
    Upstream,
    answer,
    chunk,
    error,
    event,
    registry,
    streamed,
    words,
)

KEY = "a service key of our own"
SHIPPED = Path(__file__).parents[2] / "deploy" / "llm.yaml"


class Client:
    """Knows the key; answers are (status, headers, body)."""

    def __init__(self, router: LLMRouter, port: int, http: aiohttp.ClientSession) -> None:
        self.router = router
        self.url = f"http://127.0.0.1:{port}"
        self._http = http

    @property
    def openai(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0)

    async def post(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        given = {"Authorization": f"Bearer {KEY}"} | {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._http.post(self.url + path, data=data, headers=given) as response:
            content = await response.read()
            is_json = response.content_type == "application/json"
            return response.status, response.headers, orjson.loads(content) if is_json else content

    async def get(self, path: str, **headers: str) -> tuple[int, Any, Any]:
        given = {"Authorization": f"Bearer {KEY}"} | {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._http.get(self.url + path, headers=given) as response:
            content = await response.read()
            is_json = response.content_type == "application/json"
            return response.status, response.headers, orjson.loads(content) if is_json else content


@asynccontextmanager
async def service(
    aliases: str = "", *, more: str = FAST, limits: dict[str, Any] | None = None, **upstreams: Upstream | str
) -> AsyncIterator[Client]:
    settings = Settings(llm_port=0, **(limits or {}))
    with tempfile.TemporaryDirectory() as folder:
        made = registry(Path(folder), aliases, more=more, **upstreams)
        async with (
            LLMRouter(made, sleep=no_pause, metrics=PrometheusMetrics()) as router,
            serving(router, settings, KEY) as port,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20)) as http,
        ):
            yield Client(router, port, http)


async def test_7_an_answer_says_who_gave_it():
    async with Upstream(error(500)) as p1, Upstream(answer("from p2")) as p2, service(p1=p1, p2=p2) as client:
        status, headers, body = await client.post("/v1/chat/completions", BODY, X_Request_ID="call-7")
    assert status == 200
    assert body["choices"][0]["message"]["content"] == "from p2"
    assert body["model"] == "p2/m1", "13.5.15"
    assert {name: headers[name] for name in ("X-LLM-Requested", "X-LLM-Resolved", "X-LLM-Attempts")} == {
        "X-LLM-Requested": "mana/x",
        "X-LLM-Resolved": "p2/m1",
        "X-LLM-Attempts": "2",
    }
    assert headers["X-Mana-LLM-Resolved"] == "p2/m1"
    assert headers["X-Request-ID"] == "call-7"


async def test_7_a_stream_says_it_too_and_before_its_first_chunk():
    async with Upstream(ABORT) as p1, Upstream(words("a", "b")) as p2, service(p1=p1, p2=p2) as client:
        status, headers, body = await client.post("/v1/chat/completions", {**BODY, "stream": True})
    assert status == 200
    assert headers["Content-Type"].startswith("text/event-stream")
    assert (headers["X-LLM-Resolved"], headers["X-LLM-Attempts"]) == ("p2/m1", "2")
    assert (headers["X-LLM-Requested"], headers["X-Mana-LLM-Resolved"]) == ("mana/x", "p2/m1")
    events = body.split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""]
    assert orjson.loads(events[0].removeprefix(b"data: "))["choices"][0]["delta"]["content"] == "a"


@pytest.mark.parametrize("stream", [False, True])
async def test_R7_an_error_has_openais_shape_and_every_attempt(stream: bool):
    more = FAST + "\nbreaker: {failure_threshold: 1}"
    aliases = "  mana/x: {chain: [p1/m1, p2/m1, p3/m1]}"
    async with Upstream(error(503)) as p1, Upstream(ABORT) as p2, service(aliases, more=more, p1=p1, p2=p2) as client:
        status, headers, body = await client.post("/v1/chat/completions", {**BODY, "stream": stream})
    assert status == 503, "of a stream too: nothing was sent yet"
    found = body["error"]
    assert (found["type"], found["code"], found["kind"], found["param"]) == (*["no_healthy_provider"] * 3, None)
    assert [(a["entry"], a["outcome"], a["kind"], a["status"]) for a in found["attempts"]] == [
        ("p1/m1", "failed", "upstream", 503),
        ("p2/m1", "failed", "unreachable", None),
        ("p3/m1", "skipped", "unconfigured", None),
    ]
    assert [a["ms"] > 0 for a in found["attempts"]] == [True, True, False]
    assert (found["requested"], headers["X-LLM-Attempts"]) == ("mana/x", "3")
    assert 1 <= int(headers["Retry-After"]) <= 66
    assert 0 < found["retry_after"] <= 66


async def test_6_the_status_says_whose_fault_it_is():
    told = [
        (error(400, message="temperature is wrong"), 400, "bad_request"),
        (error(422), 400, "bad_request"),
        (error(400, "content_filter"), 422, "blocked"),
        (error(400, "context_length_exceeded"), 400, "context_length"),
        (error(401), 502, "auth"),
        (error(402), 502, "payment"),
    ]
    async with Upstream(*(script for script, _, _ in told)) as p1, service(p1=p1) as client:
        for _, status, kind in told:
            found, _, body = await client.post("/v1/chat/completions", BODY)
            assert (found, body["error"]["kind"]) == (status, kind)
        assert (await client.post("/v1/chat/completions", {**BODY, "model": "mana/nope"}))[0] == 404
        assert (await client.post("/v1/chat/completions", {"messages": BODY["messages"]}))[0] == 400, "A5: no default"
        client.router.breaker.reset()
        p1.scripts = [error(400, message="temperature is wrong")]
        _, _, body = await client.post("/v1/chat/completions", BODY)
        assert "temperature is wrong" in body["error"]["message"], "for the caller, who can mend it"


async def test_6_nobody_answers_in_time_is_a_504_and_a_name_of_nobody_a_503():
    async with Upstream(SILENT) as p1, service(more="budgets: {deadline_s: 0.4, min_attempt_s: 0.3}", p1=p1) as client:
        for stream in (False, True):
            status, headers, body = await client.post("/v1/chat/completions", {**BODY, "stream": stream})
            assert (status, body["error"]["kind"], headers["X-LLM-Attempts"]) == (504, "deadline", "1")
        status, headers, body = await client.post("/v1/chat/completions", {**BODY, "model": "nobody/m"})
        assert (status, body["error"]["kind"]) == (503, "no_healthy_provider")
        assert "Retry-After" not in headers, "nothing heals by itself"


def test_6_each_kind_has_its_status():
    kinds = {
        **dict.fromkeys(["unreachable", "upstream", "protocol", "not_found", "auth", "payment"], 502),
        **dict.fromkeys(["context_length", "bad_request", "capability"], 400),
        **dict.fromkeys(["timeout", "deadline"], 504),
        "rate_limit": 429,
        "blocked": 422,
        "unknown_alias": 404,
        "no_healthy_provider": 503,
    }
    assert {error.kind: error.http_status for error in RouteError.__subclasses__()} == kinds


async def test_5_4_a_stream_that_breaks_off_ends_with_an_error_and_without_done():
    async with Upstream(streamed(chunk("half"), ending="cut")) as p1, service(p1=p1) as client:
        status, _, body = await client.post("/v1/chat/completions", {**BODY, "stream": True})
        with pytest.raises(openai.APIError, match="cut off"):
            async for _ in await client.openai.chat.completions.create(**{**BODY, "stream": True}):
                pass
    assert status == 200
    events = [part.removeprefix(b"data: ") for part in body.split(b"\n\n") if part]
    assert orjson.loads(events[0])["choices"][0]["delta"]["content"] == "half"
    assert orjson.loads(events[1])["error"]["kind"] == "upstream"
    assert len(events) == 2
    assert DONE not in body


async def test_the_official_client_needs_no_change():
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]
    fragments = [
        chunk(role="assistant", tool_calls=[{"index": 0, "id": "c1", "type": "function", "function": {"name": "f"}}]),
        chunk(tool_calls=[{"index": 0, "function": {"arguments": '{"a":'}}]),
        chunk(tool_calls=[{"index": 0, "function": {"arguments": " 1}"}}]),
        chunk(finish="tool_calls"),
        event(
            {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": None}
        ),
        DONE,
    ]
    scripts = [
        answer("hello"),
        answer(None, tool_calls=calls, finish="tool_calls"),
        words("a", "b"),
        streamed(*fragments),
    ]
    async with Upstream(*scripts) as p1, service(p1=p1) as client, client.openai as chat:
        raw = await chat.chat.completions.with_raw_response.create(**BODY)
        assert raw.headers["x-llm-resolved"] == "p1/m1"
        completion = raw.parse()
        assert (completion.choices[0].message.content, completion.model) == ("hello", "p1/m1")
        assert completion.usage is not None
        assert completion.usage.total_tokens == 15
        called = await chat.chat.completions.create(**BODY, tools=TOOLS, response_format={"type": "json_object"})
        assert called.choices[0].message.tool_calls[0].function.arguments == '{"a": 1}'
        assert p1.requests[1].body["tools"] == TOOLS
        assert p1.requests[1].body["response_format"] == {"type": "json_object"}
        options = {"include_usage": True}
        parts = [part async for part in await chat.chat.completions.create(**BODY, stream=True, stream_options=options)]
        assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == "ab"
        assert parts[-1].usage.total_tokens == 10
        async with chat.chat.completions.stream(**BODY, tools=TOOLS) as events:
            async for _ in events:
                pass
            final = await events.get_final_completion()
        assert final.choices[0].message.tool_calls[0].function.arguments == '{"a": 1}', "S7"
        listed = [model.id async for model in chat.models.list()]
        assert listed == ["mana/x", "p1/m1"]
        assert (await chat.models.retrieve("mana/x")).owned_by == "projector"
        with pytest.raises(openai.NotFoundError) as caught:
            await chat.chat.completions.create(**{**BODY, "model": "mana/nope"})
        assert caught.value.code == "unknown_alias"
        p1.scripts = [error(503)]
        with pytest.raises(openai.InternalServerError) as down:
            await chat.chat.completions.create(**BODY)
        assert down.value.body["attempts"][0]["status"] == 503


WRONG = [
    (b"{", None),
    (b"[]", None),
    ({"model": "mana/x"}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": ["x"]}, "messages[0]"),
    ({"messages": [{"role": "stranger", "content": "x"}]}, "messages[0]"),
    ({**BODY, "model": "a b\r\nX-Header: 1"}, "model"),
    ({**BODY, "model": 5}, "model"),
    ({**BODY, "temperature": 2.5}, "temperature"),
    ({**BODY, "temperature": "hot"}, "temperature"),
    ({**BODY, "max_tokens": 0}, "max_tokens"),
    ({**BODY, "max_completion_tokens": 0}, "max_completion_tokens"),
    ({**BODY, "n": 0}, "n"),
    ({**BODY, "top_p": 1.1}, "top_p"),
    ({**BODY, "presence_penalty": 2.1}, "presence_penalty"),
    ({**BODY, "frequency_penalty": -2.1}, "frequency_penalty"),
    ({**BODY, "max_tokens": True}, "max_tokens"),
    ({**BODY, "stream": "yes"}, "stream"),
    ({**BODY, "tools": {}}, "tools"),
    ({**BODY, "response_format": {"type": "xml"}}, "response_format"),
    ({**BODY, "stop": [1]}, "stop"),
    ({**BODY, "tool_choice": "maybe"}, "tool_choice"),
    ({**BODY, "tool_choice": []}, "tool_choice"),
    ({**BODY, "response_format": {"type": []}}, "response_format"),
    ({"messages": [{"role": [], "content": "x"}]}, "messages[0]"),
]


async def test_7_a_request_without_form_is_refused_before_anybody_is_asked():
    async with Upstream(answer()) as p1, service(p1=p1) as client:
        for body, param in WRONG:
            status, _, told = await client.post("/v1/chat/completions", body)
            assert (status, told["error"]["param"]) == (400, param), body
            assert told["error"]["type"] == "bad_request"
        assert (await client.get("/v1/nowhere"))[0] == 404
        assert (await client.get("/v1/models/mana/nope"))[0] == 404
        assert (await client.get("/v1/chat/completions"))[0] == 405
        assert p1.calls == 0
        null = {**BODY, "temperature": None, "tools": None, "stream": None}
        assert (await client.post("/v1/chat/completions", null))[0] == 200, "null is as good as nothing"


async def test_7_who_does_not_know_the_key_gets_health_and_metrics_alone():
    async with Upstream(answer()) as p1, service(p1=p1) as client:
        for given in (
            {"Authorization": ""},
            {"Authorization": "Bearer"},
            {"Authorization": f"Basic {KEY}"},
            {"Authorization": f"Bearer {KEY[:-1]}"},
            {"Authorization": f"Bearer {KEY}x"},
            {"Authorization": "", "X-API-Key": "wrong"},
        ):
            for path in ("/v1/models", "/v1/aliases", "/v1/health"):
                status, _, body = await client.get(path, **given)
                assert (status, body["error"]["code"]) == (401, "invalid_api_key")
            assert (await client.post("/v1/chat/completions", BODY, **given))[0] == 401
            assert (await client.post("/v1/aliases/reload", {}, **given))[0] == 401
        for given in ({"X-API-Key": KEY}, {"X-Service-Key": KEY}, {"Authorization": f"bearer {KEY}"}):
            assert (await client.get("/v1/models", **{"Authorization": "", **given}))[0] == 200
        client.router.breaker.mark_unhealthy("p1", "inner words")
        status, _, body = await client.get("/health", Authorization="")
        assert (status, body["status"], body["service"]) == (200, "healthy", "projector-llm")
        assert "inner words" not in str(body)
        assert (await client.get("/metrics", Authorization=""))[0] == 200
    assert p1.calls == 0


def test_a_key_is_compared_in_constant_time(monkeypatch):
    compared: list[tuple[bytes, bytes]] = []
    real = door.hmac.compare_digest

    def compare(given: bytes, key: bytes) -> bool:
        compared.append((given, key))
        return real(given, key)

    monkeypatch.setattr(door.hmac, "compare_digest", compare)
    key = Key(KEY)
    assert [key.opens({"X-API-Key": given}) for given in (KEY, "wrong", "")] == [True, False, False]
    assert compared == [(given.encode(), KEY.encode()) for given in (KEY, "wrong", "")], "and by nothing else"


async def test_limits_of_size_rate_and_number_are_told_as_such():
    async with Upstream(Script(wait_s=0.3, pieces=answer().pieces)) as p1:
        async with service(p1=p1, limits={"llm_max_request_bytes": 1024}) as client:
            status, _, body = await client.post("/v1/chat/completions", {**BODY, "padding": "x" * 2000})
            assert (status, body["error"]["code"]) == (413, "too_large")
        async with service(p1=p1, more="", limits={"llm_max_calls": 2}) as client:
            found = await asyncio.gather(*(client.post("/v1/chat/completions", BODY) for _ in range(5)))
            assert sorted(status for status, _, _ in found) == [200, 200, 429, 429, 429]
            assert (await client.post("/v1/chat/completions", BODY))[0] == 200, "places come free again"
        async with service(p1=p1, limits={"llm_rate_per_s": 0.5}) as client:
            assert (await client.get("/v1/models"))[0] == 200
            status, headers, body = await client.get("/v1/models")
            assert (status, headers["Retry-After"], body["error"]["code"]) == (429, "2", "rate_limit")
            assert (await client.get("/health"))[0] == 200


async def test_a_caller_whose_request_never_comes_whole_holds_its_place_for_a_while_alone(monkeypatch):
    monkeypatch.setattr(app_module, "LONGEST_READ_S", 0.5)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\nauthorization: Bearer {KEY}\r\n\r\n{{"
    )
    async with Upstream(answer()) as p1, service(p1=p1, limits={"llm_max_calls": 1}) as client, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(client.url.rpartition(":")[2]))
        writer.write(head.encode())
        await writer.drain()
        while (await client.get("/v1/health"))[2]["calls"] == 0:
            await asyncio.sleep(0.01)
        status, _, body = await client.post("/v1/chat/completions", BODY)
        assert (status, body["error"]["code"]) == (429, "rate_limit"), "the place is taken while it is waited for"
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        writer.close()
        assert (await client.post("/v1/chat/completions", BODY))[0] == 200
    assert p1.calls == 1


def test_a_rate_is_that_of_each_address_and_fills_up_again():
    clock = Clock()
    rate = Rate(2.0, clock=clock)
    assert [rate.wait_s("a") for _ in range(3)] == [0, 0, 0.5]
    assert rate.wait_s("b") == 0
    clock.pass_s(0.5)
    assert [rate.wait_s("a"), rate.wait_s("a")] == [0, 0.5]
    clock.pass_s(100)
    assert [rate.wait_s("a") for _ in range(3)] == [0, 0, 0.5]


async def test_a_caller_who_leaves_ends_the_call_at_the_provider():
    hanging = [Script(ending="silent"), streamed(chunk("a"), ending="hang")]
    for script, stream in zip(hanging, (False, True), strict=True):
        async with Upstream(script) as p1, service(more="", p1=p1) as client, aiohttp.ClientSession() as leaving:
            headers = {"Authorization": f"Bearer {KEY}"}
            data = orjson.dumps({**BODY, "stream": stream})
            asking = asyncio.create_task(leaving.post(f"{client.url}/v1/chat/completions", data=data, headers=headers))
            async with asyncio.timeout(10):
                while not p1.calls:
                    await asyncio.sleep(0.01)
                if stream:
                    response = await asking
                    assert await response.content.readany()
                    response.close()
                else:
                    asking.cancel()
                    await asyncio.gather(asking, return_exceptions=True)
                await p1.gone.wait()


async def test_13_5_12_13_14_aliases_and_health_are_shown():
    aliases = "  mana/b: {description: two, chain: [p1/m1, nobody/m1]}\n  mana/a: {chain: [p2/m1, p1/m1]}"
    async with Upstream(answer()) as p1, Upstream(answer()) as p2:
        p2.inventory = error(503)
        more = FAST + "\ndefault: mana/b\nbreaker: {failure_threshold: 1}"
        async with service(aliases, more=more, p1=p1, p2=p2) as client:
            _, _, told = await client.get("/v1/aliases")
            assert (told["default"], told["generation"]) == ("mana/b", 1)
            assert time.time() - 60 < told["loaded_at"] <= time.time()
            assert "mana/b: nobody/m1: there is no provider 'nobody': never asked" in told["warnings"]
            assert [(a["name"], a["chain"]) for a in told["aliases"]] == [
                ("mana/a", ["p2/m1", "p1/m1"]),
                ("mana/b", ["p1/m1", "nobody/m1"]),
            ]
            assert [e["configured"] for e in told["aliases"][1]["entries"]] == [True, False]
            _, _, told = await client.get("/v1/health")
            assert told["status"] == "healthy"
            assert told["providers"]["p1"]["status"] == "healthy"
            assert told["providers"]["p1"]["consecutive_failures"] == 0
            _, _, told = await client.get("/v1/health?probe=1")
            assert (told["status"], told["providers"]["p2"]["status"]) == ("degraded", "unhealthy"), "13.4.21, 13.4.22"
            shown = told["providers"]["p2"]
            assert (shown["state"], shown["cause"]) == ("open", "probe")
            assert shown["open_for_s"] <= shown["window_s"]
            assert shown["unhealthy_until_unix"] > shown["last_check_unix"]
            assert (shown["generation"], shown["half_open_lease"], shown["auth_suspect"]) == (1, False, False)
            lease = client.router.breaker.admit("p1", "m1")
            assert isinstance(lease, Lease)
            lease.fail(ModelNotFoundError("retired"))
            _, _, told = await client.get("/v1/health")
            rests = told["models"]["p1/m1"]
            assert (rests["state"], rests["cause"], rests["window_s"]) == ("open", "not_found", 600)
            _, _, told = await client.post("/v1/health/reset")
            assert told["status"] == "healthy"


async def test_13_5_12_13_the_shipped_file_has_five_classes_with_chains():
    async with (
        LLMRouter(Registry(SHIPPED, environment={})) as router,
        serving(router, Settings(llm_port=0), KEY) as port,
        aiohttp.ClientSession() as http,
    ):
        status, _, told = await Client(router, port, http).get("/v1/aliases")
    assert (status, told["default"], len(told["aliases"])) == (200, "mana/fast-text", 5)
    (chain,) = (alias["chain"] for alias in told["aliases"] if alias["name"] == "mana/long-form")
    assert len(chain) >= 2
    assert all("/" in entry for entry in chain)


async def test_2_5_a_reload_by_command_tells_what_became_of_it():
    async with Upstream(answer()) as p1, service(p1=p1) as client:
        path = client.router.registry.path
        text = path.read_text()
        path.write_text(text.replace("[p1/m1]", "[p1/m2]"))
        assert (await client.post("/v1/aliases/reload"))[2] == {"old": 1, "new": 2}
        assert (await client.post("/v1/chat/completions", BODY))[1]["X-LLM-Resolved"] == "p1/m2"
        path.write_text("aliases:\n  mana/x: [")
        status, _, body = await client.post("/v1/aliases/reload")
        assert (status, body["error"]["code"]) == (422, "alias_config")
        assert "llm.yaml:" in body["error"]["message"]
        assert (await client.post("/v1/chat/completions", BODY))[1]["X-LLM-Resolved"] == "p1/m2"


async def test_8_metrics_have_labels_of_the_file_alone():
    async with Upstream(error(500)) as p1, Upstream(answer()) as p2, service(p1=p1, p2=p2) as client:
        for model in ("mana/x", "p2/invented-by-a-caller", "nobody/invented-too", "mana/invented"):
            await client.post("/v1/chat/completions", {**BODY, "model": model})
        _, _, text = await client.get("/metrics")
    asked = metric("mana_ai_http_requests_total", method="POST", path="/v1/chat/completions", status="200")
    assert asked, "R8: requests are counted"
    families = {family.name: family for family in text_string_to_metric_families(text.decode())}
    assert "invented" not in text.decode()
    for name in ("requests", "attempts", "attempt_seconds", "fallback", "tokens", "alias_generation"):
        assert families[f"llm_{name}"].samples, name
    steps = [sample.labels for sample in families["llm_fallback"].samples]
    assert {"from": "p1/m1", "to": "p2/m1", "reason": "upstream"} in steps


def test_without_a_key_or_a_file_the_service_does_not_begin():
    with pytest.raises(ConfigError, match=r"PROJECTOR_SERVICE_KEY is not set.*spends money"):
        Settings().require_service_key("`run llm` spends money")
    with pytest.raises(ConfigError, match="PROJECTOR_LLM_CONFIG"):
        Settings().require_llm_config()


async def test_2_5_the_process_reads_its_file_again_on_SIGHUP_and_loses_no_request(tmp_path: Path):
    slow = Script(wait_s=0.05, pieces=answer().pieces)
    async with Upstream(slow) as p1, Upstream(slow) as p2:
        path = registry(tmp_path, "  mana/x: {chain: [p1/m1]}", p1=p1, p2=p2).path
        async with started(path, sys.executable, "-m", "projector", "run", "llm") as (process, ports, lines):
            await _reads_again(ports, lines, path, process)
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0


async def test_the_process_takes_more_callers_than_its_shell_allows_open_files(tmp_path: Path):
    async with Upstream(Script(wait_s=1.0, pieces=answer().pieces)) as p1:
        more = "  mana/x: {chain: [p1/m1]}"
        path = registry(tmp_path, more, p1=p1).path
        shell = ("sh", "-c", 'ulimit -Sn 100 && exec "$@"', "sh")
        async with started(path, *shell, sys.executable, "-m", "projector", "run", "llm") as (_, ports, _):
            url = f"http://127.0.0.1:{ports['llm']}/v1/chat/completions"
            async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as http:

                async def call() -> int:
                    async with http.post(url, json=BODY) as answered:
                        return answered.status

                assert set(await asyncio.gather(*(call() for _ in range(90)))) == {200}


@asynccontextmanager
async def started(path: Path, *command: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, int], Lines]]:
    """The service as a process of its own, with the ports on which it listens and what it logs."""
    environment = {
        **os.environ,
        "PROJECTOR_LLM_CONFIG": str(path),
        "PROJECTOR_LLM_PORT": "0",
        "PROJECTOR_SERVICE_KEY": KEY,
        "PROJECTOR_LOG_FORMAT": "json",
        "PROJECTOR_API_PORT": "0",
    }
    process = await asyncio.create_subprocess_exec(*command, env=environment, stderr=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(40):
            lines = Lines(process.stderr)
            ports = {name: (await lines.find(f"{name} listening"))["port"] for name in ("api", "llm")}
            yield process, ports, lines
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()  # `wait` alone waits for ever where nobody reads what it wrote


def replace(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


class Lines:
    """Log lines of a process, as they come."""

    def __init__(self, source: asyncio.StreamReader | None) -> None:
        assert source is not None
        self._source = source
        self.seen: list[dict[str, Any]] = []

    async def find(self, name: str) -> dict[str, Any]:
        while True:
            for line in self.seen:
                if line.get("event") == name:
                    return line
            raw = await self._source.readline()
            assert raw, f"the process ended: {self.seen}"
            if raw.startswith(b"{"):
                self.seen.append(orjson.loads(raw))


async def _reads_again(ports: dict[str, int], lines: Lines, path: Path, process: asyncio.subprocess.Process) -> None:
    url = f"http://127.0.0.1:{ports['llm']}"
    headers = {"Authorization": f"Bearer {KEY}"}
    statuses: list[int] = []
    resolved: set[str] = set()
    over = asyncio.Event()

    async with aiohttp.ClientSession(headers=headers) as http:

        async def call() -> None:
            while not over.is_set():
                async with http.post(f"{url}/v1/chat/completions", data=orjson.dumps(BODY)) as response:
                    statuses.append(response.status)
                    resolved.add(response.headers["X-LLM-Resolved"])

        callers = [asyncio.create_task(call()) for _ in range(10)]
        while not resolved:
            await asyncio.sleep(0.02)
        replace(path, "[p1/m1]", "[")
        process.send_signal(signal.SIGHUP)
        kept = await lines.find("aliases not reloaded")
        assert "failed to parse" in kept["error"]
        replace(path, "[", "[p2/m1]")
        process.send_signal(signal.SIGHUP)
        await lines.find("aliases reloaded")
        while "p2/m1" not in resolved:
            await asyncio.sleep(0.02)
        over.set()
        await asyncio.gather(*callers)
        async with http.get(f"http://127.0.0.1:{ports['api']}/health/ready") as ready:
            assert (ready.status, await ready.json()) == (
                200,
                {"ready": True, "stream": "llm", "parts": {"llm": {"ready": True}}},
            )
        async with http.get(f"http://127.0.0.1:{ports['api']}/health/live") as live:
            assert live.status == 200
    assert set(statuses) == {200}
    assert resolved == {"p1/m1", "p2/m1"}
