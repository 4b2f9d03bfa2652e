"""The effective grant: what the newest issue carried, and nothing wider."""

from __future__ import annotations

import pytest

from projector.fold import dump, fold
from tests.fold.rows import at, fields, insert, record, row, update

FIRST = {
    "wrappedKey": "key-1",
    "derivation": {"version": "v1", "missionId": "m1", "tables": ["notes"], "recordIds": ["notes:n1"]},
    "issuedAt": at(1),
    "expiresAt": at(100),
}
RENEWAL = {
    "grant.wrappedKey": "key-2",
    "grant.issuedAt": at(10),
    "grant.expiresAt": at(200),
    "grant.derivation.tables": ["notes", "tasks"],
    "grant.derivation.recordIds": ["notes:n1", "tasks:t1"],
}
RENEWED = {
    "wrappedKey": "key-2",
    "derivation": {
        "version": "v1",
        "missionId": "m1",
        "tables": ["notes", "tasks"],
        "recordIds": ["notes:n1", "tasks:t1"],
    },
    "issuedAt": at(10),
    "expiresAt": at(200),
}
BORN = insert(0, {"title": "a", "createdAt": at(0)})
ISSUED = update(1, {"grant": FIRST})


def grant(*changes):
    forwards, backwards = record(*changes).grant, record(*reversed(changes)).grant
    assert forwards == backwards
    return forwards


def test_there_is_none_before_it_is_given():
    assert grant(BORN) is None


def test_it_arrives_whole():
    assert grant(BORN, ISSUED) == FIRST
    assert grant(insert(0, {"grant": FIRST, "createdAt": at(0)})) == FIRST


def test_a_renewal_arrives_as_paths_and_inherits_version_and_mission():
    assert grant(BORN, ISSUED, update(10, RENEWAL)) == RENEWED


def test_a_renewal_whose_inherited_parts_are_stamped_later_stays_incomplete():
    later_version = update(11, {"grant.derivation.version": "v9"})
    assert "version" not in grant(BORN, ISSUED, update(10, RENEWAL), later_version)["derivation"]


def test_an_older_renewal_that_comes_late_changes_nothing():
    assert grant(BORN, update(9, {"grant": FIRST}, 50), update(10, RENEWAL)) == FIRST


def test_null_revokes_it():
    assert grant(BORN, ISSUED, update(2, {"grant": None})) is None
    assert grant(BORN, ISSUED, update(2, {"grant.wrappedKey": None})) is None


def test_a_null_stamped_before_the_issue_does_not_revoke():
    assert grant(BORN, update(1, {"grant": FIRST}, 50), update(2, {"grant": None})) == FIRST


@pytest.mark.parametrize("value", ["text", 5, [], {}, {"expiresAt": at(5)}, {**FIRST, "wrappedKey": ""}])
def test_a_whole_write_without_a_key_revokes_too(value):
    assert grant(BORN, ISSUED, update(2, {"grant": value})) is None


def test_the_arrays_of_a_stale_device_neither_widen_the_scope_nor_narrow_it():
    for ids in ([], ["notes:n1", "notes:secret"]):
        stale = update(5, {"title": "x", "grant.derivation.tables": ["all"], "grant.derivation.recordIds": ids})
        assert grant(BORN, ISSUED, stale) == FIRST
        assert fields(BORN, ISSUED, stale)["grant"]["derivation"]["recordIds"] == ids


def test_the_fragments_of_a_stale_device_do_not_revive_a_revoked_grant():
    revoked = [BORN, ISSUED, update(2, {"grant": None})]
    stale = update(5, {"grant.derivation.tables": ["notes"], "grant.derivation.recordIds": ["notes:n1"]})
    assert grant(*revoked, stale) is None
    assert fields(*revoked, stale)["grant"] == {"derivation": {"tables": ["notes"], "recordIds": ["notes:n1"]}}


def test_a_later_write_may_end_it_sooner_and_never_later():
    sooner, later = update(5, {"grant.expiresAt": at(60)}), update(6, {"grant.expiresAt": at(900)})
    assert grant(BORN, ISSUED, sooner) == {**FIRST, "expiresAt": at(60)}
    assert grant(BORN, ISSUED, later) == FIRST
    assert grant(BORN, ISSUED, sooner, later) == {**FIRST, "expiresAt": at(60)}
    assert fields(BORN, ISSUED, sooner, later)["grant"]["expiresAt"] == at(900)


def test_an_end_before_the_issue_says_nothing_about_it():
    assert grant(BORN, update(0.5, {"grant.expiresAt": at(20)}), ISSUED, update(10, RENEWAL)) == RENEWED


@pytest.mark.parametrize("value", [None, "never", 5, []])
def test_an_end_that_is_no_instant_is_passed_over(value):
    assert grant(BORN, ISSUED, update(5, {"grant.expiresAt": value})) == FIRST


def test_an_end_written_before_a_renewal_does_not_shorten_the_renewal():
    changes = [BORN, ISSUED, update(5, {"grant.expiresAt": at(60)}), update(10, RENEWAL)]
    assert grant(*changes) == RENEWED


def test_a_grant_is_bound_by_what_its_own_row_carried_even_with_stamps_of_its_own():
    keys = {key: at(10) for key in RENEWAL} | {"grant.expiresAt": at(99)}
    assert grant(BORN, ISSUED, row("update", 10, RENEWAL, keys)) == RENEWED


def test_an_unstamped_grant_counts_until_a_stamped_one_is_known():
    bare = row("update", 5, {"grant": {**FIRST, "wrappedKey": "bare"}}, {})
    assert grant(BORN, bare)["wrappedKey"] == "bare"
    assert grant(BORN, bare, ISSUED) == FIRST


def test_a_row_taken_twice_leaves_the_register_that_it_left_the_first_time():
    issued = update(1, {"grant.wrappedKey": "key", "grant.expiresAt": at(100)})
    assert dump(fold([issued, issued])) == dump(fold([issued]))
