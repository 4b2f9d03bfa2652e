"""A sample of the matrix that `python -m tests.faults` runs whole: every kind of fault, a few times and short."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.faults import FAULTS, Fault
from tests.faults.judge import NOTHING
from tests.faults.matrix import Chunk, Matrix, matrix

SEED = 20_261_125
KILLS = 2
# A new installation or broker for each takes its time; the other points of a fill are struck without a slot.
LONG = {
    "broker stopped",
    "cdc.before_slot (history)",
    "cdc.after_recorded (history)",
    "cdc.fill_before_send (history)",
    "cdc.fill_after_checkpoint (history)",
    "cdc.fill_finished (history)",
}
SAMPLE = [fault for fault in FAULTS if fault.name not in LONG]


@pytest.fixture(scope="module")
def running(cache_dir: Path) -> Iterator[Matrix]:
    with matrix(SEED, rate=200, away_s=2, cache_dir=cache_dir) as matrix_at_work:
        yield matrix_at_work


def strikes(fault: Fault) -> int:
    """Several for what takes little time: points that every stream passes."""
    return KILLS if fault.name.startswith("cdc.") and fault.allowed == NOTHING and fault.share == 1 else 1


@pytest.mark.parametrize("fault", SAMPLE, ids=[fault.name for fault in SAMPLE])
def test_nothing_is_lost_doubled_or_confirmed_too_early_after(running: Matrix, fault: Fault) -> None:
    running.run(Chunk(fault, 0, strikes(fault)))


def test_everything_committed_was_published_and_nothing_else(running: Matrix) -> None:
    running.finish()
    assert running.judged > 1000
