from __future__ import annotations

import random

import orjson
import pytest

from projector.fold.iterations import IterationsState, apply, as_record
from projector.fold.iterations_codec import dump
from projector.log.change import BadChange, decode
from projector.views.declared import MISSION_ITERATIONS
from projector.views.parting import Parting
from projector.views.reading import reading_of
from tests.views.log import value_of
from tests.views.test_iterations import history

READING = reading_of(MISSION_ITERATIONS)


def histories(count):
    """Changes of one mission each in the order of their topic, and the numbers to draw more from."""
    for number in range(count):
        chance = random.Random(number)
        changes = []
        for one in history(chance, "m1"):
            try:
                changes.append(decode(value_of(one)))
            except BadChange:
                continue
        if changes:
            yield chance, changes


def state_of(changes):
    state = IterationsState()
    for change in changes:
        apply(state, change)
    return orjson.loads(orjson.dumps(dump(state)))


def document(changes):
    """What is compared."""
    state = IterationsState()
    for change in changes:
        apply(state, change)
    record = as_record(state)
    shown = {"record": record.fields, "deleted": record.deleted, "complete": record.complete, "state": dump(state)}
    return orjson.loads(orjson.dumps(shown))


def test_whichever_change_a_row_lacks_is_named_if_anything_of_it_shows():
    named = 0
    for chance, changes in histories(2000):
        dropped = chance.choice(changes)
        lacking = [one for one in changes if one is not dropped]
        state = state_of(lacking) if lacking else None
        whole = state_of(changes)
        assert READING.missing(whole, changes) == set()
        assert READING.missing(state, changes) == (set() if state == whole else {dropped.id})
        found = READING.first(document(lacking), document(changes)) if lacking else None
        if found is not None:
            assert READING.parting(state, changes, found.names) == Parting(dropped.id, "not applied")
            named += 1
    assert named > 1000


def facts(item):
    """Every [row, value] that a dumped item holds."""
    yield from (item[name] for name in ("s", "p") if name in item)
    yield from item.get("1", {}).values()
    for values in item.get("f", {}).values():
        yield from values
    for step in item.get("t", {}).values():
        yield from facts(step)


def test_whichever_value_of_a_row_is_altered_its_change_is_named():
    altered = 0
    for chance, changes in histories(500):
        state = state_of(changes)
        for key, item in state["e"].items():
            held = list(facts(item))
            if not held:
                continue
            fact = chance.choice(held)
            before, fact[1] = fact[1], {"altered": True}
            owner = state["o"][fact[0]][2]
            path = ("record", "iterations", key, "iteration")
            assert READING.parting(state, changes, path) == Parting(owner, "changed in the row")
            fact[1] = before
            altered += 1
    assert altered > 500


def test_a_row_that_holds_a_change_that_is_gone_from_the_log_names_it():
    gone_ones = 0
    for chance, changes in histories(1000):
        gone = chance.choice(changes)
        left = [one for one in changes if one is not gone]
        # One of the same time that says the same would pass for it, under an altered id.
        if not left or any(one.created_at_us == gone.created_at_us for one in left):
            continue
        found = READING.first(document(changes), document(left))
        # Of the newest row that says nothing else, the state holds the time and no name.
        if found is not None and found.path != ("state", "n"):
            assert READING.parting(state_of(changes), left, found.names) == Parting(gone.id, "not in the log")
            gone_ones += 1
    assert gone_ones > 150


@pytest.mark.parametrize("state", [{}, {"o": [], "e": {"i1": {"b": 0}}, "w": []}, {"o": 1, "e": 2, "w": 3}])
def test_a_state_that_cannot_be_read_counts_as_none(state):
    [(_, changes)] = histories(1)
    assert READING.missing(state, changes) == {change.id for change in changes}


def test_what_cannot_be_read_by_ids_is_compared_by_places():
    plan = [{"id": "s1"}, {"id": "s2"}]
    entries = [{"iteration": {"id": key, "plan": plan}, "shown": True} for key in ("i1", "i2")]
    right = {"record": {"iterations": entries}, "state": {}}

    def path(iterations):
        found = READING.first({**right, "record": {"iterations": iterations}}, right)
        assert found is not None
        return found.path[1:]

    one, other = entries
    assert path(7) == ("iterations",)
    assert path([one, one]) == ("iterations", 1, "iteration", "id")
    assert path([one, {**other, "iteration": {"id": "i2", "plan": [plan[0], 7]}}]) == (
        *("iterations", "i2", "iteration", "plan", 1),
    )
    assert path([{**one, "iteration": {"id": "i1", "plan": plan[::-1]}}, other]) == (
        *("iterations", "i1", "iteration", "plan", 0, "id"),
    )
    assert path([other, one]) == ("iterations", 0, "id")
    assert READING.first(right, right) is None
