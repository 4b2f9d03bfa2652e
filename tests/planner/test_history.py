from __future__ import annotations

import pytest

from projector.planner.history import KEPT, KEPT_BYTES, UNDECIDED_BYTES, UNDECIDED_KEPT, capped, size_of

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


def large(number: int, bytes_: int, status: str = "approved") -> dict:
    iteration = {"id": f"i{number}", "overallStatus": status, "summary": ""}
    return iteration | {"summary": "ö" * ((bytes_ - size_of(iteration)) // 2)}


@pytest.mark.parametrize(("status", "limit"), [("approved", KEPT_BYTES), ("awaiting-review", UNDECIDED_BYTES)])
def test_large_iterations_leave_sooner_and_those_of_no_decision_later(status, limit):
    given = [large(number, limit // 5, status) for number in range(8)]
    assert [i.get("archivedAt") for i in capped(given, NOW)] == [NOW] * 2 + [None] * 6
    assert all(after.items() >= before.items() for before, after in zip(given, capped(given, NOW), strict=True))


def test_the_newest_stays_and_leaves_the_others_their_room_however_large_it_is():
    given = [*iterations(3), large(3, 2 * UNDECIDED_BYTES)]
    assert capped(given, NOW) == given
    assert [i.get("archivedAt") for i in capped([*given, *iterations(1)], NOW)] == [None, None, None, NOW, None]


@pytest.mark.parametrize("status", ["approved", "awaiting-review"])
def test_an_array_of_the_largest_iterations_fits_into_a_megabyte(status):
    array: list = []
    sizes = []
    for number in range(30):
        array = capped([*array, large(number, 260 * 1024 - 100 * number, status)], NOW)
        sizes.append(size_of(array))
    assert 500 * 1024 < max(sizes[5:]) < 1_000_000
    assert max(sizes[20:]) < 1.01 * max(sizes[:10])
