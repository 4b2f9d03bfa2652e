"""What the commands of the matrices say of their time."""

from __future__ import annotations

from tests.faults.__main__ import budget
from tests.faults.budget import ALLOWANCE, AROUND_S
from tests.faults.faults import FAULTS
from tests.faults.matrix import chunks
from tests.plan_faults import budget as plan_budget
from tests.plan_faults.budget import KILL_S
from tests.plan_faults.points import PAIRS, POINTS


def test_the_budget_is_that_of_every_strike_of_every_fault() -> None:
    each_s = {fault.name: fault.took_s + fault.away * 60 for fault in FAULTS}
    todo = chunks(list(FAULTS), 100, 10, seed=1)
    assert budget(todo, 60).seconds == AROUND_S + ALLOWANCE * sum(each_s[c.fault.name] * c.strikes for c in todo)


def test_a_server_that_stays_away_longer_takes_longer() -> None:
    [stopped] = [fault for fault in FAULTS if fault.name == "broker stopped"]
    assert stopped.away == 1
    todo = chunks([stopped], 1, 1, seed=1)
    assert budget(todo, 60).seconds - budget(todo, 10).seconds == ALLOWANCE * 50


def test_the_budget_is_that_of_every_kill_of_every_pair() -> None:
    todo = chunks(list(PAIRS), 20, 20, seed=1)
    kills = dict.fromkeys(KILL_S, 0)
    for pair in PAIRS:
        kills[pair.point.stream] += 20
    found = plan_budget.budget(todo)
    assert found.seconds == AROUND_S + ALLOWANCE * sum(KILL_S[name] * count for name, count in kills.items())
    assert all(f"{count} {name} x" in found.stated() for name, count in kills.items())
    assert {point.stream for point in POINTS} == KILL_S.keys()


def test_a_part_of_it_states_its_own_and_what_was_not_kept_says_so() -> None:
    some = chunks([pair for pair in PAIRS if pair.name == "sink.before_commit/normal"], 2, 2, seed=1)
    found = plan_budget.budget(some)
    assert found.stated() == "wall budget 00:02:06: 1.5 x (2 sink x 2 s) + 120 s"
    assert found.judged(119.0) == "all of it took 00:01:59, within the budget of 00:02:06"
    assert found.judged(187.0) == "all of it took 00:03:07, 00:01:01 OVER the budget of 00:02:06"
