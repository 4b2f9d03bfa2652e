from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projector.devices import REMOVED, Collection
from projector.devices.replica import Key, Replica
from projector.devices.reversal import reversal
from projector.devices.revert import Reverted, revert
from projector.fold import Path, State, Write, derive, fold, replaced_by
from projector.log.actor import Actor, agent
from projector.log.change import Change
from tests.devices.plans import House, iteration, step

TASKS = Collection("todo", "tasks")
AGENT = agent("a1", "Watcher", mission_id="m1", iteration_id="I")
OTHER = agent("a1", "Watcher", mission_id="m1", iteration_id="J")
TASK = {"title": "old", "tags": ["a"], "place": {"city": "Bern", "zip": 1}}


class World(House):
    """A house whose mission has two iterations, and a device on which tools run."""

    def __init__(self, devices: int = 1) -> None:
        super().__init__(devices)
        self.server(iteration(step()), iteration(step(of="J"), name="J"))
        self.exchange()
        self.mine = self.review.device

    def as_(self, actor: Actor, device: Replica | None = None) -> Any:
        """The device, writing as `actor` once: `world.as_(AGENT).edit(...)`."""
        return _As(device or self.mine, actor)

    def revert(self, iteration_id: str = "I", changes: list[Change] | None = None) -> Reverted:
        """With everything pushed and pulled before and after."""
        self.exchange()
        found = revert(self.review, self.log.changes if changes is None else changes, "m1", iteration_id)
        self.exchange()
        return found

    def task(self, record_id: str = "t1") -> dict[str, Any]:
        record = self.mine.record(TASKS, record_id)
        assert record is not None
        return record

    def folded(self, record_id: str = "t1"):
        return derive(fold(change for change in self.log.changes if change.record_id == record_id))


class _As:
    def __init__(self, device: Replica, actor: Actor) -> None:
        self._device, self._actor = device, actor

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            before, self._device.actor = self._device.actor, self._actor
            try:
                return getattr(self._device, name)(*arguments)
            finally:
                self._device.actor = before

        return call


def key(record_id: str = "t1") -> Key:
    return Key("todo", "tasks", record_id)


def test_two_of_three_records_are_reverted_and_those_of_another_iteration_are_not():
    world = World()
    for record_id, actor in (("t1", AGENT), ("t2", AGENT), ("t3", OTHER)):
        world.as_(actor).create(TASKS, TASK, record_id)
    found = world.revert()
    assert (found.records, set(found.edited)) == (2, {key("t1"), key("t2")})
    assert [world.folded(record_id).deleted for record_id in ("t1", "t2", "t3")] == [True, True, False]
    assert world.revert() == Reverted(2, (), (), (), ())


def test_a_record_that_was_deleted_outright_cannot_be_brought_back():
    world = World()
    world.mine.create(TASKS, TASK, "t1")
    world.exchange()
    world.as_(AGENT).edit(TASKS, "t1", {"title": "new"})
    world.as_(AGENT).delete(TASKS, "t1")
    world.exchange()
    world.log.changes[-1].data.clear()  # as tools of the server delete
    found = world.revert()
    assert (found.records, found.edited, found.failed) == (1, (), ())
    assert found.unsupported == ((key(), "deleted outright, without a time: no edit brings it back"),)


def test_a_record_that_is_not_on_the_device_fails_with_its_reason_and_the_others_go_on():
    world = World(2)
    world.as_(AGENT).create(TASKS, TASK, "t1")
    world.exchange()
    world.as_(AGENT, world.reviews[1].device).create(TASKS, TASK, "t2")
    world.push(world.reviews[1])
    found = revert(world.review, world.log.changes, "m1", "I")
    assert (found.records, found.edited, found.failed) == (2, (key("t1"),), ((key("t2"), "not on this device"),))


def test_what_the_user_wrote_is_nothing_to_revert():
    world = World()
    world.mine.create(TASKS, TASK, "t1")
    assert world.revert() == Reverted(0, (), (), (), ())
    assert not world.folded().deleted
    assert "revertedAt" not in world.viewed()["I"]


