"""Streams against providers on real sockets; numbers are those of 13.4, 5.4 and of the new ones (S)."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projector.errors import (
    AnswerFormatError,
    BadRequestError,
    CapabilityError,
    ModelTimeoutError,
    NoHealthyProviderError,
    RouteError,
    UpstreamError,
)
from projector.llm import sse
from projector.llm.breaker import Lease
from projector.llm.sse import BOM, LONGEST_EVENT, Events
from tests.llm.test_router import FAST, TOOLS, metric, routed, told
from tests.llm.upstream import (
    ABORT,
    BODY,
    DONE,
    SILENT,
    USAGE,
    Script,
    Upstream,
    answer,
    chunk,
    error,
    event,
    failure,
    streamed,
    words,
)

STREAM = {**BODY, "stream": True}


def text(chunks: list[dict[str, Any]]) -> str:
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])


async def read(stream: Any) -> tuple[list[dict[str, Any]], RouteError | None]:
    chunks = []
    try:
        async for part in stream:
            chunks.append(part)
    except RouteError as broken:
        return chunks, broken
    return chunks, None


async def test_13_4_15_the_chunks_of_the_first_entry_are_passed_on(tmp_path: Path):
    before = metric("llm_ttft_seconds_count", alias="mana/x")
    async with (
        Upstream(words("Hel", "lo ", "world")) as p1,
        Upstream(words("x")) as p2,
        routed(tmp_path, p1=p1, p2=p2) as router,
        router.stream(STREAM) as stream,
    ):
        chunks, broken = await read(stream)
        assert broken is None
        assert text(chunks) == "Hello world"
        assert {c["model"] for c in chunks} == {"p1/m1"}
        assert (stream.usage.prompt_tokens, stream.usage.completion_tokens) == (7, 3)
        assert stream.attempts[0].usage == stream.usage
        assert p2.calls == 0
    assert metric("llm_ttft_seconds_count", alias="mana/x") == before + 1


BEFORE_THE_FIRST = {
    "13.4.16 reset": (ABORT, "unreachable"),
    "silent": (SILENT, "timeout"),
    "a head and no more": (streamed(b"", ending="hang"), "timeout"),
    "comments and no more": (streamed(b": OPENROUTER PROCESSING\n\n" * 9, ending="hang"), "timeout"),
    "500": (error(500), "upstream"),
    "429": (error(429), "rate_limit"),
    "5.7 200 and an error body": (failure(200, {"error": {"code": 502, "message": "no"}}), "upstream"),
    "200 and a whole answer": (answer("whole"), "protocol"),
    "an error as the first event": (streamed(event({"error": {"code": 429, "message": "no"}})), "rate_limit"),
    "ended before it began": (streamed(b""), "protocol"),
    "HTML": (Script(pieces=(b"<html>",), headers={"content-type": "text/html"}), "protocol"),
    "cut before it began": (streamed(b"data: {", ending="cut"), "upstream"),
}


@pytest.mark.parametrize("case", BEFORE_THE_FIRST)
async def test_S1_before_the_first_event_the_next_entry_is_asked(tmp_path: Path, case: str):
    script, kind = BEFORE_THE_FIRST[case]
    async with (
        Upstream(script) as p1,
        Upstream(words("a", "b", "c")) as p2,
        routed(tmp_path, p1=p1, p2=p2) as router,
        router.stream(STREAM) as stream,
    ):
        assert stream.resolved == "p2/m1", "known before a chunk is read"
        assert told(stream) == [("p1/m1", kind, stream.attempts[0].status), ("p2/m1", "ok", 200)]
        chunks, _ = await read(stream)
    assert text(chunks) == "abc"
    assert {c["model"] for c in chunks} == {"p2/m1"}
    assert (p1.calls, p2.calls) == (1, 1)


TOLD = {"prompt_tokens": 7, "completion_tokens": 3}
OVERLOADED = {"error": {"code": 503, "message": "no"}}
PAID: dict[str, tuple[Script, str, int]] = {
    "told, then an error": (streamed(USAGE, event(OVERLOADED)), "upstream", 7),
    "told by the error": (streamed(event({**OVERLOADED, "usage": TOLD})), "upstream", 7),
    "told by an end that is an error": (
        streamed(event({"choices": [{"index": 0, "delta": {}, "finish_reason": "error"}], "usage": TOLD})),
        "upstream",
        7,
    ),
    "told, then cut": (streamed(USAGE, ending="cut"), "upstream", 7),
    "told, then nothing": (streamed(USAGE, ending="hang"), "timeout", 7),
    "told, and no more": (streamed(USAGE), "protocol", 7),
    "told in no stream": (answer("whole"), "protocol", 10),
    "told in no stream and of no use": (failure(200, {"choices": [], "usage": TOLD}), "protocol", 7),
}


@pytest.mark.parametrize("case", PAID)
async def test_what_a_stream_cost_that_failed_before_its_first_chunk_is_counted(tmp_path: Path, case: str):
    script, kind, prompt = PAID[case]
    labels = {"alias": "mana/x", "provider": "p1", "model": "m1", "type": "prompt"}
    before = metric("llm_tokens_total", **labels)
    async with (
        Upstream(script) as p1,
        Upstream(words("from p2")) as p2,
        routed(tmp_path, p1=p1, p2=p2) as router,
        router.stream(STREAM) as stream,
    ):
        await read(stream)
    assert [(a.kind, a.usage.prompt_tokens) for a in stream.attempts] == [(kind, prompt), ("", 7)]
    assert metric("llm_tokens_total", **labels) == before + prompt


async def test_13_4_17_20_what_is_no_answer_is_an_error_before_anything_is_sent(tmp_path: Path):
    async with (
        Upstream(error(422), ABORT) as p1,
        Upstream(ABORT) as p2,
        routed(tmp_path, p1=p1, p2=p2) as router,
    ):
        with pytest.raises(BadRequestError):
            async with router.stream(STREAM):
                pass
        assert p2.calls == 0
        with pytest.raises(NoHealthyProviderError):
            async with router.stream(STREAM):
                pass


async def test_13_4_7_17_what_no_entry_can_do_is_refused_before_anybody_is_asked(tmp_path: Path):
    async with Upstream(words("x")) as p1:
        cannot = f"base_url: '{p1.url}', supports: [json]"
        async with routed(tmp_path, p1=cannot) as router:
            with pytest.raises(CapabilityError):
                await router.stream({**STREAM, "tools": TOOLS}).__aenter__()
    assert p1.calls == 0


async def test_13_4_18_a_stream_that_is_whole_and_empty_is_not_paid_for_twice(tmp_path: Path):
    async with (
        Upstream(streamed(DONE)) as p1,
        Upstream(words("x")) as p2,
        routed(tmp_path, p1=p1, p2=p2) as router,
        router.stream(STREAM) as stream,
    ):
        assert await read(stream) == ([], None)
    assert p2.calls == 0


BROKEN: dict[str, tuple[Script, type[RouteError]]] = {
    "S2 13.4.19 cut": (streamed(chunk("half"), ending="cut"), UpstreamError),
    "S2 ended without an end": (streamed(chunk("half")), UpstreamError),
    "S3 idle": (streamed(chunk("half"), ending="hang"), ModelTimeoutError),
    "S3 comments only": (streamed(chunk("half"), *[b": x\n\n"] * 99, pause_s=0.05), ModelTimeoutError),
    "an error event": (streamed(chunk("half"), event({"error": {"code": 503, "message": "no"}})), UpstreamError),
    "two events that are no JSON": (streamed(chunk("half"), event(b"{a"), event(b"{b")), AnswerFormatError),
    "finish error": (streamed(chunk("half"), chunk(finish="error")), UpstreamError),
    "an event longer than any": (
        streamed(chunk("half"), *[b"data: " + b"x" * 262144] * (LONGEST_EVENT // 262144 + 1)),
        AnswerFormatError,
    ),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_S2_S3_H8_what_breaks_off_is_an_error_and_counts_and_is_not_switched(tmp_path: Path, case: str):
    script, kind = BROKEN[case]
    async with Upstream(script) as p1, Upstream(words("x")) as p2:
        more = FAST + "\nbreaker: {failure_threshold: 1}"
        async with routed(tmp_path, more=more, p1=p1, p2=p2) as router:
            began = time.monotonic()
            async with router.stream(STREAM) as stream:
                chunks, broken = await read(stream)
            assert time.monotonic() - began < 1.3
            assert text(chunks) == "half"
            assert type(broken) is kind
            assert told(stream) == [("p1/m1", kind.kind, 200)]
            assert broken.attempts == stream.attempts
            assert not isinstance(router.breaker.admit("p1", "m1"), Lease)
    assert p2.calls == 0


async def test_S4_a_stream_that_says_why_it_finished_is_whole(tmp_path: Path):
    bodies = [
        streamed(chunk("a"), chunk(finish="stop"), USAGE),
        streamed(chunk("a"), chunk(finish="stop"), USAGE, ending="cut"),
        streamed(chunk("a"), chunk(finish="stop"), USAGE, ending="hang"),
        streamed(chunk("a"), chunk(finish="stop"), USAGE, DONE, ending="hang"),
        streamed(chunk("a"), chunk(finish="stop"), USAGE.rstrip(b"\n")),
    ]
    async with (
        Upstream(*bodies) as p1,
        routed(tmp_path, p1=p1) as router,
    ):
        for _ in bodies:
            async with router.stream(STREAM) as stream:
                chunks, broken = await read(stream)
            assert (text(chunks), broken) == ("a", None)
            assert stream.usage.prompt_tokens == 7
        assert router.health()["p1"].consecutive_failures == 0


async def test_S5_one_event_that_is_no_json_is_passed_over_and_counted(tmp_path: Path):
    before = metric("llm_skipped_events_total", provider="p1")
    async with (
        Upstream(streamed(chunk("a"), event(b"{broken"), chunk("b"), chunk(finish="stop"), DONE)) as p1,
        routed(tmp_path, p1=p1) as router,
        router.stream(STREAM) as stream,
    ):
        chunks, broken = await read(stream)
    assert (text(chunks), broken) == ("ab", None)
    assert metric("llm_skipped_events_total", provider="p1") == before + 1


async def test_S6_R6_a_reader_who_leaves_early_ends_the_call_at_the_provider(tmp_path: Path):
    async with (
        Upstream(streamed(chunk("a"), chunk("b"), ending="hang")) as p1,
        routed(tmp_path, more="", p1=p1) as router,
    ):
        for _ in range(2):
            router.breaker.mark_unhealthy("p1", "down")
        router.breaker.probe_ok("p1")
        before = metric("llm_requests_total", alias="mana/x", outcome="cancelled")
        async with router.stream(STREAM) as stream:
            assert (await anext(aiter(stream)))["choices"][0]["delta"]["content"] == "a"
        assert metric("llm_requests_total", alias="mana/x", outcome="cancelled") == before + 1
        assert stream._source._incoming._response.closed, "before the reader goes on"
        async with asyncio.timeout(2):
            await p1.gone.wait()
        state = router.health()["p1"]
        assert (state.state, stream.attempts[0].outcome) == ("closed", "ok"), "it did answer"


async def test_S7_R5_fragments_of_tool_calls_pass_through_in_their_order(tmp_path: Path):
    def fragment(index: int, arguments: str, **first: Any) -> bytes:
        function = {"arguments": arguments} | ({"name": first.pop("name")} if "name" in first else {})
        return chunk(tool_calls=[{"index": index, "function": function, **first}])

    pieces = [
        fragment(0, "", id="c1", type="function", name="f"),
        fragment(0, '{"a":'),
        fragment(1, "", id="c2", type="function", name="g"),
        fragment(0, " 1}"),
        fragment(1, '{"b": 2}'),
        chunk(finish="tool_calls"),
        DONE,
    ]
    async with (
        Upstream(streamed(*pieces)) as p1,
        routed(tmp_path, p1=p1) as router,
        router.stream(STREAM) as stream,
    ):
        chunks, _ = await read(stream)
    joined: dict[str, str] = {}
    ids: dict[int, str] = {}
    for part in chunks:
        for call in part["choices"][0]["delta"].get("tool_calls", ()):
            ids[call["index"]] = call.get("id", ids.get(call["index"]))
            joined[ids[call["index"]]] = joined.get(ids[call["index"]], "") + call["function"]["arguments"]
    assert {name: orjson.loads(arguments) for name, arguments in joined.items()} == {"c1": {"a": 1}, "c2": {"b": 2}}
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_F13_R4_a_stream_is_asked_for_in_the_form_that_was_wished(tmp_path: Path):
    wished = {"response_format": {"type": "json_object"}, "tools": TOOLS, "some_new_field": [1]}
    async with (
        Upstream(words("{}")) as p1,
        routed(tmp_path, p1=p1) as router,
        router.stream({**STREAM, **wished}) as stream,
    ):
        await read(stream)
    options = {"stream_options": {"include_usage": True}}
    assert p1.requests[0].body == {**STREAM, **wished, **options, "model": "m1"}


async def test_what_a_stream_cost_is_asked_for_and_told_only_to_who_asked(tmp_path: Path):
    async with Upstream(words("a")) as p1:
        plain = f"base_url: '{p1.url}', stream_usage: false"
        async with routed(tmp_path, p1=p1, p2=plain) as router:
            async with router.stream(STREAM) as stream:
                quiet, _ = await read(stream)
            async with router.stream({**STREAM, "stream_options": {"include_usage": True}}) as stream:
                asked, _ = await read(stream)
            async with router.stream({**STREAM, "model": "p2/m1"}) as stream:
                await read(stream)
    assert not any("usage" in c or not c["choices"] for c in quiet)
    assert asked[-1]["usage"]["total_tokens"] == 10
    assert [r.body.get("stream_options") for r in p1.requests] == [{"include_usage": True}] * 2 + [None]


async def test_a_call_that_is_cancelled_while_it_waits_for_the_first_byte_ends_at_the_provider(tmp_path: Path):
    async with (
        Upstream(streamed(b"", ending="hang")) as p1,
        routed(tmp_path, more="", p1=p1) as router,
    ):

        async def ask() -> None:
            async with router.stream(STREAM):
                pass

        asking = asyncio.create_task(ask())
        async with asyncio.timeout(5):
            while not p1.calls:
                await asyncio.sleep(0.01)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await p1.gone.wait()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1)), st.data())
def test_events_are_the_same_however_the_stream_is_cut_into_pieces(texts: list[str], data: st.DataObject):
    end = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    lead = data.draw(st.sampled_from(["data: ", "data:"]))
    whole = "".join(f": comment{end}event: x{end}{lead}{'' if lead[-1] == ' ' else ' '}{t}{end}{end}" for t in texts)
    rest, found, events = data.draw(st.sampled_from([b"", BOM])) + whole.encode(), [], Events()
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        found += events.feed(rest[:size])
        rest = rest[size:]
    found += events.end()
    assert found == [t.encode() for t in texts]


def test_a_long_line_in_small_pieces_costs_no_more_than_its_length_and_empty_data_has_a_limit_too(
    monkeypatch: pytest.MonkeyPatch,
):
    events, pieces = Events(), LONGEST_EVENT // 256 - 10
    began = time.process_time()
    events.feed(b"data:")
    for _ in range(pieces):
        events.feed(b"x" * 256)
    assert [len(found) for found in events.feed(b"\n\n")] == [pieces * 256]
    assert time.process_time() - began < 1, "a copy of all before for each piece takes many seconds"
    monkeypatch.setattr(sse, "LONGEST_EVENT", 100)
    with pytest.raises(AnswerFormatError):
        events.feed(b"data:\n" * 101)


def test_lines_of_one_event_are_joined_and_the_last_needs_no_empty_line():
    events = Events()
    assert events.feed(b"data: a\ndata: b\nid: 1\n\ndata: c") == [b"a\nb"]
    assert events.end() == [b"c"]
    assert events.feed(b"data: a\r") + events.feed(b"\ndata: b\r\n\r\n") == [b"a\nb"], "one end of a line in two pieces"
