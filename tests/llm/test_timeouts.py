"""Providers that have timeouts of their own, against slow ones on real sockets; the number is that of the spec."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from projector.llm.router import LLMRouter
from tests.llm.test_router import routed, told
from tests.llm.test_streams import STREAM, read, text
from tests.llm.upstream import BODY, SILENT, Script, Upstream, answer, chunk, full, registry, streamed, words

SHORT = "budgets: {connect_s: 0.3, first_byte_s: 0.3, idle_s: 0.3, total_s: 0.3, min_attempt_s: 0.1}"
"""What everybody has, unless told otherwise: less than a patient provider is given."""
BODY_LATE = Script(pieces=(answer("late").pieces[0][:9], answer("late").pieces[0][9:]), pause_s=0.6)


def with_timeouts(url: str, timeouts: str) -> str:
    return f"base_url: '{url}', timeouts: {{{timeouts}}}"


async def test_10_a_provider_is_given_up_after_its_own_time_to_connect(tmp_path: Path):
    with full() as url:
        async with (
            Upstream(answer()) as p2,
            routed(tmp_path, more="", p1=with_timeouts(url, "connect_s: 0.2"), p2=p2) as router,
        ):
            began = time.monotonic()
            assert told(await router.complete(BODY)) == [("p1/m1", "timeout", None), ("p2/m1", "ok", 200)]
            assert time.monotonic() - began < 1.5, "everybody else has 3 s"
            state = router.breaker.get_state("p1")
            assert state is not None
            assert state.last_error == "p1/m1: no connection within 0.2 s"


IMPATIENT = {
    "first_byte_s: 0.2": (SILENT, "no first byte within 0.2 s"),
    "total_s: 0.2": (Script(pieces=(b"{", b" "), ending="hang"), "no whole answer within 0.2 s"),
}


@pytest.mark.parametrize("timeouts", IMPATIENT)
async def test_10_a_provider_is_given_up_after_its_own_time(tmp_path: Path, timeouts: str):
    script, reason = IMPATIENT[timeouts]
    async with (
        Upstream(script) as p1,
        Upstream(answer()) as p2,
        routed(tmp_path, more="", p1=with_timeouts(p1.url, timeouts), p2=p2) as router,
    ):
        began = time.monotonic()
        assert told(await router.complete(BODY)) == [("p1/m1", "timeout", None), ("p2/m1", "ok", 200)]
        assert time.monotonic() - began < 5, "everybody else has 30 s"
        state = router.breaker.get_state("p1")
        assert state is not None
        assert (state.last_error, state.consecutive_failures) == (f"p1/m1: {reason}", 1)


PATIENT = {
    "first_byte_s: 5, total_s: 5": Script(pieces=answer("late").pieces, wait_s=0.6),
    "total_s: 5": BODY_LATE,
}


@pytest.mark.parametrize("timeouts", PATIENT)
async def test_10_a_provider_may_have_more_time_than_the_others(tmp_path: Path, timeouts: str):
    async with Upstream(PATIENT[timeouts]) as p1, Upstream(PATIENT[timeouts]) as p2:
        aliases = "  mana/x: {chain: [p1/m1, p2/m1]}\n  mana/y: {chain: [p2/m1, p1/m1]}"
        slow = with_timeouts(p1.url, timeouts)
        async with routed(tmp_path, aliases, more=SHORT, p1=slow, p2=p2) as router:
            assert told(await router.complete(BODY)) == [("p1/m1", "ok", 200)]
            found = await router.complete({**BODY, "model": "mana/y"})
            assert told(found) == [("p2/m1", "timeout", None), ("p1/m1", "ok", 200)]
            assert told(await router.complete({**BODY, "model": "p1/of-no-chain"})) == [("p1/of-no-chain", "ok", 200)]


async def test_10_a_stream_has_the_time_of_its_provider_until_its_first_byte_and_between_two(tmp_path: Path):
    async with Upstream(words("a", "b", wait_s=0.6, pause_s=0.6)) as p1, Upstream(words("from p2")) as p2:
        slow = with_timeouts(p1.url, "first_byte_s: 5, idle_s: 5")
        async with (
            routed(tmp_path, more=SHORT, p1=slow, p2=p2) as router,
            router.stream(STREAM) as stream,
        ):
            chunks, broken = await read(stream)
    assert (stream.resolved, text(chunks), broken) == ("p1/m1", "ab", None)


async def test_10_a_stream_that_rests_longer_than_its_provider_may_is_broken_off(tmp_path: Path):
    async with Upstream(streamed(chunk("half"), ending="hang")) as p1:
        hasty = with_timeouts(p1.url, "idle_s: 0.2")
        async with routed(tmp_path, more="", p1=hasty) as router, router.stream(STREAM) as stream:
            began = time.monotonic()
            chunks, broken = await read(stream)
            assert time.monotonic() - began < 5, "everybody else has 20 s"
    assert broken is not None
    assert (text(chunks), broken.kind) == ("half", "timeout")


async def test_10_an_entry_may_have_another_time_than_its_provider(tmp_path: Path):
    async with Upstream(Script(pieces=answer("late").pieces, wait_s=0.6)) as p1, Upstream(answer()) as p2:
        aliases = "  mana/x: {chain: [{model: p1/m1, timeout_s: 0.2}, p2/m1]}"
        slow = with_timeouts(p1.url, "first_byte_s: 5, total_s: 5")
        async with routed(tmp_path, aliases, more=SHORT, p1=slow, p2=p2) as router:
            assert told(await router.complete(BODY)) == [("p1/m1", "timeout", None), ("p2/m1", "ok", 200)]


async def test_10_no_timeout_of_a_provider_is_longer_than_the_call(tmp_path: Path):
    async with Upstream(SILENT) as p1, Upstream(answer()) as p2:
        slow = with_timeouts(p1.url, "first_byte_s: 3600, total_s: 3600")
        async with routed(tmp_path, more=SHORT, p1=slow, p2=p2) as router, asyncio.timeout(5):
            found = await router.complete(BODY, deadline_s=1.0)
    assert told(found) == [("p1/m1", "timeout", None), ("p2/m1", "ok", 200)]


async def test_10_other_timeouts_are_in_force_with_the_reload(tmp_path: Path):
    async with Upstream(SILENT) as p1, Upstream(answer()) as p2:
        files = [with_timeouts(p1.url, f"first_byte_s: {seconds}") for seconds in (3600, 0.2)]
        async with LLMRouter(registry(tmp_path, p1=files[0], p2=p2)) as router, asyncio.timeout(10):
            registry(tmp_path, p1=files[1], p2=p2)
            await router.reload()
            assert told(await router.complete(BODY)) == [("p1/m1", "timeout", None), ("p2/m1", "ok", 200)]
