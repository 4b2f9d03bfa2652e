"""The rules of the fold, one by one: paths, parents and children, instants, deletes, odd keys."""

from __future__ import annotations

import pytest

from projector.fold import Counters, State, apply, derive, fold, parse_instant, replaced_by
from projector.fold.paths import insert_path, update_path
from tests.fold.rows import at, delete, fields, insert, record, row, unstamped, update, us

DAILY = {"kind": "daily", "atHour": 9, "atMinute": 30}


def mission(created: float = 0, **data: object):
    return insert(created, {"createdAt": at(created), "updatedAt": at(created), **data})


# Paths


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("title", ("title",)),
        ("cadence.atHour", ("cadence", "atHour")),
        ("policy.tools.create_task", ("policy", "tools", "create_task")),
        ("", ("",)),
        (".", (".",)),
        ("a.", ("a.",)),
        (".a", (".a",)),
        ("a..b", ("a..b",)),
        ("__proto__", ("__proto__",)),
        ("constructor.name", ("constructor", "name")),
        *[(key, None) for key in ("id", "updatedAt", "userId", "__fieldMeta", "_updatedAtIndex", "__lastActor")],
        *[(key, None) for key in ("__fieldTimestamps", "__fieldActors", "id.x", "userId.name", "__fieldMeta.title")],
    ],
)
def test_a_key_of_an_update_is_a_path(key, path):
    assert update_path(key) == path


@pytest.mark.parametrize(("key", "path"), [("a.b", ("a.b",)), ("a", ("a",)), ("id", None), ("__fieldMeta", None)])
def test_a_key_of_an_insert_is_a_name(key, path):
    assert insert_path(key) == path


def test_a_dotted_key_of_an_insert_stands_beside_the_object():
    assert fields(insert(0, {"a.b": 1, "a": {"b": 2}}), update(1, {"a.b": 3})) == {"a.b": 1, "a": {"b": 3}}


def test_a_child_is_written_into_its_parent():
    assert fields(mission(cadence=DAILY), update(1, {"cadence.atHour": 7}))["cadence"] == {**DAILY, "atHour": 7}


def test_a_removed_child_is_null():
    assert fields(mission(cadence=DAILY), update(1, {"cadence.atMinute": None}))["cadence"]["atMinute"] is None


def test_arrays_are_values_and_nothing_is_written_into_them():
    assert fields(mission(inputs=[1, 2]), update(1, {"inputs.0": 9}))["inputs"] == [1, 2]


# Parent and child


def test_a_later_row_of_the_parent_replaces_the_whole_object_whatever_the_stamps_of_its_children():
    changes = [
        mission(cadence=DAILY),
        update(1, {"cadence.atHour": 7}, 500),
        update(2, {"cadence": {"kind": "x"}}, 400),
    ]
    assert fields(*changes)["cadence"] == {"kind": "x"}
    assert replaced_by(fold(changes).writes, ("cadence", "atHour")) == ("cadence",)


def test_a_later_row_of_the_child_shows_although_its_stamp_is_older_than_the_parents():
    assert fields(mission(cadence=DAILY), update(9, {"cadence.atHour": 7}, -100))["cadence"]["atHour"] == 7


def test_a_losing_write_of_the_parent_hides_no_child():
    changes = [mission(10, cadence=DAILY), update(11, {"cadence.atHour": 7}), update(12, {"cadence": {}}, 5)]
    assert fields(*changes)["cadence"] == {**DAILY, "atHour": 7}


def test_a_child_that_lost_in_time_stays_hidden_although_it_came_after_the_parent():
    changes = [
        mission(cadence=DAILY),
        update(1, {"cadence.atHour": 7}, 100),
        update(2, {"cadence": {"kind": "x"}}, 50),
        update(3, {"cadence.atHour": 8}, 80),
    ]
    assert fields(*changes)["cadence"] == {"kind": "x"}


def test_one_row_that_writes_parent_and_child_shows_the_parent_alone():
    assert fields(update(1, {"a": {"b": 1}, "a.b": 2})) == {"a": {"b": 1}}


@pytest.mark.parametrize("falsy", [None, False, 0, 0.0, ""])
def test_below_nothing_and_below_falsy_values_a_child_makes_an_object(falsy):
    assert fields(mission(a=falsy), update(1, {"a.b.c": 1}))["a"] == {"b": {"c": 1}}
    assert fields(update(1, {"a.b.c": 1})) == {"a": {"b": {"c": 1}}}


@pytest.mark.parametrize("solid", ["x", 1, True, [], [1], 0.5])
def test_below_any_other_value_that_is_no_object_a_child_does_not_show(solid):
    assert fields(mission(a=solid), update(1, {"a.b": 1}))["a"] == solid
    assert fields(mission(a={"b": solid}), update(1, {"a.b.c": 1}))["a"] == {"b": solid}


