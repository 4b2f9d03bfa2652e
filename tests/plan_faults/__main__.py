"""`python -m tests.plan_faults [--repeats 20] [--rate 4] [--seed N] [--only NAME …]`."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import traceback
from collections import defaultdict

from projector.config import default_cache_dir
from tests.faults.command import choose, minutes, options, say, spread, told, undisturbed
from tests.faults.matrix import Chunk, chunks
from tests.faults.stream import PRELOADED
from tests.plan_faults.budget import budget
from tests.plan_faults.matrix import Matrix, matrix
from tests.plan_faults.points import PAIRS, POINTS


def main() -> int:
    parser = options("tests.plan_faults", __doc__, repeats=20, rate=4.0)
    args = parser.parse_args()
    chosen = choose(parser, "pair", PAIRS, args.only)
    cache_dir = os.environ.get("PROJECTOR_CACHE_DIR")
    undisturbed("aiokafka")
    multiprocessing.get_context("forkserver").set_forkserver_preload([*PRELOADED, "tests.plan_faults.warm"])
    todo = chunks(chosen, args.repeats, args.repeats, args.seed)[args.skip :]
    say(f"seed {args.seed}, {len(chosen)} pairs of a point and a mode, {args.repeats} kills each")
    wall = budget(todo)
    say(wall.stated())
    began = time.monotonic()
    with matrix(args.seed, args.rate, default_cache_dir() if cache_dir is None else cache_dir) as running:
        try:
            run(running, todo)
        except Exception:
            traceback.print_exc()
            say(f"VIOLATION with seed {args.seed}; logs in {running.world.directory}")
            raise SystemExit(1) from None
        finally:
            table(running)
    say(wall.judged(time.monotonic() - began))
    return 0


def run(running: Matrix, todo: list[Chunk]) -> None:
    world, began = running.world, time.monotonic()
    for _ in told(todo, running.run, lambda: f"{world.judge.judged} due times judged"):
        pass
    world.finish()
    outcomes = ", ".join(f"{count} {name}" for name, count in sorted(world.judge.outcomes.items()))
    say(f"{world.kills} kills in {minutes(time.monotonic() - began)}")
    say(f"{world.judge.judged} due times, one iteration each: {outcomes}")
    asks = sum(map(len, world.double.asks.values()))
    say(f"{asks} requests to the model; {world.judge.lost} answers lost between the model and the ledger, by kills")


def table(running: Matrix) -> None:
    by_point: defaultdict[str, list[float]] = defaultdict(list)
    for name, took in running.took.items():
        by_point[name.partition("/")[0]] += took
    say(f"\n{'seconds until it fired':32} {'kills':>7} {'p50':>7} {'p99':>7} {'max':>7}")
    for point in POINTS:
        if took := by_point[point.name]:
            say(spread(point.name, took))


if __name__ == "__main__":
    sys.exit(main())
