"""What the router tells of itself, to whom that is wanted by; the number is that of the spec."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from projector.errors import AliasConfigError, UnknownAliasError
from projector.llm.metrics import NO_METRICS, Metrics
from projector.llm.prometheus import PrometheusMetrics
from projector.llm.router import LLMRouter
from tests.llm.test_router import FAST
from tests.llm.test_streams import STREAM, read
from tests.llm.upstream import BODY, DONE, Upstream, answer, chunk, error, event, failure, registry, streamed

EVENTS = {name for name in vars(Metrics) if not name.startswith("_")}


class Kept(Metrics):
    """Keeps what it is told; of times only that there are some."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def __getattribute__(self, name: str) -> Any:
        if name not in EVENTS:
            return super().__getattribute__(name)
        return lambda *given: self.told.append((name, *("s" if isinstance(part, float) else part for part in given)))

    def of(self, name: str) -> list[tuple[Any, ...]]:
        return [told[1:] for told in self.told if told[0] == name]


async def test_8_all_that_happens_is_told_to_whoever_wants_to_know(tmp_path: Path):
    kept = Kept()
    spent = {"prompt_tokens": 3, "completion_tokens": 1}
    scripts = [failure(200, {"choices": [], "usage": spent}), error(401), error(500)]
    async with (
        Upstream(*scripts) as p1,
        Upstream(answer(), answer(), streamed(chunk("a"), event(b"{"), chunk(finish="stop"), DONE)) as p2,
    ):
        p2.inventory = failure(401)
        more = FAST + "\npolicy: {auth: next}\nbreaker: {failure_threshold: 1}"
        made = registry(tmp_path, more=more, p1=p1, p2=p2)
        async with LLMRouter(made, metrics=kept) as router:
            await router.complete(BODY)
            router.breaker.reset()
            await router.complete({**BODY, "model": "p2/made-up"})
            with pytest.raises(UnknownAliasError):
                await router.complete({**BODY, "model": "mana/made-up"})
            async with router.stream(STREAM) as stream:
                await read(stream)
            await router.probe_now()
            registry(tmp_path, "  mana/x: {chain: [p2/m1]}", p2=p2)
            await router.reload()
            (tmp_path / "llm.yaml").write_text("aliases: [")
            with pytest.raises(AliasConfigError):
                await router.reload()
    assert kept.of("call") == [("mana/x", "ok"), ("direct", "ok"), ("unknown", "unknown_alias"), ("mana/x", "ok")]
    assert kept.of("attempt") == [
        ("p1", "m1", "failed", "protocol", "s"),
        ("p2", "m1", "ok", "", "s"),
        ("p2", "other", "ok", "", "s"),
        ("p1", "m1", "failed", "auth", "s"),
        ("p2", "m1", "ok", "", "s"),
    ]
    costs = [(*names, usage.prompt_tokens) for *names, usage in kept.of("spent")]
    assert costs[:2] == [("mana/x", "p1", "m1", 3), ("mana/x", "p2", "m1", 10)]
    assert costs[2] == ("direct", "p2", "other", 10)
    assert kept.of("fallback") == [("p1/m1", "p2/m1", "protocol"), ("p1/m1", "p2/m1", "auth")]
    assert kept.of("alarm") == [("p1", "auth")]
    assert kept.of("first_byte") == [("mana/x", "s")]
    assert kept.of("skipped_event") == [("p2",)]
    assert kept.of("circuit")[:2] == [("p1/m1", "open", "call"), ("p1", "open", "call")]
    assert kept.of("circuit_shown")[:2] == [("p1/m1", "open"), ("p1", "open")]
    assert ("p1", None) in kept.of("circuit_shown"), "it left the file"
    assert set(kept.of("probe")) == {("p1", "ok"), ("p2", "ok"), ("p2", "auth")}
    assert kept.of("reload") == [("ok",), ("failed",)]
    assert kept.of("generation") == [(1,), (2,)]
    assert {told[0] for told in kept.told} == EVENTS


def test_8_everything_that_is_told_is_exported():
    assert vars(PrometheusMetrics).keys() >= EVENTS


async def test_17_who_wants_no_metrics_loads_none(tmp_path: Path):
    code = """
import asyncio, sys
from projector.llm.router import LLMRouter

async def main():
    async with LLMRouter.from_config(sys.argv[1]) as router:
        await (await router.start_probes()).ready()
        body = {"model": "mana/x", "messages": [{"role": "user", "content": "x"}]}
        print("told", (await router.complete(body)).resolved)
        async with router.stream(body) as stream:
            print("told", stream.resolved)
    print("told", [name for name in sys.modules if name.partition(".")[0] == "prometheus_client"])

asyncio.run(main())
"""
    async with Upstream(error(500), answer(), streamed(chunk("a"), DONE)) as p1:
        path = registry(tmp_path, "  mana/x: {chain: [p1/m1, p1/m2]}", p1=p1).path
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(path), stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(60):
            told, _ = await process.communicate()
    lines = [line.removeprefix("told ") for line in told.decode().splitlines() if line.startswith("told ")]
    assert lines == ["p1/m2", "p1/m1", "[]"]
    assert NO_METRICS.call("mana/x", "ok") is None
