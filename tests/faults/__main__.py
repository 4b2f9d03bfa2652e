"""`python -m tests.faults [--repeats 100] [--slow-repeats 10] [--away 60] [--seed N] [--only NAME …]`."""

from __future__ import annotations

import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence

from tests.faults.budget import Budget, Part
from tests.faults.command import choose, options, say, spread, told, undisturbed
from tests.faults.faults import FAULTS, DidNotFire, Fault
from tests.faults.matrix import Chunk, Matrix, chunks, matrix

ENOUGH = 3
"""Strikes by two writers, of which one at least must double something."""


def main() -> int:
    parser = options("tests.faults", __doc__, repeats=100, rate=300.0)
    parser.add_argument("--slow-repeats", type=int, default=10, help="for faults that take long by their nature")
    parser.add_argument("--away", type=float, default=60.0, help="seconds that a stopped broker stays away")
    args = parser.parse_args()
    chosen = choose(parser, "fault", FAULTS, args.only)
    undisturbed("aiokafka", "psycopg")
    say(f"seed {args.seed}, {len(chosen)} faults")
    todo = chunks(chosen, args.repeats, args.slow_repeats, args.seed)[args.skip :]
    wall = budget(todo, args.away)
    say(wall.stated())
    began = time.monotonic()
    with matrix(args.seed, args.rate, args.away) as running:
        status = struck(running, todo, chosen, run)
    say(wall.judged(time.monotonic() - began))
    return status


def budget(todo: Sequence[Chunk], away_s: float) -> Budget:
    strikes: Counter[float] = Counter()
    for chunk in todo:
        strikes[chunk.fault.took_s + chunk.fault.away * away_s] += chunk.strikes
    return Budget([Part(count, "strikes", each_s) for each_s, count in sorted(strikes.items())])


def struck(running: Matrix, todo: list[Chunk], chosen: list[Fault], run: Callable[[Matrix, list[Chunk]], None]) -> int:
    """The exit status; data and logs stay after a violation."""
    try:
        run(running, todo)
    except Exception:
        traceback.print_exc()
        running.world.servers.keep = True
        say(f"VIOLATION with seed {running.seed}; logs and data in {running.world.servers.directory}")
        return 1
    finally:
        table(running, chosen)
    return 0


def run(running: Matrix, todo: list[Chunk]) -> None:
    for _ in told(todo, running.run, lambda: f"{running.judged + running.world.judge.judged} records judged"):
        running.renew()
    running.finish()
    for fault in FAULTS:
        if fault.allowed.repeats and len(running.recoveries[fault.name]) >= ENOUGH and not running.repeated[fault.name]:
            raise DidNotFire(f"{fault.name}: two writers overlapped, and no record came again")
    again = ", ".join(f"{count} after {name}" for name, count in running.repeated.most_common() if count)
    say(f"all {running.judged} records found as committed; came again where they may: {again or 'none'}")


def table(running: Matrix, chosen: list[Fault]) -> None:
    say(f"\n{'recovery in seconds':32} {'repeats':>7} {'p50':>7} {'p99':>7} {'max':>7}")
    for fault in chosen:
        say(spread(fault.name, running.recoveries[fault.name]))


if __name__ == "__main__":
    sys.exit(main())
