"""What the command of the matrix says of its time."""

from __future__ import annotations

from tests.faults.matrix import chunks
from tests.plan_faults.budget import ALLOWANCE, AROUND_S, KILL_S, budget_s, judged, stated
from tests.plan_faults.points import PAIRS, POINTS


def test_the_budget_is_that_of_every_kill_of_every_pair() -> None:
    todo = chunks(list(PAIRS), 20, 20, seed=1)
    kills = dict.fromkeys(KILL_S, 0)
    for pair in PAIRS:
        kills[pair.point.stream] += 20
    assert budget_s(todo) == AROUND_S + ALLOWANCE * sum(KILL_S[name] * count for name, count in kills.items())
    assert all(f"{count} {name} x" in stated(todo) for name, count in kills.items())
    assert {point.stream for point in POINTS} == KILL_S.keys()


def test_a_part_of_it_states_its_own_and_what_was_not_kept_says_so() -> None:
    some = chunks([pair for pair in PAIRS if pair.name == "sink.before_commit/normal"], 2, 2, seed=1)
    assert stated(some) == "wall budget 00:02:06: 1.5 x (2 sink x 2 s) + 120 s"
    assert "timers" not in stated(some)
    assert judged(120.0, 119.0) == "within the budget of 00:02:00"
    assert judged(120.0, 181.0) == "00:01:01 OVER the budget of 00:02:00"
