"""What the commands of the fault matrices have in common: their options, their words, their figures."""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from tests.faults.matrix import Chunk, Clock


class Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


def options(module: str, doc: str | None, *, repeats: int, rate: float) -> argparse.ArgumentParser:
    """Those that every matrix has."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=doc)
    parser.add_argument("--repeats", type=int, default=repeats, help="of each fault")
    parser.add_argument("--rate", type=float, default=rate, help="of the load, in a second")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--skip", type=int, default=0, help="so many chunks of the seed's order, to go on from there")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="names, or parts of names")
    return parser


def choose(parser: argparse.ArgumentParser, what: str, there: Sequence[T], parts: Sequence[str]) -> list[T]:
    """Those of which the name has one of `parts` in it, or all; the command ends where none has."""
    chosen = [one for one in there if not parts or any(part in one.name for part in parts)]
    if not chosen:
        parser.error(f"no such {what}; there are: {', '.join(one.name for one in there)}")
    return chosen


def undisturbed(*quiet: str) -> None:
    """No setting of the caller's counts, and libraries do not tell that servers go away: that is what this is about."""
    for name in [name for name in os.environ if name.startswith("PROJECTOR_")]:
        if name not in ("PROJECTOR_CACHE_DIR", "PROJECTOR_PG_BINDIR"):
            del os.environ[name]
    for library in quiet:
        logging.getLogger(library).setLevel(logging.CRITICAL)


def told(todo: Sequence[Chunk], strike: Callable[[Chunk], None], judged: Callable[[], str]) -> Iterator[None]:
    """Strikes chunk by chunk, and says after each how long it took, what `judged` says, and what is left to do."""
    clock = Clock(list(todo))
    for count, chunk in enumerate(todo, 1):
        say(f"{count}/{len(todo)} {chunk.fault.name} #{chunk.number} x{chunk.strikes} …", end=" ")
        took = clock.timed(strike, chunk)
        say(f"clean in {took:.1f} s; {judged()}; {minutes(clock.elapsed_s)} gone, {minutes(clock.left_s)} to go")
        yield


def spread(name: str, took: Sequence[float]) -> str:
    """A line of a table whose columns are the count, p50, p99 and the largest."""
    if not took:
        return f"{name:32} {0:7}"
    ordered = sorted(took)
    p50, p99 = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    return f"{name:32} {len(ordered):7} {p50:7.2f} {p99:7.2f} {ordered[-1]:7.2f}"


def minutes(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(seconds))


def say(text: str, end: str = "\n") -> None:
    sys.stdout.write(text + end)
    sys.stdout.flush()
