"""A sample of the matrix that `python -m tests.plan_faults` runs whole: each point once, each mode several times."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from projector.embedded.servers import Servers
from tests.faults.matrix import Chunk
from tests.fixtures.settings import Template, settings_for
from tests.plan_faults.matrix import Matrix
from tests.plan_faults.points import POINTS, Pair
from tests.plan_faults.world import World

SEED = 20_261_126
SAMPLE = [Pair(point, point.modes[number % len(point.modes)]) for number, point in enumerate(POINTS)]


@pytest.fixture(scope="module")
def running(stack: Servers, template: Template, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    with template.copy() as database:
        logs = tmp_path_factory.mktemp("plan-faults")
        world = World(settings_for(stack, database), database.logins.sync, logs, str(SEED), rate=6.0)
        try:
            world.start()
            yield Matrix(world, SEED)
        finally:
            world.stop()


@pytest.mark.parametrize("pair", SAMPLE, ids=[pair.name for pair in SAMPLE])
def test_no_due_time_is_lost_or_doubled_and_no_answer_paid_for_twice_after(running: Matrix, pair: Pair) -> None:
    running.run(Chunk(pair, 0, 1))


def test_all_that_was_due_is_in_the_log_once_and_nothing_is_taken_any_more(running: Matrix) -> None:
    running.world.finish()
    assert running.world.judge.judged > len(SAMPLE)
