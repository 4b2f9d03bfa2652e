"""`python -m tests.view_faults [--repeats 5] [--slow-repeats 2] [--rate 40] [--seed N] [--only NAME …]`."""

from __future__ import annotations

import sys

from tests.faults.__main__ import struck
from tests.faults.command import choose, options, say, told, undisturbed
from tests.faults.matrix import Chunk, Matrix, chunks
from tests.view_faults.faults import FAULTS
from tests.view_faults.matrix import matrix
from tests.view_faults.world import ViewWorld


def main() -> int:
    parser = options("tests.view_faults", __doc__, repeats=5, rate=40.0)
    parser.add_argument("--slow-repeats", type=int, default=2, help="for faults that take long by their nature")
    args = parser.parse_args()
    chosen = choose(parser, "fault", FAULTS, args.only)
    undisturbed("aiokafka", "psycopg")
    say(f"seed {args.seed}, {len(chosen)} faults")
    todo = chunks(chosen, args.repeats, args.slow_repeats, args.seed)[args.skip :]
    with matrix(args.seed, args.rate) as running:
        return struck(running, todo, chosen, run)


def run(running: Matrix, todo: list[Chunk]) -> None:
    world = running.world
    assert isinstance(world, ViewWorld)
    for _ in told(todo, running.run, lambda: f"{world.verified} rows verified"):
        pass
    world.finish()
    say(f"all {world.verified} rows verified in all are the log's, and all views rebuilt are the same")


if __name__ == "__main__":
    sys.exit(main())
