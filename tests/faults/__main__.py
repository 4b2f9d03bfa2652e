"""`python -m tests.faults [--repeats 100] [--slow-repeats 10] [--away 60] [--seed N] [--only NAME …]`."""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import time
import traceback

from tests.faults.faults import FAULTS, Fault
from tests.faults.matrix import Clock, Matrix, chunks, matrix


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--slow-repeats", type=int, default=10, help="for faults that take long by their nature")
    parser.add_argument("--away", type=float, default=60.0, help="seconds that a stopped broker stays away")
    parser.add_argument("--rate", type=float, default=300.0, help="rows a second")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="names, or beginnings of names")
    args = parser.parse_args()
    chosen = [fault for fault in FAULTS if not args.only or fault.name.startswith(tuple(args.only))]
    if not chosen:
        parser.error(f"no such fault; there are: {', '.join(fault.name for fault in FAULTS)}")
    for name in [name for name in os.environ if name.startswith("PROJECTOR_")]:
        if name not in ("PROJECTOR_CACHE_DIR", "PROJECTOR_PG_BINDIR"):
            del os.environ[name]

    # That servers go away is what this is about.
    for library in ("aiokafka", "psycopg"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    say(f"seed {args.seed}, {len(chosen)} faults")
    todo = chunks(chosen, args.repeats, args.slow_repeats, args.seed)
    with matrix(args.seed, args.rate, args.away) as running:
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


def run(running: Matrix, todo: list) -> None:
    clock = Clock(todo)
    for count, chunk in enumerate(todo, 1):
        say(f"{count}/{len(todo)} {chunk.fault.name} #{chunk.number} x{chunk.strikes} …", end=" ")
        took = clock.timed(running.run, chunk)
        say(
            f"clean in {took:.1f} s; {running.judged + running.world.judge.judged} records judged;"
            f" {minutes(clock.elapsed_s)} gone, {minutes(clock.left_s)} to go"
        )
        running.renew()
    running.finish()
    say(f"all {running.judged} records found as committed, {running.repeated} of them more than once where allowed")


def table(running: Matrix, chosen: list[Fault]) -> None:
    say(f"\n{'recovery in seconds':32} {'repeats':>7} {'p50':>7} {'p99':>7} {'max':>7}")
    for fault in chosen:
        took = sorted(running.recoveries[fault.name])
        if took:
            p50, p99 = took[len(took) // 2], took[min(len(took) - 1, len(took) * 99 // 100)]
            say(f"{fault.name:32} {len(took):7} {p50:7.2f} {p99:7.2f} {took[-1]:7.2f}")
        else:
            say(f"{fault.name:32} {0:7}")


def minutes(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(seconds))


def say(text: str, end: str = "\n") -> None:
    sys.stdout.write(text + end)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
