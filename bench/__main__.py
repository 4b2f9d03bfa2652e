"""`python -m bench NAME [--json] [--quick]`."""

from __future__ import annotations

import argparse
import importlib

from bench.report import Report

NAMES = ("cdc", "fill", "latency", "llm", "plan", "rebuild", "views")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", nargs="*", choices=[*NAMES, []], help=f"one or more of: {', '.join(NAMES)}")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: to see that it runs")
    args = parser.parse_args()
    for name in args.name or NAMES:
        importlib.import_module(f"bench.{name}").run(Report(name, args.json), quick=args.quick)


if __name__ == "__main__":
    main()
