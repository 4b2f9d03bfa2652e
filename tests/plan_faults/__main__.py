"""`python -m tests.plan_faults [--repeats 20] [--rate 4] [--seed N] [--only NAME …]`."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import random
import sys
import time
import traceback
from collections import defaultdict

from projector.config import default_cache_dir
from tests.faults.matrix import Chunk, Clock, chunks
from tests.faults.stream import PRELOADED
from tests.plan_faults.matrix import Matrix, matrix
from tests.plan_faults.points import PAIRS, POINTS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.plan_faults", description=__doc__)
    parser.add_argument("--repeats", type=int, default=20, help="kills at each point in each mode")
    parser.add_argument("--rate", type=float, default=4.0, help="missions a second that become due")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="parts of names of points or modes")
    args = parser.parse_args()
    chosen = [pair for pair in PAIRS if not args.only or any(part in pair.name for part in args.only)]
    if not chosen:
        parser.error(f"no such pair; there are: {', '.join(pair.name for pair in PAIRS)}")
    cache_dir = os.environ.get("PROJECTOR_CACHE_DIR")
    for name in [name for name in os.environ if name.startswith("PROJECTOR_")]:
        if name not in ("PROJECTOR_CACHE_DIR", "PROJECTOR_PG_BINDIR"):
            del os.environ[name]
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    multiprocessing.get_context("forkserver").set_forkserver_preload([*PRELOADED, "tests.plan_faults.warm"])
    todo = chunks(chosen, args.repeats, args.repeats, args.seed)
    say(f"seed {args.seed}, {len(chosen)} pairs of a point and a mode, {args.repeats} kills each")
    with matrix(args.seed, args.rate, default_cache_dir() if cache_dir is None else cache_dir) as running:
        try:
            run(running, todo)
        except Exception:
            traceback.print_exc()
            say(f"VIOLATION with seed {args.seed}; logs in {running.world.directory}")
            raise SystemExit(1) from None
        finally:
            table(running)
    return 0


def run(running: Matrix, todo: list[Chunk]) -> None:
    clock, world = Clock(todo), running.world
    for count, chunk in enumerate(list(todo), 1):
        say(f"{count}/{len(todo)} {chunk.fault.name} #{chunk.number} x{chunk.strikes} …", end=" ")
        took = clock.timed(running.run, chunk)
        say(
            f"clean in {took:.1f} s; {world.judge.judged} due times judged;"
            f" {minutes(clock.elapsed_s)} gone, {minutes(clock.left_s)} to go"
        )
    world.finish()
    outcomes = ", ".join(f"{count} {name}" for name, count in sorted(world.judge.outcomes.items()))
    say(f"{world.kills} kills in {minutes(clock.elapsed_s)}")
    say(f"{world.judge.judged} due times, one iteration each: {outcomes}")
    asks = sum(map(len, world.double.asks.values()))
    say(f"{asks} requests to the model; {world.judge.lost} answers lost between the model and the ledger, by kills")


def table(running: Matrix) -> None:
    by_point: defaultdict[str, list[float]] = defaultdict(list)
    for name, took in running.took.items():
        by_point[name.partition("/")[0]] += took
    say(f"\n{'seconds until it fired':32} {'kills':>7} {'p50':>7} {'p99':>7} {'max':>7}")
    for point in POINTS:
        if took := sorted(by_point[point.name]):
            p50, p99 = took[len(took) // 2], took[min(len(took) - 1, len(took) * 99 // 100)]
            say(f"{point.name:32} {len(took):7} {p50:7.2f} {p99:7.2f} {took[-1]:7.2f}")


def minutes(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(seconds))


def say(text: str, end: str = "\n") -> None:
    sys.stdout.write(text + end)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
