"""What the reference's own counters of plans and failures mean here, which its alerts are computed from."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

from projector.planner import worker as worker_module
from projector.planner.writer import Writer
from projector.sql.connection import pool
from tests.llm.double import Double, calls, error, text
from tests.planner.test_worker import FAST, TASK, worked
from tests.planner.world import World

COUNTED = ("plans_produced_total", "plans_written_back_total", "parse_failures_total", "mission_errors_total")


def counted() -> tuple[float, ...]:
    return tuple(REGISTRY.get_sample_value(f"mana_ai_{name}") or 0.0 for name in COUNTED)


@pytest.mark.parametrize(
    ("replies", "adds"),
    [
        ([calls(TASK), text("fertig")], (1, 1, 0, 0)),
        ([error(401)], (0, 0, 1, 0)),
        ([error(500), text("fertig")], (1, 1, 1, 0)),
    ],
    ids=["planned", "refused by the model", "planned at the second attempt"],
)
async def test_plans_and_failures_are_counted_as_there(world: World, replies, adds):
    before = counted()
    await world.agent()
    await world.mission()
    async with Double(*replies) as double:
        run = await worked(world, double, "planned")
    async with pool(world.settings, "projector_sink", size=1) as sink:
        await Writer(world.settings, sink, world.pool, FAST).write(run["run_id"], "u1")
    assert world.run()["state"] == "written"
    assert tuple(after - was for after, was in zip(counted(), before, strict=True)) == adds


async def test_a_fault_of_ours_is_an_error_of_its_mission(world: World, monkeypatch: pytest.MonkeyPatch):
    async def broken(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(worker_module, "carry_out", broken)
    before = counted()
    await world.agent()
    await world.mission()
    async with Double(text("nie")) as double:
        run = await worked(world, double, "planned")
    assert run["decision"] == "failed"
    added = tuple(after - was for after, was in zip(counted(), before, strict=True))
    assert added == (0, 0, 0, FAST.max_attempts)
