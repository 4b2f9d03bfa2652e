"""What this process is late with is nobody else's fault."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from projector.errors import RouteError
from projector.llm.patience import Patience
from tests.llm.test_router import routed
from tests.llm.test_streams import STREAM, read, text
from tests.llm.upstream import BODY, SILENT, Upstream, words

LIMIT_S, BUSY_S = 0.2, 0.5
TIMES = f"{{connect_s: {LIMIT_S}, first_byte_s: {LIMIT_S}, idle_s: {LIMIT_S}, total_s: {LIMIT_S}}}"


async def hog(rounds: int) -> None:
    """Keeps the loop from its connections, as very many calls at once do."""
    for _ in range(rounds):
        asyncio.get_running_loop().call_soon(time.sleep, BUSY_S)
        await asyncio.sleep(0.01)


async def test_streams_that_begin_while_the_loop_is_late_are_whole_and_open_no_circuit(tmp_path: Path):
    async with (
        Upstream(words("a", "b", "c", pause_s=0.02)) as p1,
        routed(tmp_path, more=f"budgets: {TIMES}\npolicy: {{last_retry: 0}}", p1=p1) as router,
    ):

        async def whole() -> str:
            async with router.stream(STREAM) as stream:
                chunks, broken = await read(stream)
            assert broken is None
            return text(chunks)

        calls = [asyncio.create_task(whole()) for _ in range(20)]
        await hog(6)
        assert await asyncio.gather(*calls) == ["abc"] * 20
        assert router.health()["p1"].consecutive_failures == 0


async def test_a_stream_that_comes_while_the_loop_is_late_is_read_to_its_end(tmp_path: Path):
    async with (
        Upstream(words(*"abcd", pause_s=0.05)) as p1,
        routed(tmp_path, more=f"budgets: {TIMES}", p1=p1) as router,
        router.stream(STREAM) as stream,
    ):
        busy = asyncio.create_task(hog(6))
        chunks, broken = await read(stream)
        await busy
    assert (text(chunks), broken) == ("abcd", None)


async def test_a_provider_that_is_silent_is_found_out_though_the_loop_is_late(tmp_path: Path):
    async with Upstream(SILENT) as p1, routed(tmp_path, more=f"budgets: {TIMES}", p1=p1) as router:
        call = asyncio.create_task(router.complete(BODY))
        await hog(2)
        with pytest.raises(RouteError) as caught:
            await asyncio.wait_for(call, 5)
    assert [attempt.kind for attempt in caught.value.attempts] == ["timeout"]


async def test_patience_is_longer_by_what_the_loop_was_late():
    async def waits() -> None:
        async with Patience(LIMIT_S):
            await hog(1)
            await asyncio.sleep(60)

    began = time.monotonic()
    with pytest.raises(TimeoutError):
        await waits()
    assert BUSY_S + LIMIT_S / 2 < time.monotonic() - began < BUSY_S + 5


async def test_patience_may_be_taken_back_and_given_anew():
    async def waits() -> None:
        async with Patience(0.01) as patience:
            patience.reschedule(None)
            assert patience.when() is None
            await asyncio.sleep(0.05)
            patience.reschedule(asyncio.get_running_loop().time() + 0.01)
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(waits(), 5)
