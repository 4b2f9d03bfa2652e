from __future__ import annotations

import pytest

from projector.planner.history import KEPT, UNDECIDED_KEPT, capped

NOW = "2026-01-01T00:00:00.000Z"


def iterations(count: int, status: str = "approved") -> list:
    return [{"id": f"i{number}", "overallStatus": status} for number in range(count)]


def test_a_short_history_stays_as_it_is():
    assert capped(iterations(KEPT), NOW) == iterations(KEPT)


def test_what_is_older_is_marked_first_and_left_out_the_next_time():
    once = capped(iterations(KEPT + 3), NOW)
    assert [i.get("archivedAt") for i in once] == [NOW] * 3 + [None] * KEPT
    again = capped([*once, {"id": "new", "overallStatus": "approved"}], "2026-01-02T00:00:00.000Z")
    assert [i["id"] for i in again] == [f"i{n}" for n in range(3, KEPT + 3)] + ["new"]
    assert [i.get("archivedAt") for i in again] == ["2026-01-02T00:00:00.000Z"] + [None] * KEPT


def test_the_mark_adds_to_an_iteration_and_alters_nothing_of_the_array_given():
    given = [{"id": "a", "overallStatus": "failed", "userFeedback": "x"}, *iterations(KEPT)]
    assert capped(given, NOW)[0] == {"id": "a", "overallStatus": "failed", "userFeedback": "x", "archivedAt": NOW}
    assert "archivedAt" not in given[0]


@pytest.mark.parametrize("status", ["awaiting-review", "running", None])
def test_what_waits_for_a_person_stays_longer(status):
    kept = capped(iterations(UNDECIDED_KEPT + 2, status), NOW)
    assert [i.get("archivedAt") for i in kept] == [NOW] * 2 + [None] * UNDECIDED_KEPT


def test_what_is_no_iteration_stays():
    odd = [7, None, {"noId": 1}, {"id": 5, "overallStatus": "approved"}, []]
    assert capped([*odd, *iterations(KEPT)], NOW)[: len(odd)] == odd


def test_what_was_archived_among_the_newest_stays():
    archived = [{"id": "a", "archivedAt": NOW}]
    assert capped(archived, "2026-01-02T00:00:00.000Z") == archived


def test_the_array_stops_growing():
    array: list = []
    sizes = []
    for number in range(5 * KEPT):
        array = capped([*array, {"id": f"i{number}", "overallStatus": "approved"}], NOW)
        sizes.append(len(array))
    assert max(sizes) == KEPT + 1
