"""Timeline history files, as PostgreSQL writes them."""

from __future__ import annotations

import pytest

from projector.cdc.horizon import missing
from projector.cdc.timeline import switch_point

HISTORY = """1\t0/3000060\tno recovery target specified

# a comment
2\t1A/16B3740\tbefore 2026-11-25 10:00:00+00
"""


@pytest.mark.parametrize(("timeline", "lsn"), [(1, 0x3000060), (2, 0x1A016B3740), (3, None), (9, None)])
def test_the_point_at_which_a_timeline_was_left_is_found(timeline: int, lsn: int | None) -> None:
    assert switch_point(HISTORY, timeline) == lsn


def test_partitions_that_end_below_what_was_kept_of_them_are_named() -> None:
    kept = {"a": [5, 7], "gone": [3]}
    assert missing(kept, {"a": [5, 7], "new": [0]}) == []
    assert missing(kept, {"a": [5, 6]}) == ["a/1"]
    assert missing({}, {"a": [0, 0]}) == []
