"""Devices edit, push and pull at random, with clocks that are wrong: the fold shows what a new device shows."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projector.devices import AGENTS, MISSIONS, DeviceClock, Key, Replica, comparable, new_device_view
from projector.fold import derive, dump, fold
from projector.log.change import Change
from tests.devices.memory_log import MemoryLog
from tests.fold.rows import us

CADENCES = [
    {"kind": "manual"},
    {"kind": "daily", "atHour": 9, "atMinute": 30},
    {"kind": "weekly", "atHour": 9, "dayOfWeek": 1},
    {"kind": "interval", "everyMinutes": 15},
    None,
]
GRANTS = [None, {"wrappedKey": "k1", "derivation": {"version": "v1", "recordIds": ["n1"]}, "expiresAt": "x"}]
EDITS = [
    *[{"title": title} for title in "abc"],
    *[{"cadence": cadence} for cadence in CADENCES],
    *[{"grant": grant} for grant in GRANTS],
    *[{"iterations": [{"id": "i1"}]}, {"state": "paused"}, {"state": "paused", "deletedAt": None}, {}],
    *[{"policy": {"tools": {"mail": "deny"}}}, {"policy": {"tools": {"mail": "auto", "task": "deny"}, "x": None}}],
    *[{"policy.tools.mail": "propose"}, {"cadence.atHour": 7}, {"grant.derivation.recordIds": ["n1", "n2"]}],
]


def drive(seed: int, *, rough: bool, steps: int = 60) -> list[Change]:
    """A history of three devices. *Rough*: clocks off by minutes and set anew, answers lost, default agents racing."""
    dice = random.Random(seed)
    log = MemoryLog(us(100_000), seed)
    devices = [Replica("u1", client_id=f"c{number}", clock=DeviceClock(now=lambda: log.now_us)) for number in range(3)]
    for step in range(steps):
        log.now_us += dice.choice((0, 500, 7_000_000))
        device = dice.choice(devices)
        if rough and dice.random() < 0.1:
            device.clock.offset_us = dice.randint(-300, 300) * 1_000_000
        known = [(key, record) for key, record in device.records().items() if "createdAt" in record]
        doing = dice.random()
        if not known or doing < 0.1:
            collection = dice.choice((MISSIONS, AGENTS))
            racing = collection is AGENTS and rough
            record_id = "legacy:ai-default" if racing else f"{collection.table}-{step}"
            if device.record(collection, record_id) is None:
                device.create(collection, {"title": "new", "iterations": [], "cadence": CADENCES[1]}, record_id)
        elif doing < 0.65:
            key, record = dice.choice(known)
            collection = MISSIONS if key.table == "aiMissions" else AGENTS
            what = dice.choice(["delete", "restore", *["edit"] * 8])
            if what == "edit":
                device.edit(collection, key.record_id, dice.choice(EDITS))
            elif what == "delete":
                device.delete(collection, key.record_id)
            elif record.get("deletedAt"):
                device.restore(collection, key.record_id)
        elif doing < 0.85:
            log.push(device, lose_answer=rough and dice.random() < 0.2)
        else:
            log.pull(device)
    for device in devices:
        log.push(device)
    return log.changes


@pytest.mark.parametrize("rough", [False, True], ids=["tame", "rough"])
@given(seed=st.integers(0, 2**32))
def test_the_fold_shows_what_a_new_device_shows(rough, seed):
    changes = drive(seed, rough=rough)
    view = new_device_view(changes)
    rows = defaultdict(list)
    for change in changes:
        rows[Key(change.app_id, change.table, change.record_id)].append(change)
    for key, own in rows.items():
        if own[0].op != "insert":
            continue  # devices keep literal dotted keys beside the object then, and the fold does not
        shown = derive(fold(own))
        assert (None if shown.deleted else comparable(shown.fields)) == comparable(view.get(key))
        assert dump(fold(reversed(own))) == dump(fold(own))


def test_a_view_is_of_one_user():
    changes = drive(1, rough=False)
    changes[0].user_id = "u2"
    with pytest.raises(ValueError, match="one user"):
        new_device_view(changes)


def test_the_view_of_an_empty_log_is_empty():
    assert new_device_view([]) == {}
