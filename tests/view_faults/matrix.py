"""The world in which the matrix of `tests.faults` strikes the views."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.matrix import Matrix
from tests.faults.servers import serving
from tests.view_faults.world import ViewWorld


@contextmanager
def matrix(seed: int, rate: float, cache_dir: Path | None = None) -> Iterator[Matrix]:
    """A world of its own for as long as the matrix runs."""
    with serving(cache_dir) as servers:
        world = ViewWorld(servers, "view_faults", str(seed), rate)
        try:
            world.start()
            yield Matrix(world, seed, 0)
        finally:
            world.stop()