def test_a_grandchild_is_hidden_by_any_later_ancestor():
    assert fields(update(1, {"a.b.c": 1}), update(2, {"a.b": {}}), update(3, {"a.d": 1})) == {"a": {"b": {}, "d": 1}}
    assert fields(update(1, {"a.b.c": 1}), update(2, {"a": None})) == {"a": None}


def test_deriving_never_writes_into_the_values_of_the_state():
    state = fold([mission(policy={"tools": {"a": "deny"}}), update(1, {"policy.tools.a": "auto"})])
    assert derive(state, share=True).fields["policy"] == {"tools": {"a": "auto"}}
    assert state.writes["policy",].value == {"tools": {"a": "deny"}}


# Instants


def test_ties_of_instants_go_to_the_later_row_then_to_the_larger_id():
    assert fields(update(1, {"a": 1}, 5), update(2, {"a": 2}, 5)) == {"a": 2}
    assert fields(update(1, {"a": 1}, 5, number=2), update(1, {"a": 2}, 5, number=1)) == {"a": 1}


@pytest.mark.parametrize("slot", [None, "", "garbage", 5, [], {}, {"at": None}, {"at": 5}, {"at": ""}])
def test_an_update_without_a_usable_stamp_loses_against_any_stamped_write(slot):
    late = row("update", 99, {"title": "late"}, {"title": slot})
    assert fields(mission(title="first"), late)["title"] == "first"
    assert fields(unstamped(1, {"title": "a"}), late)["title"] == "late"


def test_an_insert_takes_its_time_from_updated_at_then_from_created_at_then_has_none():
    both = insert(0, {"a": 1, "updatedAt": at(7), "createdAt": at(3)})
    assert record(both).updated_at_us == us(7)
    assert record(insert(0, {"a": 1, "updatedAt": "?", "createdAt": at(3)})).updated_at_us == us(7 - 4)
    assert record(insert(0, {"a": 1})).updated_at_us is None


def test_a_stamp_of_a_key_that_the_row_does_not_carry_says_nothing():
    shown = record(mission(title="a"), row("update", 1, {"title": "b"}, {"title": at(1), "note": at(99)}))
    assert "note" not in shown.fields
    assert shown.updated_at_us == us(1)


def test_an_inserts_own_stamp_comes_before_its_times():
    assert record(insert(0, {"a": 1, "updatedAt": at(7)}, {"a": at(9)})).updated_at_us == us(9)
    assert record(insert(0, {"a": 1, "updatedAt": at(7)}, {"a": "?"})).updated_at_us == us(7)


def test_offline_create_and_edit_pushed_together_keep_the_edit():
    assert fields(mission(title="first"), update(0, {"title": "edited"}, 0.5, number=1))["title"] == "edited"


def test_a_stamp_in_the_future_counts_and_is_counted_but_not_clamped():
    counters = Counters()
    state = fold([mission(title="a"), update(1, {"title": "b"}, 1e6), update(2, {"title": "c"})], counters)
    assert derive(state).fields["title"] == "b"
    assert derive(state).updated_at_us == us(1e6)
    assert counters.future_stamps == 1


def test_what_is_odd_is_counted():
    counters = Counters()
    changes = [
        insert(0, None),
        unstamped(1, {"a": 1, "b": 2}),
        row("update", 2, {"a": 1, "b": 2, "id": 3}, {"a": "?", "b": "", "id": at(1)}),
        delete(3, "?"),
    ]
    fold(changes, counters)
    assert counters == Counters(changes=4, unstamped_keys=4, invalid_stamps=2, null_data=1, stripped_keys=1)


# Deletes


def test_a_delete_writes_deleted_at_and_a_newer_null_restores():
    deleted = [mission(title="a"), delete(1, at(1))]
    assert record(*deleted).deleted
    assert record(*deleted).deleted_at_us == us(1)
    assert record(*deleted).fields["title"] == "a"
    restored = record(*deleted, update(2, {"deletedAt": None}))
    assert not restored.deleted
    assert restored.deleted_at_us is None
    assert record(*deleted, update(2, {"deletedAt": None}, 0.5)).deleted


def test_a_delete_is_as_old_as_the_time_it_names():
    assert not record(mission(), update(5, {"deletedAt": None}, 5), delete(6, at(4))).deleted
    assert record(mission(), update(5, {"deletedAt": None}, 5), delete(6, at(5))).deleted


def test_edits_of_a_deleted_record_are_kept_under_the_deletion():
    shown = record(mission(title="a"), delete(1, at(1)), update(2, {"title": "b"}))
    assert shown.deleted
    assert shown.fields["title"] == "b"


def test_an_update_may_delete_too():
    assert record(mission(), update(1, {"deletedAt": at(1)})).deleted_at_us == us(1)


def test_a_deleted_at_that_is_no_instant_deletes_at_the_time_of_its_row():
    assert record(unstamped(0, {"a": 1}), delete(1, "yesterday")).deleted_at_us == us(1)


@pytest.mark.parametrize("value", [None, False, 0, "", [], {}, 1, True])
def test_only_a_text_deletes(value):
    assert not record(mission(), update(1, {"deletedAt": value})).deleted


