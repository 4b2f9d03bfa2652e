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
    """Servers and a world of its own for as long as the matrix runs."""
    with serving(cache_dir) as servers:
        running = Matrix(servers, seed, rate, 0, ViewWorld)
        try:
            yield running
        finally:
            running.world.stop()
