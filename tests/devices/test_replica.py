from __future__ import annotations

import pytest

from projector.devices import AGENTS, MISSIONS, NOTES, REMOVED, DeviceClock, Replica
from projector.log import actor as actors
from tests.devices.memory_log import MemoryLog
from tests.fold.rows import at, delete, insert, row, unstamped, update, us

TITLE = {"title": "Water plants", "inputs": [], "cadence": {"kind": "daily", "atHour": 9, "atMinute": 30}}


class Hand:
    """A clock's hand, moved by the test: seconds after the start."""

    def __init__(self, seconds: float = 0) -> None:
        self.seconds = seconds

    def __call__(self) -> int:
        return us(self.seconds)


@pytest.fixture
def hand() -> Hand:
    return Hand()


@pytest.fixture
def device(hand) -> Replica:
    return Replica("u1", client_id="c1", clock=DeviceClock(now=hand), space_id="s1")


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog(us(1000))


# What devices write


def test_an_insert_carries_the_whole_record_and_no_stamps(device, log):
    device.create(MISSIONS, TITLE, "m1")
    (change,) = log.push(device)
    assert change.data == {
        **TITLE,
        "id": "m1",
        "createdAt": at(0),
        "updatedAt": at(0),
        "spaceId": "s1",
        "authorId": "u1",
        "visibility": "space",
    }
    assert (change.op, change.field_meta, change.client_id, change.space_id) == ("insert", {}, "c1", "s1")
    assert change.actor == actors.user("u1").to_json()
    assert change.origin is None


def test_an_insert_of_a_note_carries_no_time_at_all(device, log):
    device.create(NOTES, {"title": "a"}, "n1")
    (change,) = log.push(device)
    assert set(change.data) == {"id", "title", "spaceId", "authorId", "visibility"}
    assert change.app_id == "notes"


def test_an_update_names_paths_carries_every_array_and_has_one_stamp(device, hand, log):
    device.create(MISSIONS, TITLE, "m1")
    hand.seconds = 5
    device.edit(MISSIONS, "m1", {"cadence": {"kind": "daily", "atHour": 7}})
    _, change = log.push(device)
    assert change.data == {"inputs": [], "cadence.atHour": 7, "cadence.atMinute": None}
    assert change.field_meta == dict.fromkeys(change.data, at(5))
    assert "atMinute" not in device.record(MISSIONS, "m1")["cadence"]


def test_an_edit_may_name_paths_itself(device, log):
    device.create(AGENTS, {"policy": {"tools": {"a": "deny"}}}, "a1")
    device.edit(AGENTS, "a1", {"policy.tools.a": "auto", "policy.tools.b": REMOVED})
    assert log.push(device)[1].data == {"policy.tools.a": "auto"}


def test_an_edit_that_changes_nothing_is_an_empty_update(device, log):
    device.create(AGENTS, {"name": "Mana"}, "a1")
    device.edit(AGENTS, "a1", {"name": "Mana", "spaceId": "s2", "authorId": "u2", "userId": "u3"})
    change = log.push(device)[1]
    assert (change.op, change.data, change.field_meta) == ("update", {}, {})


def test_a_delete_carries_its_time_alone_and_a_restore_is_an_update(device, hand, log):
    device.create(MISSIONS, TITLE, "m1")
    hand.seconds = 3
    device.delete(MISSIONS, "m1")
    hand.seconds = 4
    device.restore(MISSIONS, "m1")
    _, deleted, restored = log.push(device)
    assert (deleted.op, deleted.data, deleted.field_meta) == ("delete", {"deletedAt": at(3)}, {})
    assert (restored.op, restored.data) == ("update", {"inputs": [], "deletedAt": None})
    assert restored.field_meta == {"inputs": at(4), "deletedAt": at(4)}


def test_an_edit_of_a_record_that_is_not_here_is_refused(device):
    with pytest.raises(KeyError):
        device.edit(MISSIONS, "m1", {"title": "x"})


def test_the_outbox_goes_out_by_the_devices_clock_even_when_that_was_set_back(device, hand, log):
    hand.seconds = 10
    device.create(MISSIONS, TITLE, "m1")
    hand.seconds = 5
    device.edit(MISSIONS, "m1", {"title": "b"})
    assert [change.op for change in log.push(device)] == ["update", "insert"]


def test_the_outbox_goes_out_in_batches(device, log):
    for _ in range(201):
        device.create(NOTES, {})
    assert [len(log.push(device)) for _ in range(3)] == [200, 1, 0]


def test_a_lost_answer_stores_the_batch_twice(device, log):
    device.create(NOTES, {"title": "a"})
    one, two = log.push(device, lose_answer=True)[0], log.push(device)[0]
    assert one.data == two.data
    assert one.id != two.id
    assert device.outbox() == []