def test_the_order_is_third_second_first():
    world = World()
    for record_id in ("t1", "t2", "t3"):
        world.as_(AGENT).create(TASKS, TASK, record_id)
    assert [one.record_id for one in world.revert().edited] == ["t3", "t2", "t1"]


def test_fields_go_back_to_what_they_were_and_the_user_writes_it():
    world = World()
    world.mine.create(TASKS, TASK, "t1")
    world.exchange()
    edits = {"title": "new", "place.zip": 2, "note": "added", "tags": ["a", "b"]}
    world.as_(AGENT).edit(TASKS, "t1", edits)
    found = world.revert()
    assert (found.edited, found.changed_since) == ((key(),), ())
    assert {name: world.task().get(name) for name in (*TASK, "note")} == {**TASK, "note": None}
    assert {name: world.folded().fields.get(name) for name in (*TASK, "note")} == {**TASK, "note": None}
    assert [row.actor["kind"] for row in world.log.changes if row.record_id == "t1"] == ["user", "ai", "user"]
    assert world.viewed()["I"]["revertedAt"]
    assert "revertedAt" not in world.viewed()["J"]
    count = len(world.log.changes)
    assert world.revert() == Reverted(1, (), (), (), ())
    assert len(world.log.changes) == count


def test_a_deletion_is_undone_and_a_restoration_too():
    world = World()
    for record_id in ("t1", "t2"):
        world.mine.create(TASKS, TASK, record_id)
    world.mine.delete(TASKS, "t2")
    world.exchange()
    world.as_(AGENT).delete(TASKS, "t1")
    world.as_(AGENT).restore(TASKS, "t2")
    world.exchange()
    assert [world.folded(record_id).deleted for record_id in ("t1", "t2")] == [True, False]
    assert len(world.revert().edited) == 2
    assert [world.folded(record_id).deleted for record_id in ("t1", "t2")] == [False, True]
    assert world.revert().edited == ()


def test_what_was_changed_since_stays_and_is_reported():
    world = World()
    world.mine.create(TASKS, TASK, "t1")
    world.exchange()
    world.as_(AGENT).edit(TASKS, "t1", {"title": "new", "place.zip": 2, "place.city": "Basel"})
    world.exchange()
    world.mine.edit(TASKS, "t1", {"title": "mine", "place.zip": 3})
    found = world.revert()
    assert set(found.changed_since) == {(key(), ("title",)), (key(), ("place", "zip"))}
    assert (world.task()["title"], world.task()["place"]) == ("mine", {"city": "Bern", "zip": 3})


def test_what_a_device_that_had_not_pulled_wrote_below_an_array_does_not_show_and_comes_back_with_the_object():
    world = World(2)
    world.mine.create(TASKS, TASK, "t1")
    world.exchange()
    world.as_(AGENT).edit(TASKS, "t1", {"title": "new", "place": ["a"]})
    world.reviews[1].device.edit(TASKS, "t1", {"place.zip": 3})
    assert world.revert().edited == (key(),)
    assert (world.task()["title"], world.task()["place"]) == ("old", {"city": "Bern", "zip": 3})
    assert world.revert().edited == ()


def test_what_somebody_wrote_into_the_iterations_object_stays_without_the_rest_of_it():
    world = World()
    world.mine.create(TASKS, {"title": "t"}, "t1")
    world.exchange()
    world.as_(AGENT).edit(TASKS, "t1", {"place": {"city": "Basel"}})
    world.exchange()
    world.mine.edit(TASKS, "t1", {"place.zip": 3})
    assert world.revert().edited == (key(),)
    assert world.task()["place"] == {"zip": 3}


def test_an_object_that_somebody_wrote_into_since_stays_where_it_could_not_be_otherwise():
    world = World()
    world.mine.create(TASKS, {"place": "a text"}, "t1")
    world.exchange()
    world.as_(AGENT).edit(TASKS, "t1", {"place": {"city": "Basel"}})
    world.exchange()
    world.mine.edit(TASKS, "t1", {"place.zip": 3})
    found = world.revert()
    assert (found.edited, found.changed_since) == ((), ((key(), ("place",)),))
    assert world.task()["place"] == {"city": "Basel", "zip": 3}


