from __future__ import annotations

from projector.cdc.pace import Pace


def test_what_comes_early_waits_until_its_time() -> None:
    pace = Pace(20, now=100.0)
    assert pace.wait_s(10, now=100.125) == 0.375
    assert pace.wait_s(10, now=100.5) == 0.5


def test_a_pause_is_not_made_up_for() -> None:
    pace = Pace(20, now=100.0)
    assert pace.wait_s(10, now=160.0) == 0
    assert pace.wait_s(10, now=160.0) == 0.5


def test_without_a_limit_nothing_waits() -> None:
    assert Pace(0, now=100.0).wait_s(1_000_000, now=100.0) == 0
