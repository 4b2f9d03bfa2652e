"""The fold: changes of a record go in, the record that devices show comes out. Pure, and free of any order.

state = fold(changes)        or  apply(state, change), one at a time
record = derive(state)
load(dump(state)) == the same state;  merge(fold(a), fold(b)) == fold(a + b)

The iterations of missions have a fold of their own, in `iterations`; a view names its fold as a `Fold`.
"""

from __future__ import annotations

from projector.fold.codec import dump, load
from projector.fold.counters import Counters
from projector.fold.folds import ITERATIONS_FOLD, RECORD_FOLD, Fold
from projector.fold.paths import Path
from projector.fold.record import Record, derive, passed_over, replaced_by, standing_tombstone
from projector.fold.stamps import (
    FUTURE_TOLERANCE_US,
    NO_INSTANT,
    Order,
    Write,
    following_stamp,
    format_instant,
    parse_instant,
)
from projector.fold.state import ChangeLike, State, apply, fold, merge

FOLD_VERSION = 3
"""Raised whenever the same log would give another state or record: views then have to be rebuilt."""

__all__ = [
    "FOLD_VERSION",
    "FUTURE_TOLERANCE_US",
    "ITERATIONS_FOLD",
    "NO_INSTANT",
    "RECORD_FOLD",
    "ChangeLike",
    "Counters",
    "Fold",
    "Order",
    "Path",
    "Record",
    "State",
    "Write",
    "apply",
    "derive",
    "dump",
    "fold",
    "following_stamp",
    "format_instant",
    "load",
    "merge",
    "parse_instant",
    "passed_over",
    "replaced_by",
    "standing_tombstone",
]
