"""The cases that a merge must decide, by their numbers in the specification, as this fold decides them.

Numbers 25, 27, 28, 29, 30 and 31 are about decoding, erasure, planning and sizes, and are not decided here.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from projector.fold import derive, dump, fold, format_instant, parse_instant
from tests.fold.rows import at, delete, fields, insert, record, row, unstamped, update, us


def born(created: float = 0, **data: object):
    return insert(created, {"createdAt": at(created), **data})


def test_case_1_a_text_stamp_is_an_instant_in_microseconds():
    assert parse_instant("2026-06-01T12:00:00.0000019+02:00") == us(0) + 1


def test_case_2_of_an_object_stamp_only_its_time_counts():
    one, other = ({"at": at(5), "origin": origin, "actor": {"kind": origin}} for origin in ("user", "agent"))
    assert fields(update(1, {"a": 1}, one), update(2, {"a": 2}, other)) == {"a": 2}
    assert fields(update(1, {"a": 1}, one), update(2, {"a": 2}, at(4))) == {"a": 1}


def test_case_3_an_unstamped_insert_has_the_time_of_its_record_and_never_that_of_its_row():
    assert fields(born(0, a=1), update(1, {"a": 2}), born(0, a=1), insert(9, {"a": 3}))["a"] == 2


def test_case_4_an_unstamped_update_loses_against_any_stamp():
    assert fields(born(0, a=1), unstamped(9, {"a": 2}))["a"] == 1


def test_case_5_a_stamp_that_is_none_is_a_missing_one():
    assert fields(born(0, a=1), update(9, {"a": 2}, "soon"))["a"] == 1
    assert fields(insert(0, {"a": 1, "createdAt": at(5)}, {"a": "soon"}), update(4, {"a": 2}))["a"] == 1


def test_case_6_a_stamp_in_the_future_keeps_its_place():
    assert fields(born(0, a=1), update(1, {"a": 2}, "2099-01-01T00:00:00.000Z"), update(2, {"a": 3}))["a"] == 2


def test_case_7_equal_instants_go_to_the_later_row_then_to_the_larger_id():
    same = [update(1, {"a": number}, 5, number=number) for number in (3, 1, 2)]
    assert fields(*same) == {"a": 3}
    assert fields(*same, update(2, {"a": 0}, 5, number=0)) == {"a": 0}


def test_case_8_a_record_that_begins_with_an_update_is_partial_whatever_fields_it_has():
    change = update(0, {"state": "active", "objective": "x", "cadence": {"kind": "manual"}})
    assert not record(change).complete
    assert record(change, born(1)).complete


def test_case_9_null_data_is_empty_and_leaves_the_record_partial():
    assert record(insert(0, None)).fields == {}
    assert not record(insert(0, None)).complete


def test_case_11_the_id_of_a_record_is_not_its_datas():
    assert "id" not in fields(born(0, a=1, id="other"), update(1, {"id": "third"}))


def test_case_12_bookkeeping_is_stripped():
    assert set(fields(born(0, a=1, __fieldMeta={"a": "x"}, _updatedAtIndex="y", userId="z"))) == {"a", "createdAt"}


def test_case_13_a_delete_with_a_time_is_a_write_of_it():
    assert record(born(), delete(9, at(5))).fields["deletedAt"] == at(5)
    assert record(born(), update(6, {"deletedAt": None}), delete(9, at(5))).fields["deletedAt"] is None


def test_case_14_a_delete_without_one_is_a_tombstone_at_its_row():
    assert record(born(), delete(9)).deleted_at_us == us(9)


@pytest.mark.parametrize("time", [3, 20])
def test_case_15_an_insert_after_a_soft_delete_merges_and_the_record_stays_deleted(time):
    shown = record(born(0, a=1), delete(9, at(9)), insert(10, {"a": 2, "createdAt": at(time)}))
    assert shown.deleted
    assert shown.fields["a"] == 2


def test_case_16_an_insert_of_later_order_ends_a_tombstone_whatever_its_time():
    assert not record(born(0, a=1), delete(9), insert(10, {"a": 2, "createdAt": at(-50)})).deleted
    assert record(born(0, a=1), delete(9), insert(8, {"a": 2, "createdAt": at(50)})).deleted


def test_case_17_an_update_after_a_tombstone_stays_hidden():
    assert record(born(0, a=1), delete(9), update(10, {"a": 2})).deleted


def test_case_18_a_newer_null_undeletes():
    assert not record(born(), delete(9, at(9)), update(10, {"deletedAt": None})).deleted


def test_case_19_the_state_stays_under_a_deletion():
    assert len(dump(fold([born(0, a=1), delete(9), update(10, {"a": 2})]))["w"]) == 2


def test_case_20_the_same_change_again_has_no_effect():
    changes = [born(0, a=1), update(1, {"a": 2}), delete(2)]
    assert dump(fold(changes * 3)) == dump(fold(changes))


def test_case_21_a_repeated_push_shows_the_same_record():
    pushed = [born(0, a={"b": 1}), update(1, {"a.b": 2, "c": 3}), update(2, {"c": 4})]
    again = [
        replace(change, id=f"f{change.id[1:]}", created_at_us=change.created_at_us + 60_000_000) for change in pushed
    ]
    assert fields(*pushed, *again) == fields(*pushed) == {"createdAt": at(0), "a": {"b": 2}, "c": 4}


def test_case_22_a_row_that_commits_late_counts_like_any_other():
    rows = [update(2, {"a": "tx2"}), update(1, {"a": "tx1", "b": 1})]
    assert fields(*rows) == {"a": "tx2", "b": 1}


def test_case_23_unknown_keys_stay_as_they_are():
    assert fields(update(0, {"whatEver": {"x": [1]}})) == {"whatEver": {"x": [1]}}


def test_case_24_null_is_a_value():
    assert fields(born(0, a=1), update(1, {"a": None}))["a"] is None


def test_case_26_a_space_changes_neither_the_identity_nor_the_fields():
    inside = row("update", 1, {"a": 2}, {"a": at(1)}, space_id="s")
    assert derive(fold([born(0, a=1), inside])).fields == {"createdAt": at(0), "a": 2}


def test_emitted_stamps_always_have_three_digits():
    assert format_instant(us(0) + 999) == "2026-06-01T10:00:00.000Z"
