"""Python's cycle collector, for a process that holds millions of values of which none forms a cycle."""

from __future__ import annotations

import gc


def relax() -> None:
    """Has it look seldom, and never at what exists now: with its defaults it takes half of a fold's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