@pytest.mark.parametrize("data", [{}, {"deletedAt": None}, {"deletedAt": ""}, {"deletedAt": 5}, {"title": "x"}])
def test_a_delete_without_a_time_is_a_tombstone_until_a_later_insert(data):
    gone = [mission(title="a"), row("delete", 3, data)]
    assert record(*gone).deleted
    assert record(*gone).deleted_at_us == us(3)
    assert record(*gone, update(9, {"title": "b", "deletedAt": None})).deleted
    assert record(*gone, mission(2)).deleted
    back = record(*gone, update(9, {"title": "b"}), mission(4, title="c"))
    assert not back.deleted
    assert back.fields["title"] == "b"


def test_a_tombstone_and_an_insert_of_one_moment_are_ordered_by_their_ids():
    assert record(mission(0, title="a"), delete(3, number=2), insert(3, {"title": "b"}, number=1)).deleted
    assert not record(mission(0, title="a"), delete(3, number=1), insert(3, {"title": "b"}, number=2)).deleted


def test_a_delete_before_the_row_that_made_the_record_is_passed_over():
    early = [delete(1, at(9)), delete(2)]
    assert record(*early).deleted
    assert record(early[0]).deleted_at_us == us(9)
    assert record(*early, unstamped(0, {"title": "a"})).deleted
    for made in (mission(3), insert(3, None), update(3, {"title": "a"}), update(3, {"title": "a"}, "")):
        assert not record(*early, made).deleted
        assert record(*early, made, delete(4, at(4))).deleted_at_us == us(4)
    assert not record(early[0], update(3, {"deletedAt": None}, 3)).deleted


def test_a_delete_that_was_passed_over_counts_when_an_earlier_row_made_the_record():
    early = [delete(1, at(9)), delete(2, at(8)), delete(3, at(7)), mission(4)]
    assert not record(*early).deleted
    assert record(*early, update(2.5, {"title": "a"})).deleted_at_us == us(7)
    assert record(*early, update(1.5, {"title": "a"})).deleted_at_us == us(8)
    assert record(*early, update(0, {"title": "a"})).deleted_at_us == us(9)
    restored = update(5, {"deletedAt": None}, 8.5)
    assert not record(*early, restored, update(1.5, {"title": "a"})).deleted
    assert record(*early, restored, update(0, {"title": "a"})).deleted


def test_few_deletes_are_kept_of_many_that_are_passed_over():
    repeated = [delete(number, at(number)) for number in range(50)]
    assert [write.value for write in fold(repeated).early] == [at(49)]
    assert fold([*repeated, mission(60), update(61, {"deletedAt": None})]).early == ()


# Identity, partial records, odd rows


def test_a_record_known_by_updates_alone_is_partial_until_an_insert_with_data():
    assert not record(update(1, {"state": "active"})).complete
    assert not record(update(1, {"state": "active"}), insert(2, None)).complete
    assert record(update(1, {"state": "active"}), insert(2, {})).complete


def test_identity_and_bookkeeping_are_no_fields():
    data = {"id": "evil", "updatedAt": at(1), "userId": "u", "__fieldMeta": {}, "_updatedAtIndex": "x", "ok": 1}
    assert fields(insert(0, data)) == {"ok": 1}
    assert fields(update(0, {**data, "__fieldActors": {}})) == {"ok": 1}


def test_prototype_keys_are_ordinary_text():
    assert fields(update(0, {"__proto__": 1, "constructor.name": 2})) == {"__proto__": 1, "constructor": {"name": 2}}


def test_unknown_keys_stay():
    assert fields(insert(0, {"x y": 1, "ünïcode": None})) == {"x y": 1, "ünïcode": None}


def test_an_empty_update_changes_nothing_but_the_newest_time_seen():
    state = fold([mission(title="a")])
    before = derive(state)
    assert apply(state, update(5, {}))
    assert derive(state) == before
    assert state.newest_us == us(5)


def test_null_data_is_an_empty_object():
    for op in ("insert", "update"):
        assert record(row(op, 0, None)).fields == {}
    assert record(row("delete", 0, None)).deleted


def test_the_space_is_carried_from_the_latest_row_that_names_one():
    changes = [
        row("insert", 0, {"a": 1}, space_id="s1"),
        row("update", 1, {}, space_id="s2"),
        row("update", 2, {}),
    ]
    assert record(*changes).space_id == record(*reversed(changes)).space_id == "s2"
    assert record(update(0, {})).space_id is None


def test_an_unknown_operation_is_refused():
    with pytest.raises(ValueError, match="upsert"):
        apply(State(), row("upsert", 0, {}))


def test_a_writer_finds_the_newest_instant_of_the_paths_it_writes():
    state = fold([mission(title="a"), update(1, {"iterations": []}, 50), unstamped(2, {"note": 1})])
    assert state.newest_instant([("iterations",), ("title",)]) == us(50)
    assert state.newest_instant([("title",)]) == parse_instant(at(0))
    assert state.newest_instant([("note",), ("missing",)]) is None
