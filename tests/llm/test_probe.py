"""Probes; numbers are those of the reference's facts (13.3)."""

from __future__ import annotations

import asyncio
import random
import time
from typing import ClassVar

import pytest

from projector.llm.breaker import Breaker
from projector.llm.config import BreakerSettings
from projector.llm.probe import Prober


async def yes() -> bool:
    return True


async def no() -> bool:
    return False


async def broken() -> bool:
    raise ConnectionError("refused")


async def slow() -> bool:
    await asyncio.sleep(1)
    return True


@pytest.fixture
def breaker() -> Breaker:
    return Breaker(BreakerSettings(failure_threshold=1))


def error_of(breaker: Breaker, name: str = "p") -> str:
    state = breaker.get_state(name)
    assert state is not None
    return state.last_error or ""


def test_13_3_1_2_3_what_it_is_made_of(breaker: Breaker):
    with pytest.raises(ValueError, match="interval"):
        Prober(breaker, {}, interval=0)
    with pytest.raises(ValueError, match="timeout"):
        Prober(breaker, {}, timeout=0)
    assert Prober(breaker, {"a": yes, "b": no}).provider_ids == ("a", "b")


async def test_13_3_4_a_probe_that_is_answered_lets_a_provider_be_tried_again(breaker: Breaker):
    breaker.mark_unhealthy("p", "down")
    await Prober(breaker, {"p": yes}).tick_once()
    assert breaker.is_healthy("p")


@pytest.mark.parametrize(
    ("number", "probe", "told"),
    [(5, no, "probe-returned-false"), (6, broken, "probe-exception: ConnectionError"), (7, slow, "probe-timeout")],
)
async def test_13_3_5_6_7_a_probe_that_fails_says_why(breaker: Breaker, number, probe, told: str):
    await Prober(breaker, {"p": probe}, timeout=0.05).tick_once()
    assert not breaker.is_healthy("p")
    assert error_of(breaker).startswith(told)


async def test_13_3_8_9_probes_run_beside_each_other_and_do_not_spoil_each_other(breaker: Breaker):
    async def a_while() -> bool:
        await asyncio.sleep(0.1)
        return True

    began = time.monotonic()
    await Prober(breaker, {"bad": broken} | {f"p{n}": a_while for n in range(5)}).tick_once()
    assert time.monotonic() - began < 0.3
    assert [breaker.is_healthy(name) for name in ("bad", "p0", "p4")] == [False, True, True]


async def test_13_3_10_without_probes_nothing_happens(breaker: Breaker):
    await Prober(breaker, {}).tick_once()
    assert breaker.snapshot() == {}


async def test_13_3_11_to_14_it_begins_at_once_runs_once_and_ends(breaker: Breaker):
    breaker.mark_unhealthy("p", "down")
    asked = 0

    async def count() -> bool:
        nonlocal asked
        asked += 1
        return True

    prober = Prober(breaker, {"p": count}, interval=10)
    await prober.stop()
    prober.start()
    prober.start()
    async with asyncio.timeout(2):
        await prober.ready()
    assert breaker.is_healthy("p")
    assert (asked, prober.running) == (1, True)
    await prober.stop()
    assert not prober.running


async def test_13_3_15_it_goes_on_again_and_again_with_jitter(breaker: Breaker):
    class Rng(random.Random):
        asked: ClassVar[list[tuple[float, float]]] = []

        def uniform(self, a: float, b: float) -> float:
            self.asked.append((a, b))
            return a

    count = 0
    enough = asyncio.Event()

    async def note() -> bool:
        nonlocal count
        count += 1
        if count == 3:
            enough.set()
        raise RuntimeError

    prober = Prober(breaker, {"p": note}, interval=0.05, jitter=0.2, rng=Rng())
    prober.start()
    async with asyncio.timeout(5):
        await enough.wait()
    await prober.stop()
    assert set(Rng.asked) == {(-0.2, 0.2)}


async def test_a_provider_whose_calls_are_answered_is_not_probed_beside_them(breaker: Breaker):
    asked: list[str] = []

    async def note(name: str) -> bool:
        asked.append(name)
        return True

    lease = breaker.admit("busy", "m")
    lease.ok()
    prober = Prober(breaker, {name: lambda name=name: note(name) for name in ("busy", "idle")}, interval=30)
    prober.start()
    await prober.ready()
    await prober.stop()
    assert asked == ["idle"]
    await prober.tick_once()
    assert asked == ["idle", "busy", "idle"]
