"""The router while its file changes, and while many ask at once; numbers are those of 13.5 and of the new facts."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from projector.errors import AliasConfigError, PaymentError, ProviderAuthError, UnreachableError
from projector.llm import reloading as reloading_module
from projector.llm import router as router_module
from projector.llm.breaker import Lease, Transition
from projector.llm.observe import Circuits
from projector.llm.prometheus import PrometheusMetrics
from projector.llm.registry import Snapshot
from projector.llm.reloading import Watched, reloading
from projector.llm.routed import RoutedChat
from projector.llm.router import LLMRouter
from tests.llm.test_router import FAST, metric, routed
from tests.llm.upstream import BODY, Script, Upstream, answer, error, registry


async def test_13_5_16_a_reload_takes_effect_for_calls_that_begin_after_it(tmp_path: Path):
    async with (
        Upstream(Script(wait_s=0.3, pieces=answer("slow").pieces)) as p1,
        Upstream(answer("from p2")) as p2,
        routed(tmp_path, more="", p1=p1, p2=p2) as router,
    ):
        running = asyncio.create_task(router.complete(BODY))
        async with asyncio.timeout(5):
            while not p1.calls:
                await asyncio.sleep(0.01)
        registry(tmp_path, "  mana/x: {chain: [p2/m1, p2/m2]}", p2=p2)
        assert (await router.reload()).generation == 2
        assert (await router.complete(BODY)).resolved == "p2/m1"
        assert (await running).resolved == "p1/m1"
        (tmp_path / "llm.yaml").write_text("aliases: [")
        with pytest.raises(AliasConfigError):
            await router.reload()
        assert (await router.complete(BODY)).resolved == "p2/m1"


async def test_a_provider_whose_key_or_address_changed_begins_anew_with_the_reload_and_the_others_do_not(
    tmp_path: Path,
):
    (tmp_path / "key").write_text("old")
    keyed = f"base_url: 'http://h1', api_key_file: {tmp_path}/key"
    paid = f"base_url: 'http://h3', api_key_file: {tmp_path}/key3"
    (tmp_path / "key3").write_text("same")
    files = [{"p1": keyed, "p2": f"base_url: 'http://{host}'", "p3": paid} for host in ("h2", "moved")]
    async with routed(tmp_path, **files[0]) as router:
        for name, kind in (("p1", ProviderAuthError), ("p2", UnreachableError), ("p3", PaymentError)):
            for _ in range(2):
                if isinstance(lease := router.breaker.admit(name, "m1"), Lease):
                    lease.fail(kind("no"))
        router.breaker.admit("p2", "m1")
        router.breaker.suspect_auth("p1", True)
        assert [state.state for state in router.health().values()] == ["open"] * 3
        (tmp_path / "key").write_text("new")
        registry(tmp_path, more=FAST, **files[1])
        await router.reload()
        assert [state.state for state in router.health().values()] == ["closed", "closed", "open"]
        assert not router.health()["p1"].auth_suspect


async def test_13_5_8_a_gauge_shows_each_circuit_of_the_file_and_none_that_left_it(tmp_path: Path):
    both = {"p1": "base_url: 'http://h'", "gone": "base_url: 'http://h'"}
    async with routed(tmp_path, "  mana/x: {chain: [p1/m1, gone/m1]}", **both) as router:
        for name in both:
            for _ in range(2):
                router.breaker.mark_unhealthy(name, "down")
            assert metric("llm_breaker_state", key=name) == 1
        router.breaker.mark_healthy("p1")
        assert metric("llm_breaker_state", key="p1") == 0
        registry(tmp_path, "  mana/x: {chain: [p1/m1]}", p1=both["p1"])
        await router.reload()
        assert REGISTRY.get_sample_value("llm_breaker_state", {"key": "gone"}) is None
        router.breaker.mark_healthy("gone")
        assert REGISTRY.get_sample_value("llm_breaker_state", {"key": "gone"}) is None


def test_H7_what_is_told_late_of_a_circuit_is_not_shown(tmp_path: Path):
    made = registry(tmp_path, p1="base_url: 'http://h'")
    circuits = Circuits(PrometheusMetrics(), made.snapshot)
    before = metric("llm_breaker_transitions_total", key="p1", to="open", cause="call")
    circuits(Transition("p1", "closed", "", 2))
    circuits(Transition("p1", "open", "call", 1))
    assert metric("llm_breaker_state", key="p1") == 0
    assert metric("llm_breaker_transitions_total", key="p1", to="open", cause="call") == before + 1, "but counted"


def test_2_6_what_is_probably_a_mistake_is_told_at_the_start_and_with_each_reload(tmp_path: Path, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(router_module.log, "warning", lambda _event, *, warning: told.append(warning), raising=False)
    p1 = "base_url: 'http://h'"
    made = registry(tmp_path, "  mana/x: {chain: [typo/m1]}", p1=p1)
    router = LLMRouter(made)
    registry(tmp_path, "  mana/x: {chain: [other/m1]}", p1=p1)
    router.registry.reload()
    assert [warning.partition(": there is")[0] for warning in told] == ["mana/x: typo/m1", "mana/x: other/m1"]


def test_2_5_where_no_signals_are_to_be_had_the_rest_goes_on(tmp_path: Path, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(reloading_module.log, "info", lambda event: told.append(event), raising=False)

    async def run() -> None:
        with reloading(LLMRouter(registry(tmp_path, p1="base_url: 'http://h'"))):
            told.append("goes on")

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    thread.join(10)
    assert told == ["no SIGHUP here: reload by command", "goes on"]


async def test_2_6_a_file_that_changed_is_read_again_once_it_rests(tmp_path: Path):
    async with Upstream(answer()) as p1, Upstream(answer()) as p2:
        files = ["  mana/x: {chain: [p1/m1]}", "  mana/x: {chain: [p2/m1]}"]
        async with (
            routed(tmp_path, files[0], p1=p1, p2=p2) as router,
            RoutedChat(router, timeout_s=5, look_s=0.01),
            asyncio.timeout(5),
        ):
            registry(tmp_path, files[1], p1=p1, p2=p2)
            while router.registry.snapshot.generation == 1:
                await asyncio.sleep(0.01)
            assert (await router.complete(BODY)).resolved == "p2/m1"
            failed = metric("llm_alias_reload_total", result="failed")
            (tmp_path / "llm.yaml").unlink()
            while metric("llm_alias_reload_total", result="failed") == failed:
                await asyncio.sleep(0.01)
            assert (await router.complete(BODY)).resolved == "p2/m1"
            registry(tmp_path, files[0], p1=p1, p2=p2)
            while router.registry.snapshot.generation == 2:
                await asyncio.sleep(0.01)
            assert metric("llm_alias_generation") == 3


def test_2_6_a_file_that_is_being_written_is_not_read(tmp_path: Path):
    file = tmp_path / "llm.yaml"
    file.write_text("a")
    watched = Watched(file)
    seen = [watched.changed()]
    for text in ("ab", "abc", "abc", "abc", "abcd", "abc"):
        if file.read_text() != text:
            file.write_text(text)
        seen.append(watched.changed())
    assert seen == [False, False, False, True, False, False, False]
    assert watched.changed(), "written anew, though it says the same"


async def test_calls_are_answered_while_a_file_is_read(tmp_path: Path, monkeypatch):
    async with Upstream(answer()) as p1, routed(tmp_path, p1=p1) as router:
        answered, read = threading.Event(), router.registry.read

        def slow() -> Snapshot:
            assert answered.wait(5), "nothing is answered meanwhile"
            return read()

        monkeypatch.setattr(router.registry, "read", slow)
        reloading = [asyncio.create_task(router.reload()) for _ in range(2)]
        await asyncio.sleep(0)
        await router.complete(BODY)
        answered.set()
        assert [(await task).generation for task in reloading] == [2, 3]


async def test_no_request_is_lost_while_the_file_is_read_again_a_hundred_times(tmp_path: Path):
    async with Upstream(answer()) as p1, Upstream(answer()) as p2:
        files = ["  mana/x: {chain: [p1/m1]}", "  mana/x: {chain: [p2/m1]}"]
        async with routed(tmp_path, files[0], more="", p1=p1, p2=p2) as router:
            over = asyncio.Event()
            resolved: set[str] = set()

            async def call() -> None:
                while not over.is_set():
                    resolved.add((await router.complete(BODY)).resolved)

            callers = [asyncio.create_task(call()) for _ in range(50)]
            for number in range(100):
                registry(tmp_path, files[number % 2], p1=p1, p2=p2)
                await router.reload()
            over.set()
            await asyncio.gather(*callers)
    assert resolved == {"p1/m1", "p2/m1"}


async def test_every_request_of_a_load_is_answered_though_the_first_provider_is_killed_in_its_middle(tmp_path: Path):
    async with (
        Upstream(answer("from p1")) as p1,
        Upstream(answer("from p2")) as p2,
        routed(tmp_path, more="", p1=p1, p2=p2) as router,
    ):
        gate = asyncio.Semaphore(25)
        answered = 0

        async def one() -> str:
            nonlocal answered
            async with gate:
                found = await router.complete(BODY)
                answered += 1
                if answered == 200:
                    await p1.kill()
                return found.resolved

        resolved = await asyncio.gather(*(one() for _ in range(500)))
    assert len(resolved) == 500
    assert 150 < resolved.count("p1/m1") < 300
    assert resolved.count("p2/m1") == 500 - resolved.count("p1/m1")
    assert resolved[-1] == "p2/m1"


async def test_during_a_flap_at_most_one_call_a_window_is_on_trial(tmp_path: Path):
    async with Upstream(error(500)) as p1, Upstream(answer()) as p2:
        more = "breaker: {open_s: 0.2, multiplier: 1, jitter: 0, failure_threshold: 1}"
        async with routed(tmp_path, more=more, p1=p1, p2=p2) as router:
            await router.complete(BODY)
            began = time.monotonic()
            for _ in range(2):
                found = await asyncio.gather(*(router.complete(BODY) for _ in range(1000)))
                assert {answered.resolved for answered in found} == {"p2/m1"}
            windows = (time.monotonic() - began) / 0.2
    assert 1 < p1.calls <= 1 + windows + 1
