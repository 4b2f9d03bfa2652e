"""Devices edit, push and pull at random, with clocks that are wrong: the fold shows what a new device shows."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from projector.devices import new_device_view
from projector.fold import dump, fold
from tests.devices.fleet import INGREDIENTS, SEEDS, History, drive
from tests.devices.kinds import KINDS, differences, folded


@pytest.fixture(scope="module")
def rough() -> list[History]:
    return [drive(seed, rough=True) for seed in range(SEEDS)]


def test_tame_devices_agree_with_the_fold_on_every_path():
    tame = [drive(seed, rough=False) for seed in range(SEEDS)]
    assert sum((differences(history, folded(history)) for history in tame), Counter()) == {}


def test_rough_ones_differ_by_the_listed_kinds_alone(rough):
    counts = sum((differences(history, folded(history)) for history in rough), Counter())
    print(dict(counts))  # noqa: T201 - the figures of a long session
    assert set(counts) == set(KINDS)


def test_the_histories_hold_everything_that_real_ones_hold(rough):
    found = sum((history.found for history in rough), Counter())
    assert {ingredient: found[ingredient] for ingredient in INGREDIENTS if not found[ingredient]} == {}


def test_rough_rows_in_any_order_give_one_state(rough):
    shuffle = random.Random(1)
    for history in rough:
        for rows in history.rows().values():
            assert dump(fold(shuffle.sample(rows, len(rows)))) == dump(fold(rows))


def test_a_difference_of_no_listed_kind_is_refused(rough):
    history = rough[0]
    key = next(key for key in history.rows() if folded(history)(key) is not None)

    def spoilt(asked):
        shown = folded(history)(asked)
        return {**shown, "title": "of nobody"} if asked == key and shown is not None else shown

    with pytest.raises(AssertionError, match="of nobody"):
        differences(history, spoilt)


def test_a_view_is_of_one_user():
    changes = drive(1, rough=False).changes
    changes[0].user_id = "u2"
    with pytest.raises(ValueError, match="one user"):
        new_device_view(changes)


def test_the_view_of_an_empty_log_is_empty():
    assert new_device_view([]) == {}
