"""Runs pairs of a point and a mode against one world in chunks, each verified at its end, and keeps the figures."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from projector.config import Settings
from projector.embedded.database import create_log, create_logins
from projector.embedded.environment import prepare
from projector.embedded.stack import Stack
from tests.faults.matrix import Chunk
from tests.plan_faults.world import World

_PASSWORD = "only-on-loopback"


class Matrix:
    """`took` are the seconds from the start of a process to its end at the point, by pair."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.seed = seed
        self.took: defaultdict[str, list[float]] = defaultdict(list)

    def run(self, chunk: Chunk) -> None:
        """Strikes again and again, has the stream go on, then verifies."""
        self.strike(chunk)
        self.world.verify()

    def strike(self, chunk: Chunk) -> None:
        pair = chunk.fault
        numbers = random.Random(f"{self.seed}:{pair.name}:{chunk.number}")
        self.world.double.mode = pair.mode
        for _ in range(chunk.strikes):
            self.took[pair.name].append(self.world.strike(pair.point, numbers))
        self.world.start_stream(pair.point.stream)


@contextmanager
def matrix(seed: int, rate: float, cache_dir: Path) -> Iterator[Matrix]:
    """A stack and a world of its own; data and logs are kept when something goes wrong."""
    directory = Path(tempfile.mkdtemp(prefix="plan-faults-"))
    with Stack(directory / "stack", cache_dir) as stack:
        logins = create_logins(stack.admin_url, _PASSWORD)
        create_log(stack.admin_url)
        settings = Settings(
            database_url=logins.streams,
            admin_database_url=stack.admin_url,
            kafka_bootstrap_servers=stack.bootstrap_servers,
            apps=("ai",),
        )
        prepare(settings)
        world = World(settings, logins.sync, directory, str(seed), rate)
        try:
            world.start()
            yield Matrix(world, seed)
        finally:
            world.stop()
    shutil.rmtree(directory)