def test_the_same_value_written_by_somebody_else_is_his():
    world = World(2)
    world.mine.create(TASKS, TASK, "t1")
    world.exchange()
    world.as_(AGENT).edit(TASKS, "t1", {"title": "new"})
    world.log.now_us += 1000
    world.reviews[1].device.edit(TASKS, "t1", {"title": "new"})
    assert (world.revert().changed_since, world.task()["title"]) == (((key(), ("title",)),), "new")


def test_an_object_that_somebody_replaced_since_stays():
    world = World()
    world.mine.create(TASKS, TASK | {"place": None}, "t1")
    world.exchange()
    world.as_(AGENT).edit(TASKS, "t1", {"place": {"city": "Basel"}})
    world.as_(AGENT).edit(TASKS, "t1", {"place.city": "Chur"})
    world.exchange()
    world.mine.edit(TASKS, "t1", {"place": None})
    world.mine.edit(TASKS, "t1", {"place": {"city": "Genf"}})
    found = world.revert()
    assert found.edited == ()
    assert (key(), ("place", "city")) in found.changed_since
    assert world.task()["place"] == {"city": "Genf"}


def test_arrays_that_ride_along_are_neither_the_iterations_nor_a_change_since():
    world = World()
    world.mine.create(TASKS, TASK | {"links": [1]}, "t1")
    world.exchange()
    world.as_(AGENT).edit(TASKS, "t1", {"tags": ["a", "b"]})
    world.exchange()
    assert set(world.log.changes[-1].data) == {"tags", "links"}
    world.mine.edit(TASKS, "t1", {"title": "mine"})
    found = world.revert()
    assert (found.edited, found.changed_since) == ((key(),), ())
    assert (world.task()["tags"], world.task()["links"], world.task()["title"]) == (["a"], [1], "mine")


def test_an_array_that_somebody_set_rides_along_with_the_iteration_and_stays_his():
    world = World()
    world.mine.create(TASKS, TASK, "t1")
    world.exchange()
    world.as_(AGENT).edit(TASKS, "t1", {"tags": ["a", "b"]})
    world.exchange()
    world.mine.edit(TASKS, "t1", {"tags": ["c"]})
    world.exchange()
    world.as_(AGENT).edit(TASKS, "t1", {"title": "new"})
    found = world.revert()
    assert (found.edited, found.changed_since) == ((key(),), ((key(), ("tags",)),))
    assert (world.task()["title"], world.task()["tags"]) == ("old", ["c"])


def test_an_array_that_somebody_set_and_set_back_is_his():
    world = World()
    world.mine.create(TASKS, TASK, "t1")
    world.exchange()
    world.as_(AGENT).edit(TASKS, "t1", {"tags": ["a", "b"]})
    for tags in (["c"], ["a", "b"]):
        world.exchange()
        world.mine.edit(TASKS, "t1", {"tags": tags})
    found = world.revert()
    assert (found.edited, found.changed_since) == ((), ((key(), ("tags",)),))


@pytest.mark.parametrize("what", ["edited", "restored"])
def test_a_created_record_that_somebody_works_with_stays(what):
    world = World()
    world.as_(AGENT).create(TASKS, TASK, "t1")
    world.exchange()
    if what == "edited":
        world.mine.edit(TASKS, "t1", {"title": "mine"})
    else:
        world.revert()
        world.mine.restore(TASKS, "t1")
    found = world.revert()
    assert found.edited == ()
    assert (key(), ("title",) if what == "edited" else ("deletedAt",)) in found.changed_since
    assert not world.folded().deleted


def test_an_edit_that_the_log_does_not_have_yet_counts():
    world = World()
    world.mine.create(TASKS, TASK, "t1")
    world.exchange()
    world.as_(AGENT).edit(TASKS, "t1", {"title": "new", "place.zip": 2})
    world.as_(AGENT).create(TASKS, TASK, "t2")
    world.exchange()
    for record_id in ("t1", "t2"):
        world.mine.edit(TASKS, record_id, {"title": "mine"})
    found = revert(world.review, world.log.changes, "m1", "I")
    assert found.edited == (key("t1"),)
    assert set(found.changed_since) == {(key("t1"), ("title",)), (key("t2"), ("title",))}
    assert (world.task()["title"], world.task()["place"]["zip"]) == ("mine", 1)
    assert world.mine.record(TASKS, "t2")["title"] == "mine"


