"""A run of the planner whose model is a chain of providers."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from projector.llm.routed import RoutedChat
from projector.planner.worker import Worker
from tests.cli.in_process import read
from tests.llm.test_planner_use import calls_task
from tests.llm.test_router import routed
from tests.llm.upstream import ABORT, Upstream, answer
from tests.planner.test_worker import FAST, settled
from tests.planner.world import World


def priced(upstream: Upstream) -> str:
    return f"base_url: '{upstream.url}', prices: {{m1: {{prompt: 25000, completion: 0}}}}"


async def test_a_run_is_planned_by_the_next_provider_when_the_first_is_dead(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    await world.agent()
    await world.mission()
    await world.open()
    stop = asyncio.Event()
    aliases = "  mana/reasoning: {requires: [tools], chain: [p1/m1, p2/m1]}"
    async with (
        Upstream(ABORT) as p1,
        Upstream(calls_task, answer("fertig")) as p2,
        RoutedChat(routed(tmp_path, aliases, more="", p1=p1, p2=priced(p2)), timeout_s=20) as chat,
    ):
        working = asyncio.create_task(Worker(world.settings, world.pool, chat, FAST).run(stop))
        try:
            await settled(world, "planned")
        finally:
            stop.set()
            await working
    assert world.run()["state"] == "planned"
    assert [request.body["model"] for request in p2.requests] == ["m1", "m1"]
    assert p1.calls == 2
    found = world.admin.execute("select evidence from mana_ai.run_steps where kind = 'llm' order by seq").fetchall()
    assert [evidence["model"] for (evidence,) in found] == ["p2/m1", "p2/m1"]
    assert found[0][0]["route"] == ["p1/m1=unreachable", "p2/m1=ok"]
    assert all(evidence["ms"] >= 0 for (evidence,) in found)
    (first, second) = (evidence["cost"] for (evidence,) in found)
    assert first == second == pytest.approx(0.25)
    shown = await asyncio.to_thread(read, world.settings, capsys, "runs", "show", str(world.run()["run_id"]))
    assert re.search(r"by p2/m1 in \d+ ms, \$0\.250000, tried p1/m1=unreachable p2/m1=ok\n", shown)