def test_what_is_pushed_is_not_touched_by_later_edits(device, log):
    device.create(MISSIONS, TITLE, "m1")
    device.edit(MISSIONS, "m1", {"inputs": [1]})
    device.edit(MISSIONS, "m1", {"inputs": [1, 2]})
    assert [change.data["inputs"] for change in log.push(device)] == [[], [1], [1, 2]]


def test_a_clock_may_be_wrong(hand):
    assert DeviceClock(offset_us=-60_000_000, now=hand).text() == at(-60)


# What devices make of rows


def born(created: float = 0, **data: object):
    return insert(created, {"id": "m1", "createdAt": at(created), "updatedAt": at(created), **data})


def shown(device: Replica, *changes):
    for change in changes:
        device.apply(change)
    return device.record(MISSIONS, "m1")


def test_a_write_applies_when_its_stamp_is_not_below_the_stored_one_of_that_key(device):
    assert shown(device, born(title="a"), update(1, {"title": "b"}, 0))["title"] == "b"
    assert shown(device, update(2, {"title": "c"}, -1))["title"] == "b"
    assert device.stamp(MISSIONS, "m1", "title") == at(0)


def test_parent_and_child_have_stamps_of_their_own(device):
    record = shown(device, born(5, cadence={"atHour": 9}), update(6, {"cadence.atHour": 7}, 1))
    assert record["cadence"] == {"atHour": 7}
    assert shown(device, update(7, {"cadence": {}}, 5))["cadence"] == {}


@pytest.mark.parametrize(("head", "left"), [(None, {"b": 1}), ("", {"b": 1}), ("x", "x"), ([1], [1])])
def test_a_dotted_key_is_written_through_the_object(device, head, left):
    assert shown(device, born(a=head), update(1, {"a.b": 1}))["a"] == left


def test_a_record_created_from_an_update_alone_keeps_its_dotted_keys(device):
    assert shown(device, update(1, {"a.b": 1, "title": "x"})) == {"id": "m1", "a.b": 1, "title": "x"}


def test_an_empty_update_and_an_unstamped_one_create_nothing(device):
    assert shown(device, update(1, {}), unstamped(2, {"title": "x"})) is None


def test_a_key_without_a_stamp_is_never_seen_and_an_empty_stamp_loses(device):
    changes = [born(title="a"), unstamped(1, {"title": "b"}), update(2, {"title": "c", "new": 1}, "")]
    assert {key: shown(device, *changes)[key] for key in ("title", "new")} == {"title": "a", "new": 1}


def test_an_insert_without_times_is_stamped_by_the_readers_clock(device, hand):
    hand.seconds = 50
    assert shown(device, insert(0, {"title": "a"}), update(1, {"title": "b"}, 49))["title"] == "a"
    assert shown(device, update(2, {"title": "c"}, 50))["title"] == "c"


def test_a_second_insert_merges_by_its_time(device):
    changes = [born(title="a", state="x"), update(1, {"title": "b"}), born(0, title="a", state="y")]
    record = shown(device, *changes)
    assert (record["title"], record["state"]) == ("b", "y")


def test_a_soft_delete_marks_and_only_a_newer_null_restores(device):
    assert shown(device, born(), delete(1, at(5)))["deletedAt"] == at(5)
    assert shown(device, update(2, {"deletedAt": None}, 4), update(3, {"title": "b"}))["deletedAt"] == at(5)
    assert shown(device, update(4, {"deletedAt": None}, 6))["deletedAt"] is None
    assert shown(device, delete(5, at(3)))["deletedAt"] is None


def test_a_delete_without_a_time_removes_and_a_later_update_starts_anew(device):
    assert shown(device, born(title="a"), row("delete", 1, {})) is None
    assert shown(device, update(2, {"state": "b"})) == {"id": "m1", "state": "b"}


def test_a_delete_of_an_unknown_record_leaves_nothing(device):
    assert shown(device, delete(1, at(1)), row("delete", 2, {})) is None


def test_own_edits_apply_without_comparison(device, hand):
    shown(device, born(100, title="a"))
    device.edit(MISSIONS, "m1", {"title": "b"})
    assert device.record(MISSIONS, "m1")["title"] == "b"
    assert device.stamp(MISSIONS, "m1", "title") == at(0)


def test_records_are_copies(device):
    device.create(MISSIONS, TITLE, "m1")
    device.record(MISSIONS, "m1")["inputs"].append(1)
    next(iter(device.records().values()))["inputs"].append(1)
    assert device.record(MISSIONS, "m1")["inputs"] == []


def test_a_rename_by_a_device_that_has_not_pulled_removes_an_iteration(device, log, hand):
    device.create(MISSIONS, {"title": "a", "iterations": []}, "m1")
    log.push(device)
    server = update(1, {"iterations": [{"id": "i1"}]}, 1)
    hand.seconds = 2
    device.edit(MISSIONS, "m1", {"title": "b"})
    renamed = log.push(device)[0]
    new = Replica("u1")
    assert shown(new, log.changes[0], server, renamed)["iterations"] == []