def test_names_that_no_edit_can_write_are_reported():
    world = World()
    world.mine.create(TASKS, TASK, "t1")
    world.exchange()
    world.as_(AGENT).edit(TASKS, "t1", {"": "x", "title": "new"})
    found = world.revert()
    assert (found.edited, found.unsupported) == ((key(),), ((key(), "a name that no edit can write"),))


def test_the_missions_own_record_is_no_effect():
    world = World()
    assert world.revert() == Reverted(0, (), (), (), ())
    assert len(world.viewed()) == 2


def test_rows_of_two_users_are_refused():
    world = World()
    world.log.changes[0].user_id = "u2"
    with pytest.raises(ValueError, match="one user"):
        reversal(world.log.changes, "m1", "I")


VALUES = st.sampled_from([None, "x", "y", 1, True, ["a"], ["a", "b"], {"zip": 1}, {"zip": 2, "city": "B"}])
EDIT = st.tuples(
    st.sampled_from(["edit", "edit", "edit", "delete", "restore"]),
    st.sampled_from(["title", "tags", "place", "place.zip", "place.city"]),
    VALUES | st.just(REMOVED),
    st.booleans(),
    st.integers(0, 1),
)


def rows_of(world: World) -> list[Change]:
    return [change for change in world.log.changes if change.record_id == "t1"]


def visible(state: State) -> dict[Path, Write]:
    """The writes that show: not replaced by a later one of an object above, and not below what is no object."""
    fields = derive(state).fields
    return {
        path: write
        for path, write in state.writes.items()
        if replaced_by(state.writes, path) is None and isinstance(value_at(fields, path[:-1]), dict)
    }


def owner(writes: dict[Path, Write], path: Path) -> Write | None:
    """The write that gives a path its value: its own, else that of the nearest above."""
    found = (writes.get(path[:depth]) for depth in range(len(path), 0, -1))
    return next((write for write in found if write is not None), None)


def value_at(value: Any, path: Path) -> Any:
    for segment in path:
        value = value.get(segment) if isinstance(value, dict) else None
    return value


@given(st.booleans(), st.lists(EDIT, max_size=10))
def test_a_reversal_is_idempotent_and_touches_only_what_is_still_the_iterations(created, edits):
    world = World(2)
    world.as_(AGENT if created else world.mine.actor).create(TASKS, TASK, "t1")
    world.exchange()
    for what, name, value, by_agent, number in edits:
        device = world.reviews[number].device
        if name == "title" and type(value) in (list, dict):
            value = "z"  # whose an array or an object is, the tests above ask
        writer = world.as_(AGENT if by_agent else device.actor, device)
        _ = writer.edit(TASKS, "t1", {name: value}) if what == "edit" else getattr(writer, what)(TASKS, "t1")
        if number:  # otherwise the next one writes without having pulled
            world.exchange()
    world.exchange()
    before = rows_of(world)
    ours = {change.id for change in before if change.actor["kind"] == "ai"}
    others = [change for change in before if change.id not in ours]
    writes, shown, without = visible(fold(before)), derive(fold(before)), derive(fold(others))
    arrays = [value for change in before if change.id in ours for value in change.data.values() if type(value) is list]
    found = world.revert()
    written = rows_of(world)[len(before) :]
    assert bool(written) == bool(found.edited)
    for row in written:
        if row.op == "delete" and created:
            assert all(write.change_id in ours or write.value in arrays for write in writes.values())
            continue
        for path, new in fold([row]).all_writes().items():
            if type(new.value) is list and new.value == value_at(shown.fields, path):
                continue  # it rides along
            write = owner(writes, path)
            assert write is not None
            assert write.change_id in ours or (type(write.value) is list and path != ("deletedAt",)), path
    after = derive(fold(rows_of(world)))
    title, deletion = owner(writes, ("title",)), owner(writes, ("deletedAt",))
    if not created and title is not None and title.change_id in ours:
        assert after.fields.get("title") == without.fields.get("title")
    if not created and deletion is not None and deletion.change_id in ours:
        assert after.deleted == without.deleted
    assert world.revert().edited == ()
    assert len(rows_of(world)) == len(before) + len(written)
