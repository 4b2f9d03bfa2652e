"""`python -m tests.view_faults [--repeats 5] [--slow-repeats 2] [--rate 40] [--seed N] [--only NAME …]`."""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import traceback

from tests.faults.__main__ import minutes, say, table
from tests.faults.matrix import Chunk, Clock, Matrix, chunks
from tests.view_faults.faults import FAULTS
from tests.view_faults.matrix import matrix
from tests.view_faults.world import ViewWorld


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.view_faults", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--slow-repeats", type=int, default=2, help="for faults that take long by their nature")
    parser.add_argument("--rate", type=float, default=40.0, help="rows a second")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="names, or beginnings of names")
    args = parser.parse_args()
    chosen = [fault for fault in FAULTS if not args.only or fault.name.startswith(tuple(args.only))]
    if not chosen:
        parser.error(f"no such fault; there are: {', '.join(fault.name for fault in FAULTS)}")
    for name in [name for name in os.environ if name.startswith("PROJECTOR_")]:
        if name not in ("PROJECTOR_CACHE_DIR", "PROJECTOR_PG_BINDIR"):
            del os.environ[name]

    # That clients go away is what this is about.
    for library in ("aiokafka", "psycopg"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    say(f"seed {args.seed}, {len(chosen)} faults")
    todo = chunks(chosen, args.repeats, args.slow_repeats, args.seed)
    with matrix(args.seed, args.rate) as running:
        try:
            run(running, todo)
        except Exception:
            traceback.print_exc()
            running.world.servers.keep = True
            say(f"VIOLATION with seed {args.seed}; logs and data in {running.world.servers.directory}")
            return 1
        finally:
            table(running, chosen)
    return 0


def run(running: Matrix, todo: list[Chunk]) -> None:
    clock = Clock(todo)
    world = running.world
    assert isinstance(world, ViewWorld)
    for count, chunk in enumerate(todo, 1):
        say(f"{count}/{len(todo)} {chunk.fault.name} #{chunk.number} x{chunk.strikes} …", end=" ")
        took = clock.timed(running.run, chunk)
        say(
            f"clean in {took:.1f} s; {world.verified} rows verified;"
            f" {minutes(clock.elapsed_s)} gone, {minutes(clock.left_s)} to go"
        )
    world.finish()
    say(f"all {world.verified} rows verified in all are the log's, and all views rebuilt are the same")


if __name__ == "__main__":
    sys.exit(main())
