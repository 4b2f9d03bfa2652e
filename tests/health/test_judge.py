from __future__ import annotations

import pytest

from projector.health.judge import Judge, Seen

PATIENCE_S = 10.0


def looked(*looks: tuple[float, Seen | None], longest_look_s: float = 3.0) -> list[tuple[str, float]]:
    judge = Judge(longest_look_s)
    verdicts = [judge.look(now, seen, PATIENCE_S) for now, seen in looks]
    return [(verdict.state, verdict.standing_s) for verdict in verdicts]


def test_a_part_that_stands_still_with_something_to_do_is_stalled_when_its_patience_is_over():
    seen = [(now, Seen(7)) for now in range(0, 16, 3)]
    assert looked(*seen) == [("moving", 0), *(("moving", s) for s in (3, 6, 9)), ("stalled", 12), ("stalled", 15)]


def test_a_part_that_moves_is_not_stalled_however_slow():
    assert {state for state, _ in looked(*((now, Seen(now // 9)) for now in range(0, 60, 3)))} == {"moving"}


def test_a_part_without_anything_to_do_is_idle_and_its_patience_begins_when_something_comes():
    idle = [(now, Seen(7, ahead=False)) for now in range(0, 60, 3)]
    assert looked(*idle, (60, Seen(7)), (63, Seen(7)))[-3:] == [("idle", 0), ("moving", 3), ("moving", 6)]


def test_a_part_that_waits_for_a_server_is_not_stalled_and_gets_all_its_patience_afterwards():
    waiting = [(now, None) for now in range(9, 60, 3)]
    states = looked((0, Seen(7)), (3, Seen(7)), (6, Seen(7)), *waiting, (60, Seen(7)), (63, Seen(7)))
    assert states[3:] == [("waiting", 0)] * len(waiting) + [("moving", 0), ("moving", 3)]


def test_the_time_in_which_the_whole_process_was_paused_does_not_count():
    assert looked((0, Seen(7)), (3, Seen(7)), (3600, Seen(7)))[-1] == ("moving", 6)


@pytest.mark.parametrize("after", [Seen(8), Seen(7, ahead=False)])
def test_a_stalled_part_that_goes_on_is_not_stalled(after):
    assert looked(*((now, Seen(7)) for now in range(0, 16, 3)), (18, after))[-1][0] in ("moving", "idle")
