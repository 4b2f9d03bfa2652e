"""Python's cycle collector, for a process that holds millions of values of which none forms a cycle."""

from __future__ import annotations

import gc

LIVE = 100_000
FILL = 5_000_000
"""More than a fill holds at once: it ends, and what it makes is looked at for nothing, a seventh of its time."""


def relax(young: int = LIVE) -> None:
    """Has it look after `young` new values, and never at what exists now.

    With its defaults it takes half of a fold's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(young, 20, 100)
