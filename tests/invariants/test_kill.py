"""Each process is killed at a named point while devices go on writing; afterwards everything must hold.

A point that did not fire fails the test: it would show nothing.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from projector.embedded.servers import Servers
from projector.views import rebuild
from projector.views.declared import VIEWS
from tests.fixtures.settings import Template, settings_for
from tests.invariants.world import World

FIRE_LIMIT_S = 20.0
RUNS = "select run_id, state from mana_ai.mission_runs order by 1"
LOST_ANSWER = "planner.after_llm_before_store"

POINTS = [
    ("cdc", "cdc.before_send:20"),
    ("cdc", "cdc.after_ack_before_confirm:20"),
    ("cdc", "cdc.after_confirm"),
    ("cdc", "cdc.mid_transaction:4"),
    ("views", "views.mid_copy"),
    ("views", "views.before_commit:15"),
    ("views", "views.after_commit:15"),
    ("timers", "timers.before_commit"),
    ("planner", "planner.after_claim"),
    ("planner", LOST_ANSWER),
    ("planner", "planner.after_step_stored:2"),
    ("planner", "planner.after_plan_stored"),
    ("sink", "sink.before_commit"),
    ("sink", "sink.after_commit"),
]


@pytest.fixture(scope="module")
def world(stack: Servers, template: Template, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with template.copy() as database:
        running = World(settings_for(stack, database), database, tmp_path_factory.mktemp("streams"), seed=20_261_125)
        try:
            running.start()
            yield running
        finally:
            running.pipeline.stop_all()


@pytest.mark.parametrize(("stream", "point"), POINTS, ids=[point for _, point in POINTS])
async def test_nothing_is_lost_or_doubled_when_killed_at(world: World, stream: str, point: str) -> None:
    world.pipeline.stop(stream)
    doomed = world.pipeline.start(stream, crash_at=point)
    world.pipeline.wait_ready(stream)
    world.make_missions_due()
    world.write_rows_in_one_transaction(100)  # more than a view commits with one statement
    fired = world.write_while(lambda: doomed.poll() is None, FIRE_LIMIT_S)
    assert fired, f"{point} did not fire (seed {world.seed})"
    assert doomed.poll() == -signal.SIGKILL, world.pipeline.tail(stream)
    if point == LOST_ANSWER:
        # The one moment that no ledger can cover: the provider has answered, and nothing is stored yet.
        world.lost_answers += 1
    world.pipeline.start(stream)
    world.pipeline.wait_ready(stream)
    await world.settle()
    await world.check_everything()


async def test_all_streams_at_once_lose_nothing(world: World) -> None:
    for stream in ("cdc", "views", "planner", "sink", "timers"):
        world.pipeline.kill(stream)
    world.make_missions_due()
    world.write_rows_in_one_transaction(3)
    world.pipeline.start_all()
    await world.settle()
    await world.check_everything()


async def test_views_rebuilt_and_promoted_under_the_running_streams_fire_no_effect(world: World) -> None:
    """Every mission ran when it was due: folded anew, none may run again."""
    await world.settle()
    before = world.ask(RUNS), world.calls_of_runs(), world.effects()
    for turn in (rebuild.promote, rebuild.rollback):
        for view in VIEWS.values():
            if turn is rebuild.promote:
                await rebuild.start(world.settings, view)
            await turn(world.settings, view)
    assert [serving for (serving,) in world.ask("select serving from mana_ai.view_generations")] == [1] * len(VIEWS)
    for view in VIEWS.values():
        await rebuild.rollback(world.settings, view)
    # Time enough for the scheduler and the announcements to look several times.
    await asyncio.sleep(2)
    assert (world.ask(RUNS), world.calls_of_runs(), world.effects()) == before
    world.make_missions_due()
    await world.settle()
    await world.check_everything()


def test_logs_hold_no_content_of_records(world: World) -> None:
    for log in Path(world.pipeline.log_dir).glob("*.log"):
        text = log.read_text("utf-8", "replace")
        assert "„Notiz“" not in text
        assert "Balkon bekommt Wasser" not in text
