"""The router against providers on real sockets; numbers are those of 13.4, 5.8 and of the new ones (F)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY

from projector.errors import (
    BadRequestError,
    BlockedError,
    CapabilityError,
    ContextLengthError,
    DeadlineError,
    NoHealthyProviderError,
    NoModelError,
    PaymentError,
    ProviderAuthError,
    RouteError,
    UnknownAliasError,
)
from projector.llm import observe
from projector.llm import router as router_module
from projector.llm.breaker import Lease
from projector.llm.config import KINDS
from projector.llm.prometheus import PrometheusMetrics
from projector.llm.router import Answer, LLMRouter
from projector.llm.transport import HTTPTransport
from tests.llm.upstream import ABORT, BODY, SILENT, Script, Upstream, answer, error, failure, registry
from tests.serving import Received

FAST = "budgets: {first_byte_s: 0.3, total_s: 0.6, min_attempt_s: 0.1, connect_s: 0.3, idle_s: 0.3}"
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


async def no_pause(seconds: float) -> None:
    await asyncio.sleep(0)


def routed(folder: Path, aliases: str = "", *, more: str = FAST, **upstreams: Upstream | str) -> LLMRouter:
    made = registry(folder, aliases, more=more, **upstreams)
    return LLMRouter(made, sleep=no_pause, metrics=PrometheusMetrics())


def told(found: Answer | RouteError) -> list[tuple[str, str, int | None]]:
    return [(a.entry, a.kind or a.outcome, a.status) for a in found.attempts]


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def by_its_address(upstream: Upstream) -> Upstream | str:
    return upstream


async def both(
    folder: Path,
    *scripts: Script,
    more: str = FAST,
    body: dict[str, Any] = BODY,
    first: Callable[[Upstream], Upstream | str] = by_its_address,
) -> tuple[Answer | RouteError, Upstream, Upstream, LLMRouter]:
    """What comes of a chain p1, p2, where p1 does as told and p2 is well; `first` describes p1 in the file."""
    async with (
        Upstream(*scripts) as p1,
        Upstream(answer("from p2")) as p2,
        routed(folder, more=more, p1=first(p1), p2=p2) as router,
    ):
        try:
            return await router.complete(body), p1, p2, router
        except RouteError as failed:
            return failed, p1, p2, router


async def test_13_4_1_12_the_first_entry_answers_and_nobody_else_is_asked(tmp_path: Path):
    found, p1, p2, router = await both(tmp_path, answer("from p1"))
    assert isinstance(found, Answer)
    assert found.body["choices"][0]["message"]["content"] == "from p1"
    assert (found.requested, found.resolved, found.body["model"]) == ("mana/x", "p1/m1", "p1/m1")
    assert (p1.calls, p2.calls) == (1, 0)
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (10, 5)
    state = router.health()["p1"]
    assert (state.healthy, state.consecutive_failures) == (True, 0)


NEXT = {
    "unreachable: reset before the head": (ABORT, "unreachable", None),
    "timeout: silent": (SILENT, "timeout", None),
    "timeout: no whole answer": (Script(pieces=(b"{", b" " * 9), ending="hang"), "timeout", None),
    "F1 13.4.9 429": (error(429, "rate_limit_exceeded", retry_after="7"), "rate_limit", 429),
    "429 quota": (error(429, "insufficient_quota"), "rate_limit", 429),
    "408": (error(408), "upstream", 408),
    "425": (error(425), "upstream", 425),
    "500": (error(500), "upstream", 500),
    "13.4.5 503": (error(503), "upstream", 503),
    "529": (failure(529, b"overloaded"), "upstream", 529),
    "F3 200 with error 502": (failure(200, {"error": {"code": 502, "message": "no"}}), "upstream", 502),
    "F3 200 with error 429": (failure(200, {"error": {"code": "429", "message": "no"}}), "rate_limit", 429),
    "F3 200 with error without code": (failure(200, {"error": {"message": "no"}}), "upstream", 502),
    "6 200 with error in words alone": (failure(200, {"error": "429 rate_limit_exceeded"}), "upstream", 502),
    "F4 200 with HTML": (failure(200, b"<html>"), "protocol", 200),
    "F4 200 without choices": (failure(200, {"choices": []}), "protocol", 200),
    "F4 200 with a null message": (failure(200, {"choices": [{"message": None}]}), "protocol", 200),
    "200 with a list": (failure(200, [1]), "protocol", 200),
    "200 with a call without a name": (
        answer(None, tool_calls=[{"id": "x", "function": {}}], finish="tool_calls"),
        "protocol",
        200,
    ),
    "200 with calls that are no list": (answer(None, tool_calls={"id": "x"}), "protocol", 200),
    "redirect": (failure(302, {}, location="http://elsewhere/"), "protocol", 302),
    "cut": (Script(pieces=(b'{"choices": [',), ending="cut"), "upstream", 200),
    "finish error": (answer("half", finish="error"), "upstream", 200),
    "404": (error(404, "model_not_found"), "not_found", 404),
    "410": (error(410), "not_found", 410),
    "F5 400 context": (error(400, "context_length_exceeded"), "context_length", 400),
    "413": (error(413), "context_length", 413),
}


STANDING: dict[str, tuple[tuple[str, str, int] | None, tuple[str, str, int] | None]] = {
    **dict.fromkeys(["unreachable", "timeout"], (("closed", "", 1), None)),
    **dict.fromkeys(["upstream", "protocol"], (None, ("closed", "", 1))),
    "rate_limit": (None, ("open", "rate_limit", 0)),
    "not_found": (None, ("open", "not_found", 0)),
    "context_length": (None, None),
}
"""What follows for the provider and for the model: state, cause, strikes; None: nothing."""


def standing(router: LLMRouter, key: str) -> tuple[str, str, int] | None:
    state = router.breaker.get_state(key)
    if state is None or (state.state, state.consecutive_failures) == ("closed", 0):
        return None
    return state.state, state.cause, state.consecutive_failures


@pytest.mark.parametrize("case", NEXT)
async def test_5_8_what_another_may_do_better_is_asked_of_the_next(tmp_path: Path, case: str):
    script, kind, status = NEXT[case]
    found, p1, p2, router = await both(tmp_path, script)
    assert isinstance(found, Answer), found
    assert told(found) == [("p1/m1", kind, status), ("p2/m1", "ok", 200)]
    assert (p1.calls, p2.calls) == (1, 1)
    assert (standing(router, "p1"), standing(router, "p1/m1")) == STANDING[kind]


LONG = b'{"error": {"message": "' + b"x" * 300_000 + b'"}}'
UNREADABLE: dict[str, tuple[Script, str]] = {
    "longer than any": (failure(422, LONG), "bad_request"),
    "cut": (Script(401, (b'{"error": ',), ending="cut"), "auth"),
    "never whole": (Script(422, (b'{"error": ',), ending="hang"), "bad_request"),
    "never whole, of a 429": (Script(429, (b"{",), {"retry-after": "40"}, ending="hang"), "rate_limit"),
}


@pytest.mark.parametrize("case", UNREADABLE)
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_status_is_known_though_its_body_cannot_be_read(tmp_path: Path, case: str, streamed: bool):
    script, kind = UNREADABLE[case]
    async with Upstream(script) as p1, routed(tmp_path, p1=p1) as router:
        with pytest.raises(RouteError) as caught:
            await (router.stream(BODY).__aenter__() if streamed else router.complete(BODY))
    assert told(caught.value) == [("p1/m1", kind, script.status)]
    if kind == "rate_limit":
        assert caught.value.retry_after == pytest.approx(40, abs=1)


PROPAGATED: dict[str, tuple[Script, type[RouteError], int]] = {
    "13.4.6 422": (error(422), BadRequestError, 400),
    "400": (error(400), BadRequestError, 400),
    "418": (error(418), BadRequestError, 400),
    "6 other numbers in its words": (
        error(400, message="429: 402 tokens, context_length_exceeded, content_filter"),
        BadRequestError,
        400,
    ),
    "F3 200 with error 400": (failure(200, {"error": {"code": 400, "message": "no"}}), BadRequestError, 400),
    "F6 filter in a 400": (error(400, "content_filter"), BlockedError, 422),
    "F6 moderation in a 403": (
        failure(403, {"error": {"code": 403, "message": "no", "metadata": {"reasons": ["violence"]}}}),
        BlockedError,
        422,
    ),
    "F6 filter left nothing": (answer(None, finish="content_filter"), BlockedError, 422),
    "13.4.8 F2 401": (error(401, "invalid_api_key"), ProviderAuthError, 502),
    "403": (error(403), ProviderAuthError, 502),
    "402": (error(402), PaymentError, 502),
}


@pytest.mark.parametrize("case", PROPAGATED)
async def test_5_8_what_nobody_would_do_better_goes_to_the_caller(tmp_path: Path, case: str):
    script, kind, http_status = PROPAGATED[case]
    found, _, p2, router = await both(tmp_path, script)
    assert type(found) is kind
    assert found.http_status == http_status
    assert [attempt.entry for attempt in found.attempts] == ["p1/m1"]
    assert (found.provider, found.model) == ("p1", "m1")
    assert p2.calls == 0
    assert router.breaker.get_state("p1") is None, "13.4.14: nothing is concluded"


ALARMING = {
    "F2 401": ("auth", error(401), 300),
    "402": ("payment", error(402), 900),
    "404": ("not_found", error(404), 600),
}


@pytest.mark.parametrize("case", ALARMING)
async def test_F2_5_8_what_only_a_person_mends_is_passed_over_for_long_with_an_alarm(
    tmp_path: Path, monkeypatch, case: str
):
    kind, script, rests_s = ALARMING[case]
    before = metric("llm_alarms_total", provider="p1", kind=kind)
    complaints: list[dict[str, Any]] = []
    log = SimpleNamespace(info=lambda *_, **__: None, error=lambda _, **told: complaints.append(told))
    monkeypatch.setattr(observe, "log", log)
    policy = f"\npolicy: {{{kind}: next}}" if kind != "not_found" else ""
    found, _, _, router = await both(tmp_path, script, more=FAST + policy)
    assert complaints == [{"provider": "p1", "kind": kind, "entry": "p1/m1"}]
    assert isinstance(found, Answer)
    assert told(found) == [("p1/m1", kind, script.status), ("p2/m1", "ok", 200)]
    assert metric("llm_alarms_total", provider="p1", kind=kind) == before + 1
    state = router.breaker.get_state("p1/m1" if kind == "not_found" else "p1")
    assert state is not None
    assert (state.cause, round(state.open_for_s, -1)) == (kind, rests_s)


async def test_13_4_2_an_entry_that_nobody_listens_for_costs_next_to_nothing(tmp_path: Path):
    async with (
        Upstream(answer()) as p1,
        Upstream(answer("from p2")) as p2,
        routed(tmp_path, p1=p1, p2=p2) as router,
    ):
        await p1.kill()
        for _ in range(2):
            assert told(await router.complete(BODY)) == [("p1/m1", "unreachable", None), ("p2/m1", "ok", 200)]
        began = time.monotonic()
        assert told(await router.complete(BODY)) == [("p1/m1", "open", None), ("p2/m1", "ok", 200)]
        assert time.monotonic() - began < 0.05
        assert router.health()["p1"].last_error == "p1/m1: unreachable: Connection refused"


async def test_13_4_4_12_who_is_known_to_be_down_is_not_asked_and_who_answers_is_well(tmp_path: Path):
    async with Upstream(answer()) as p1, Upstream(answer()) as p2, routed(tmp_path, p1=p1, p2=p2) as router:
        for name in ("p1", "p1", "p2"):
            router.breaker.mark_unhealthy(name, "down")
        assert told(await router.complete(BODY)) == [("p1/m1", "open", None), ("p2/m1", "ok", 200)]
        assert p1.calls == 0
        state = router.health()["p2"]
        assert (state.healthy, state.consecutive_failures, state.last_error) == (True, 0, None)


async def test_13_4_3_10_what_was_tried_is_told_when_nobody_answers(tmp_path: Path):
    aliases = "  mana/x: {chain: [p1/m1, p2/m1, gamma/m3]}"
    async with (
        Upstream(ABORT) as p1,
        Upstream(ABORT) as p2,
        routed(tmp_path, aliases, more=FAST + "\nbreaker: {failure_threshold: 1}", p1=p1, p2=p2) as router,
    ):
        with pytest.raises(NoHealthyProviderError) as caught:
            await router.complete(BODY)
        assert told(caught.value) == [
            ("p1/m1", "unreachable", None),
            ("p2/m1", "unreachable", None),
            ("gamma/m3", "unconfigured", None),
        ]
        assert (caught.value.requested, caught.value.http_status) == ("mana/x", 503)
        assert "p1/m1=unreachable" in caught.value.message
        assert caught.value.last_error is not None
        assert (caught.value.last_error.kind, caught.value.last_error.provider) == ("unreachable", "p2")
        assert not router.breaker.is_healthy("p1"), "13.4.13"
        calls = p1.calls, p2.calls
        with pytest.raises(NoHealthyProviderError) as caught:
            await router.complete(BODY)
        assert (p1.calls, p2.calls) == calls, "F11"
        assert 50 < (caught.value.retry_after or 0) <= 66


async def test_13_4_11_a_direct_name_is_a_chain_of_one(tmp_path: Path):
    async with (
        Upstream(answer(), error(503)) as p1,
        Upstream(answer()) as p2,
        routed(tmp_path, p1=p1, p2=p2) as router,
    ):
        found = await router.complete({**BODY, "model": "P1/some/model"})
        assert (found.resolved, p1.requests[0].body["model"]) == ("p1/some/model", "some/model")
        with pytest.raises(NoHealthyProviderError):
            await router.complete({**BODY, "model": "p1/anything"})
        assert p2.calls == 0


async def test_13_5_6_7_9_10_11_metrics_tell_who_served_and_who_did_not(tmp_path: Path):
    fallback = {"from": "p1/m1", "to": "p2/m1", "reason": "upstream"}
    served = {"provider": "p2", "model": "m1", "outcome": "ok", "kind": ""}
    tokens = {"alias": "mana/x", "provider": "p2", "model": "m1", "type": "prompt"}

    def read() -> list[float]:
        return [
            metric("llm_fallback_total", **fallback),
            metric("llm_attempts_total", **served),
            metric("llm_tokens_total", **tokens),
            metric("llm_requests_total", alias="mana/x", outcome="ok"),
        ]

    before = read()
    async with Upstream(error(500)) as p1, Upstream(answer()) as p2, routed(tmp_path, p1=p1, p2=p2) as router:
        await router.complete(BODY)
        assert [b - a for a, b in zip(before, read(), strict=True)] == [1, 1, 10, 1]
        await router.complete({**BODY, "model": "p2/made-up-by-a-caller"})
    assert [b - a for a, b in zip(before, read(), strict=True)] == [1, 1, 10, 1], "13.5.11: none of an alias"
    assert metric("llm_requests_total", alias="direct", outcome="ok") >= 1
    assert metric("llm_attempts_total", provider="p2", model="other", outcome="ok", kind="") >= 1
    names = [sample.labels for family in REGISTRY.collect() for sample in family.samples]
    assert "made-up-by-a-caller" not in str(names)


async def test_A5_A6_no_name_is_the_default_and_an_unknown_one_asks_nobody(tmp_path: Path):
    async with Upstream(answer()) as p1:
        async with routed(tmp_path, more=FAST + "\ndefault: mana/x", p1=p1) as router:
            assert (await router.complete({"messages": BODY["messages"]})).requested == "mana/x"
            for name in ("mana/nope", "bare"):
                with pytest.raises(UnknownAliasError) as caught:
                    await router.complete({**BODY, "model": name})
                assert (caught.value.http_status, caught.value.kind) == (404, "unknown_alias")
        assert p1.calls == 1
        async with routed(tmp_path, p1=p1) as router:
            with pytest.raises(NoModelError):
                await router.complete({**BODY, "model": ""})


async def test_F7_tools_are_asked_of_who_can_and_of_nobody_else(tmp_path: Path):
    async with Upstream(answer()) as p1, Upstream(answer()) as p2:
        cannot = f"base_url: '{p1.url}', supports: [json], tool_models: [good*]"
        aliases = "  mana/x: {chain: [p1/m1, p2/m1]}\n  mana/y: {chain: [p1/m1]}\n  mana/z: {chain: [p1/good-one]}"
        async with routed(tmp_path, aliases, p1=cannot, p2=p2) as router:
            found = await router.complete({**BODY, "tools": TOOLS})
            assert told(found) == [("p1/m1", "capability", None), ("p2/m1", "ok", 200)]
            with pytest.raises(CapabilityError):
                await router.complete({**BODY, "tools": TOOLS, "model": "mana/y"})
            assert (await router.complete({**BODY, "tools": TOOLS, "model": "mana/z"})).resolved == "p1/good-one"
            for requires in ("  mana/x: {requires: [tools], chain", "  mana/x: {chain"):
                entry = "p1/m1" if "requires" in requires else "{model: p1/m1, requires: [tools]}"
                registry(tmp_path, f"{requires}: [{entry}, p2/m1]}}", more=FAST, p1=cannot, p2=p2)
                await router.reload()
                assert told(await router.complete(BODY))[0] == ("p1/m1", "capability", None), "whatever is asked"
            picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
            seeing = {"model": "mana/x", "messages": [{"role": "user", "content": picture}]}
            assert (await router.complete(seeing)).resolved == "p2/m1"
    assert p1.calls == 1


async def test_F8_a_silent_entry_costs_its_first_byte_and_is_not_asked_again(tmp_path: Path):
    began = time.monotonic()
    found, p1, _, _ = await both(tmp_path, SILENT)
    assert isinstance(found, Answer)
    assert 0.3 <= time.monotonic() - began < 1.3
    assert p1.calls == 1


async def test_F9_when_all_are_silent_the_call_ends_with_its_deadline(tmp_path: Path):
    async with Upstream(SILENT) as p1, Upstream(SILENT) as p2:
        aliases = "  mana/x: {chain: [p1/m1, p1/m2, p2/m1, p2/m2]}"
        more = "budgets: {first_byte_s: 1.6, total_s: 1.6, min_attempt_s: 0.8}"
        async with routed(tmp_path, aliases, more=more, p1=p1, p2=p2) as router:
            began = time.monotonic()
            with pytest.raises(DeadlineError):
                await router.complete(BODY, deadline_s=2.8)
            assert time.monotonic() - began < 3.0
            assert (p1.calls, p2.calls) == (2, 1)


async def test_the_time_that_was_kept_for_the_next_entry_is_there_when_the_first_has_used_up_its_own(tmp_path: Path):
    async with (
        Upstream(SILENT) as p1,
        Upstream(answer()) as p2,
        routed(tmp_path, more="budgets: {min_attempt_s: 0.2}", p1=p1, p2=p2) as router,
    ):
        found = await router.complete(BODY, deadline_s=1.0)
        assert told(found) == [("p1/m1", "timeout", None), ("p2/m1", "ok", 200)]
        assert router.breaker.get_state("p1") is None, "it had not the time that is its own"


async def test_F10_the_only_entry_is_asked_once_more(tmp_path: Path):
    async with Upstream(error(500), answer()) as p1, routed(tmp_path, p1=p1) as router:
        assert told(await router.complete(BODY)) == [("p1/m1", "upstream", 500), ("p1/m1", "ok", 200)]


async def test_F12_R2_an_answer_that_is_cut_at_its_length_is_an_answer(tmp_path: Path):
    async with Upstream(answer("as far as", finish="length")) as p1, routed(tmp_path, p1=p1) as router:
        router.breaker.mark_unhealthy("p1", "before")
        found = await router.complete(BODY)
        assert found.body["choices"][0]["finish_reason"] == "length"
        assert router.health()["p1"].consecutive_failures == 0, "a success"


async def test_F13_R4_the_request_and_the_answer_pass_through_unchanged(tmp_path: Path):
    asked = {
        **BODY,
        "tools": TOOLS,
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}},
        "some_new_field": {"kept": [1, 2.5, None]},
        "temperature": 0.3,
    }
    calls = [{"id": "c9", "type": "function", "function": {"name": "f", "arguments": '{"b": 1,  "a": 2}'}}]
    found, p1, _, _ = await both(tmp_path, answer(None, tool_calls=calls, finish="tool_calls"), body=asked)
    assert isinstance(found, Answer)
    assert p1.requests[0].body == {**asked, "model": "m1", "stream": False}
    assert found.body["choices"][0]["message"]["tool_calls"] == calls
    assert found.body["choices"][0]["finish_reason"] == "tool_calls"


async def test_an_unknown_reason_to_finish_is_kept_as_it_is(tmp_path: Path):
    found, *_ = await both(tmp_path, answer("text", finish="eos"))
    assert isinstance(found, Answer)
    assert found.body["choices"][0]["finish_reason"] == "eos"


async def test_an_answer_that_is_longer_than_any_is_not_read_to_its_end(tmp_path: Path):
    async with Upstream(Script(pieces=(b" " * 1000,), ending="hang")) as p1, Upstream(answer()) as p2:
        for kind in KINDS:
            file = registry(tmp_path, more="", p1=f"base_url: '{p1.url}', kind: {kind}", p2=p2)
            async with LLMRouter(file, transport=HTTPTransport(longest_body=999)) as router, asyncio.timeout(5):
                assert told(await router.complete(BODY))[0] == ("p1/m1", "protocol", 200), kind


async def test_the_limits_of_an_entry_are_its_own(tmp_path: Path):
    async with Upstream(SILENT) as p1, Upstream(answer()) as p2:
        aliases = "  mana/x: {chain: [{model: p1/m1, timeout_s: 0.1}, {model: p2/m1, max_output_tokens: 50}]}"
        async with routed(tmp_path, aliases, more="budgets: {min_attempt_s: 0.05}", p1=p1, p2=p2) as router:
            began = time.monotonic()
            await router.complete({**BODY, "max_tokens": 400})
            assert time.monotonic() - began < 2
            await router.complete({**BODY, "max_completion_tokens": 20})
    assert [r.body.get("max_tokens") for r in p2.requests] == [50, None]
    assert p2.requests[1].body["max_completion_tokens"] == 20


async def test_what_a_call_costs_is_counted_by_the_prices_of_the_file(tmp_path: Path):
    before = metric("llm_cost_dollars_total", alias="mana/x", provider="p1", model="m1")
    async with Upstream(answer(usage={"prompt_tokens": 1_000_000, "completion_tokens": 500_000})) as p1:
        priced = f"base_url: '{p1.url}', prices: {{m1: {{prompt: 0.15, completion: 0.6}}}}"
        async with routed(tmp_path, p1=priced) as router:
            found = await router.complete(BODY)
    assert found.usage.cost == pytest.approx(0.45)
    assert found.attempts[0].usage == found.usage
    now = metric("llm_cost_dollars_total", alias="mana/x", provider="p1", model="m1")
    assert now - before == pytest.approx(0.45)


async def test_what_an_answer_of_no_use_costs_is_counted_for_its_attempt(tmp_path: Path, monkeypatch):
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(observe.log, "info", lambda _event, **fields: lines.append(fields), raising=False)
    spent = {"prompt_tokens": 1_000_000, "completion_tokens": 0}
    of_p1 = {"alias": "mana/x", "provider": "p1", "model": "m1"}
    before = metric("llm_tokens_total", **of_p1, type="prompt"), metric("llm_cost_dollars_total", **of_p1)
    found, *_ = await both(
        tmp_path,
        failure(200, {"choices": [], "usage": spent}),
        first=lambda p1: f"base_url: '{p1.url}', prices: {{m1: {{prompt: 0.5, completion: 1}}}}",
    )
    assert isinstance(found, Answer)
    assert [(a.kind, a.usage.prompt_tokens, a.usage.cost) for a in found.attempts] == [
        ("protocol", 1_000_000, 0.5),
        ("", 10, 0.0),
    ]
    after = metric("llm_tokens_total", **of_p1, type="prompt"), metric("llm_cost_dollars_total", **of_p1)
    assert [b - a for a, b in zip(before, after, strict=True)] == pytest.approx([1_000_000, 0.5])
    assert [(line["prompt_tokens"], line["cost"]) for line in lines] == [(1_000_010, 0.5)]


async def test_a_call_that_nobody_waits_for_any_more_ends_at_the_provider_too(tmp_path: Path):
    async with Upstream(SILENT) as p1, routed(tmp_path, more="", p1=p1) as router:
        for _ in range(2):
            router.breaker.mark_unhealthy("p1", "down")
        router.breaker.probe_ok("p1")
        asking = asyncio.create_task(router.complete(BODY))
        async with asyncio.timeout(5):
            while not p1.calls:
                await asyncio.sleep(0.01)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await p1.gone.wait()
        assert isinstance(router.breaker.admit("p1", "m1"), Lease), "B5: the trial is free again"


async def test_B4_of_many_calls_one_tries_and_the_others_are_served_by_the_next(tmp_path: Path):
    async with (
        Upstream(Script(500, wait_s=0.2)) as p1,
        Upstream(answer()) as p2,
        routed(tmp_path, p1=p1, p2=p2) as router,
    ):
        for _ in range(2):
            router.breaker.mark_unhealthy("p1", "down")
        router.breaker.probe_ok("p1")
        found = await asyncio.gather(*(router.complete(BODY) for _ in range(20)))
    assert p1.calls == 1
    assert {answered.resolved for answered in found} == {"p2/m1"}
    assert sum(told(answered)[0][1] == "half-open-busy" for answered in found) == 19


async def test_a_key_goes_to_its_provider_and_nowhere_else(tmp_path: Path, capsys):
    key = "secret-key-of-p1"
    quoting = error(400, key, message="wrong key " + key + " " + "x" * 273 + key, x_request_id=key)
    async with Upstream(quoting) as p1:
        with_key = f"base_url: '{p1.url}', api_key_env: KEY_OF_P1"
        without = f"base_url: '{p1.url}', api_key_env: NOT_SET"
        async with routed(tmp_path, p1=with_key, p2=without) as router:
            with pytest.raises(BadRequestError) as caught:
                await router.complete(BODY)
            assert router.providers == ("p1",)
    assert p1.requests[0].headers["authorization"] == "Bearer secret-key-of-p1"
    shown = repr(vars(caught.value)) + str(caught.value) + "".join(capsys.readouterr())
    assert "secret-key" not in shown
    assert "wrong key ***" in caught.value.detail
    assert caught.value.detail.endswith("xxx***"), "though the text is longer than what is kept of it"
    assert (caught.value.upstream_code, caught.value.request_id) == ("***", "***")
    assert "what I ask" not in shown


async def test_the_log_has_one_line_for_each_call_and_no_word_of_its_content(tmp_path: Path, monkeypatch):
    lines: list[dict[str, Any]] = []

    class Log:
        @staticmethod
        def info(event: str, **fields: Any) -> None:
            lines.append({"event": event, **fields})

    monkeypatch.setattr(observe, "log", Log)
    async with (
        Upstream(error(500, message="what I ask is secret")) as p1,
        Upstream(answer("secret answer")) as p2,
        routed(tmp_path, p1=p1, p2=p2) as router,
    ):
        await router.complete(BODY, call_id="call-1")
    (line,) = lines
    assert line["call_id"] == "call-1"
    assert (line["requested"], line["resolved"], line["outcome"]) == ("mana/x", "p2/m1", "ok")
    assert line["attempts"] == "p1/m1=upstream 500 p2/m1=ok"
    assert (line["prompt_tokens"], line["completion_tokens"]) == (10, 5)
    assert "secret" not in str(line)
    assert "what I ask" not in str(line)


Probed = Callable[[LLMRouter], Awaitable[None]]


async def test_4_probes_tell_who_is_there_and_who_refuses_the_key(tmp_path: Path):
    async with Upstream(answer()) as p1, Upstream(answer()) as p2, Upstream(answer()) as p3:
        p2.inventory = failure(401)
        p3.inventory = failure(503)
        off = f"base_url: '{p1.url}', probe: {{kind: none}}"
        async with routed(tmp_path, more="breaker: {failure_threshold: 1}", p1=p1, p2=p2, p3=p3, p4=off) as router:
            prober = await router.start_probes()
            assert prober.provider_ids == ("p1", "p2", "p3")
            async with asyncio.timeout(5):
                await prober.ready()
            states = router.health()
            assert {name: state.state for name, state in states.items()} == {
                "p1": "closed",
                "p2": "closed",
                "p3": "open",
                "p4": "closed",
            }
            assert [name for name, state in states.items() if state.auth_suspect] == ["p2"]
            results = ("p1", "ok"), ("p2", "auth"), ("p3", "failed")
            assert all(metric("llm_probe_total", provider=name, result=result) for name, result in results)
            p3.inventory = p1.inventory
            await router.probe_now()
            assert router.health()["p3"].state == "closed"
        assert not prober.running


async def test_4_probes_and_calls_go_through_the_same_connections_and_a_probe_where_it_is_told_to(tmp_path: Path):
    seen: list[tuple[str, asyncio.StreamWriter]] = []

    class Watching(Upstream):
        async def serve(self, received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            seen.append((received.path, writer))
            return await super().serve(received, reader, writer)

    async with Watching(answer()) as p1:
        elsewhere = f"base_url: '{p1.url}', probe: {{path: /tags}}"
        async with routed(tmp_path, p1=elsewhere) as router:
            await router.probe_now()
            await router.complete(BODY)
            await router.probe_now()
    assert [path for path, _ in seen] == ["/v1/tags", "/v1/chat/completions", "/v1/tags"]
    assert len({writer for _, writer in seen}) == 1


async def test_4_a_probe_may_ask_for_a_word(tmp_path: Path):
    refusals = [error(status) for status in (429, 400, 404, 402, 403)]
    async with Upstream(answer(), *refusals, error(500)) as p1:
        asking = f"base_url: '{p1.url}', probe: {{kind: completion}}"
        async with routed(tmp_path, more="breaker: {failure_threshold: 1}", p1=asking) as router:
            for refusal in (None, *refusals):
                await router.probe_now()
                state = router.health()["p1"]
                assert (state.state, state.auth_suspect) == ("closed", refusal is refusals[-1])
            await router.probe_now()
            assert not router.breaker.is_healthy("p1")
    assert p1.requests[0].body["max_tokens"] == 1
    assert p1.probes == 0


async def test_a_request_without_the_form_of_one_is_the_callers_fault(tmp_path: Path):
    async with Upstream(answer()) as p1:
        google = f"base_url: '{p1.url}', kind: google"
        async with routed(tmp_path, p1=google) as router:
            with pytest.raises(BadRequestError):
                await router.complete({"model": "mana/x", "messages": [{"role": "user", "content": 5}]})
    assert p1.calls == 0


async def test_F5_a_context_that_is_too_long_everywhere_is_told_as_that(tmp_path: Path):
    too_long = error(400, "context_length_exceeded")
    async with Upstream(too_long) as p1, Upstream(too_long) as p2, routed(tmp_path, p1=p1, p2=p2) as router:
        with pytest.raises(ContextLengthError):
            await router.complete(BODY)
        assert router.breaker.snapshot() == {}
    assert (p1.calls, p2.calls) == (1, 1)


async def test_a_fault_of_ours_is_seen_and_gives_the_trial_back(tmp_path: Path, monkeypatch):
    async with Upstream(answer()) as p1, Upstream(answer()) as p2, routed(tmp_path, p1=p1, p2=p2) as router:

        async def broken(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(router_module.Endpoint, "complete", broken)
        for _ in range(2):
            router.breaker.mark_unhealthy("p1", "down")
        router.breaker.probe_ok("p1")
        with pytest.raises(ZeroDivisionError):
            await router.complete(BODY)
        assert isinstance(router.breaker.admit("p1", "m1"), Lease)
    assert p2.calls == 0
