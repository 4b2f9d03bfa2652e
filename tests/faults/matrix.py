"""Runs faults against one world in chunks, each verified at its end, and keeps the figures."""

from __future__ import annotations

import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.faults.faults import Fault, Strike
from tests.faults.servers import Servers, serving
from tests.faults.world import World

FULL = 60_000
"""Records."""


class Chunk(NamedTuple):
    """`number` of a fault's chunks; what is drawn in it follows from the seed, the fault and this number alone."""

    fault: Fault
    number: int
    strikes: int


def chunks(faults: list[Fault], repeats: int, slow_repeats: int, seed: int) -> list[Chunk]:
    """All that is to be done, mixed: a fault must not depend on which one came before."""
    result = []
    for fault in faults:
        left = math.ceil((slow_repeats if fault.slow else repeats) * fault.share)
        number = 0
        while left > 0:
            strikes = min(fault.every, left)
            result.append(Chunk(fault, number, strikes))
            left -= strikes
            number += 1
    random.Random(seed).shuffle(result)
    return result


class Matrix:
    """By fault: `recoveries` in seconds, `repeated` records that came again. `judged`: of worlds that are done with."""

    def __init__(
        self,
        servers: Servers,
        seed: int,
        rate: float,
        away_s: float,
        make: Callable[[Servers, str, str, float], World] = World,
    ) -> None:
        self.seed = seed
        self._make = make
        self.away_s = away_s
        self.recoveries: defaultdict[str, list[float]] = defaultdict(list)
        self.repeated: Counter[str] = Counter()
        self.judged = 0
        self._servers = servers
        self._rate = rate
        self._worlds = 0
        self.world = self._new_world()

    def run(self, chunk: Chunk) -> None:
        """Strikes, waits for recovery each time, then verifies. Raises an AssertionError that says what was wrong."""
        numbers = random.Random(f"{self.seed}:{chunk.fault.name}:{chunk.number}")
        for _ in range(chunk.strikes):
            self._until_it_runs()
            took = chunk.fault.strike(Strike(self.world, numbers, self.away_s))
            self.recoveries[chunk.fault.name].append(self.world.recover() if took is None else took)
        before = self.world.judge.repeated
        self.world.verify(chunk.fault.allowed)
        self.repeated[chunk.fault.name] += self.world.judge.repeated - before

    def renew(self) -> None:
        """Another world for one that is full: what heals a lost slot reads all its topics, each time."""
        if self.world.judge.judged >= FULL:
            self.finish()
            self.world.drop()
            self.world = self._new_world()

    def finish(self) -> None:
        """Judges the world to its last record, and ends it."""
        self.world.finish()
        self.judged += self.world.judge.judged

    def _new_world(self) -> World:
        self._worlds += 1
        world = self._make(self._servers, f"faults{self._worlds}", f"{self.seed}:{self._worlds}", self._rate)
        world.start()
        return world

    def _until_it_runs(self) -> None:
        self.world.streams = [stream for stream in self.world.streams if stream.exit_code is None]
        if not self.world.streams:
            self.world.start_stream().wait_ready()


@contextmanager
def matrix(seed: int, rate: float, away_s: float, cache_dir: Path | None = None) -> Iterator[Matrix]:
    """Servers of its own for as long as the matrix runs."""
    with serving(cache_dir) as servers:
        running = Matrix(servers, seed, rate, away_s)
        try:
            yield running
        finally:
            running.world.stop()


class Clock:
    """Says how long what is left will take, by how long each fault's chunks have taken so far."""

    def __init__(self, todo: list[Chunk]) -> None:
        self.started = time.monotonic()
        self._left = list(todo)
        self._took: defaultdict[str, list[float]] = defaultdict(list)

    def timed(self, work: Callable[[Chunk], None], chunk: Chunk) -> float:
        began = time.monotonic()
        work(chunk)
        took = time.monotonic() - began
        self._took[chunk.fault.name].append(took / chunk.strikes)
        self._left.remove(chunk)
        return took

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started

    @property
    def left_s(self) -> float:
        known = [took for each in self._took.values() for took in each]
        mean = sum(known) / len(known) if known else 0.0
        total = 0.0
        for chunk in self._left:
            took = self._took.get(chunk.fault.name)
            total += chunk.strikes * (sum(took) / len(took) if took else mean)
        return total
