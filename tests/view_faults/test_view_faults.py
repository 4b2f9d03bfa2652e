"""A sample of the matrix that `python -m tests.view_faults` runs whole: one kill of each family."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.matrix import Chunk, Matrix
from tests.view_faults.faults import FAULTS
from tests.view_faults.matrix import matrix
from tests.view_faults.world import ViewWorld

SEED = 20_261_126
SAMPLE = ("views.before_commit", "dlq.before_commit", "rebuild.mid_fill (start)", "rebuild.before_promoted (promote)")
BY_NAME = {fault.name: fault for fault in FAULTS}


@pytest.fixture(scope="module")
def running(cache_dir: Path) -> Iterator[Matrix]:
    with matrix(SEED, rate=60, cache_dir=cache_dir) as world:
        yield world


@pytest.mark.parametrize("name", SAMPLE)
def test_every_row_is_the_fold_of_the_log_after(running: Matrix, name: str) -> None:
    running.run(Chunk(BY_NAME[name], 0, 1))


def test_all_views_rebuilt_are_those_that_serve(running: Matrix) -> None:
    assert isinstance(running.world, ViewWorld)
    running.world.finish()
    assert running.world.verified > 500
    assert running.world.strays.sent > 0
