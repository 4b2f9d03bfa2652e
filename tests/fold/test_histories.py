from __future__ import annotations

import random

import pytest

from projector.devices import comparable, new_device_view
from projector.fold import Counters, derive, dump, fold, load, merge
from tests.fold.histories import HISTORIES, changes_by_record, changes_of, devices_show

RECORDS = {"tame": 98, "rough": 103}


@pytest.mark.parametrize("history", HISTORIES)
def test_the_fold_shows_what_a_new_device_shows_on_every_record(history):
    rows = changes_by_record(history)
    shown = list(devices_show(history))
    assert len(shown) == RECORDS[history]
    assert {(user, key) for user, key, _ in shown} == {place for place in rows if place[1].app_id == "ai"}
    different = {}
    for user, key, device in shown:
        ours = derive(fold(rows[user, key]))
        if (None if ours.deleted else comparable(ours.fields)) != comparable(device):
            different[user, key] = (ours.fields, device)
    assert different == {}


@pytest.mark.parametrize("history", HISTORIES)
def test_our_replica_shows_what_a_real_client_shows_on_every_record(history):
    changes = changes_of(history)
    views = {
        user: new_device_view(change for change in changes if change.user_id == user)
        for user in {change.user_id for change in changes}
    }
    different = {
        (user, key)
        for user, key, device in devices_show(history)
        if comparable(views[user].get(key)) != comparable(device)
    }
    assert different == set()


@pytest.mark.parametrize("history", HISTORIES)
def test_any_order_any_batching_and_repetition_give_the_same_state(history):
    shuffle = random.Random(20261125)
    for changes in changes_by_record(history).values():
        straight = fold(changes)
        mixed = [*changes, *shuffle.sample(changes, len(changes) // 2)]
        shuffle.shuffle(mixed)
        middle = len(mixed) // 2
        merged = merge(fold(mixed[:middle]), load(dump(fold(mixed[middle:]))))
        assert dump(fold(mixed)) == dump(straight) == dump(merged)
        assert derive(merged) == derive(straight)


def test_only_the_tool_client_leaves_a_key_without_a_stamp():
    counters = {history: Counters() for history in HISTORIES}
    for history in HISTORIES:
        for changes in changes_by_record(history).values():
            fold(changes, counters[history])
    assert counters["tame"] == Counters(changes=715)
    assert counters["rough"] == Counters(changes=921, unstamped_keys=1)
