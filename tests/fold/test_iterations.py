from __future__ import annotations

import random

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projector.fold import Counters, State, derive, fold
from projector.fold import apply as apply_to_record
from projector.fold.folds import ITERATIONS_FOLD
from projector.fold.items import MAX_FIELDS, MAX_VALUES
from projector.fold.iterations import MAX_ITERATIONS, IterationsState, apply, as_record, merge
from projector.fold.iterations import derive as iterations_of
from projector.fold.iterations_codec import dump, load
from tests.fold.histories import HISTORIES, changes_by_record
from tests.fold.iterations import array
from tests.fold.rows import at, delete, insert, row, unstamped, update

FIRST = {"id": "i1", "startedAt": at(1), "overallStatus": "running", "plan": []}
SERVER = {
    "id": "s1",
    "startedAt": at(5),
    "finishedAt": at(6),
    "plan": [{"id": "s1-0", "summary": "create_task", "status": "planned"}],
    "summary": "S",
    "overallStatus": "awaiting-review",
    "source": "server",
}


def folded(*changes, counters=None):
    state = IterationsState()
    for change in changes:
        apply(state, change, counters)
    return state


def dumped(state):
    return orjson.dumps(dump(state))


def only(*changes):
    """The one iteration, asked in both orders of arrival."""
    [found] = iterations_of(folded(*changes))
    assert iterations_of(folded(*reversed(changes))) == [found]
    return found


def fields(*arrays):
    """Of the one iteration after arrays written one after the other."""
    return only(*[update(number, {"iterations": one}) for number, one in enumerate(arrays, 1)]).fields


@st.composite
def rows(draw):
    """Up to nine rows of one mission: few times, so that instants and `created_at` tie."""
    chance = random.Random(draw(st.integers(0, 1 << 32)))
    found = []
    for number in draw(st.lists(st.integers(1, 40), min_size=1, max_size=9, unique=True)):
        op = chance.choice(["insert", "update", "update", "update", "delete", "delete"])
        data = {"title": "t"}
        if op == "delete":
            data = chance.choice([{}, *({"deletedAt": at(seconds)} for seconds in (2, 4, 6))])
        elif chance.random() < 0.9:
            data["iterations"] = array(chance)
        if chance.random() < 0.2:
            data |= chance.choice([{"iterations.0": 1}, {"deletedAt": None}, {"deletedAt.x": 1}, {"updatedAt": at(3)}])
        slot = chance.choice([at(chance.randint(0, 6)), at(chance.randint(0, 6)), "", "soon"])
        found.append(row(op, chance.randint(0, 5), data, dict.fromkeys(data, slot), number=number))
    return found


@given(rows(), st.data())
def test_order_repetition_and_batching_leave_no_trace(changes, data):
    expected = folded(*changes)
    mixed = data.draw(st.permutations([*changes, *data.draw(st.lists(st.sampled_from(changes), max_size=6))]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(mixed)), max_size=3)))
    merged = IterationsState()
    for start, end in zip([0, *cuts], [*cuts, len(mixed)], strict=True):
        merged = merge(merged, load(orjson.loads(dumped(folded(*mixed[start:end])))))
    assert dumped(folded(*mixed)) == dumped(expected) == dumped(merged)
    assert iterations_of(merged) == iterations_of(expected)


@given(rows(), st.data())
def test_merging_commutes_associates_and_alters_neither(changes, data):
    some = st.lists(st.sampled_from(changes), max_size=6)
    a, b, c = (folded(*data.draw(some)) for _ in range(3))
    before = [dumped(one) for one in (a, b, c)]
    assert dumped(merge(a, b)) == dumped(merge(b, a))
    assert dumped(merge(a, merge(b, c))) == dumped(merge(merge(a, b), c))
    assert dumped(merge(a, a)) == before[0] == dumped(merge(a, IterationsState()))
    apply(merge(a, b), changes[0])
    assert [dumped(one) for one in (a, b, c)] == before


@given(rows())
def test_what_the_mission_is_and_shows_is_what_the_fold_of_records_says(changes):
    state, mission = folded(*changes), derive(fold(changes))
    ours = as_record(state)
    assert (ours.deleted, ours.deleted_at_us, ours.complete) == (
        mission.deleted,
        mission.deleted_at_us,
        mission.complete,
    )
    newest = mission.fields.get("iterations")
    ids = [one.get("id") for one in newest if isinstance(one, dict)] if isinstance(newest, list) else []
    assert {one.fields["id"] for one in iterations_of(state) if one.shown} == {
        key for key in ids if isinstance(key, str) and key
    }


@pytest.mark.parametrize("history", HISTORIES)
def test_recorded_histories_in_which_nothing_was_lost_end_as_the_devices_show_them(history):
    shuffle = random.Random(20261125)
    total = 0
    for changes in changes_by_record(history).values():
        mixed = [*changes, *shuffle.sample(changes, len(changes) // 2)]
        shuffle.shuffle(mixed)
        middle = len(mixed) // 2
        state = folded(*changes)
        assert dumped(state) == dumped(merge(folded(*mixed[:middle]), folded(*mixed[middle:])))
        found = {one.fields["id"]: one.fields for one in iterations_of(state) if one.shown}
        assert found == {one["id"]: one for one in derive(fold(changes)).fields.get("iterations") or ()}
        assert len(found) == len(state.items)
        total += len(found)
    assert total == {"tame": 36, "rough": 53}[history]


def test_a_server_iteration_survives_a_rename_by_a_device_that_had_not_pulled_it():
    changes = [
        insert(1, {"title": "a", "iterations": [FIRST], "createdAt": at(1)}),
        update(6, {"iterations": [FIRST, SERVER]}, number=6),
        update(7, {"title": "b", "iterations": [FIRST]}),
    ]
    assert derive(fold(changes)).fields["iterations"] == [FIRST]
    first, server = iterations_of(folded(*changes))
    assert (first.fields, first.shown) == (FIRST, True)
    assert (server.fields, server.shown) == (SERVER, False)
    assert server.brought_by == server.changed_by == changes[1].id


def test_a_stale_copy_under_a_fresh_stamp_takes_nothing_back():
    done = SERVER | {"overallStatus": "approved", "userFeedback": "good"}
    done["plan"] = [{"id": "s1-0", "summary": "done", "status": "approved", "proposalId": "p"}]
    found = only(
        update(1, {"iterations": [SERVER]}), update(2, {"iterations": [done]}), update(3, {"iterations": [SERVER]})
    )
    assert found.fields == done
    assert (found.brought_by, found.changed_by) == (row("update", 1, {}).id, row("update", 2, {}).id)


def test_the_clock_of_who_repeats_a_value_does_not_date_it():
    first, second = [{"id": "i", "userFeedback": "a"}], [{"id": "i", "userFeedback": "b"}]
    slow = update(4, {"iterations": second}, "2020-01-01T00:00:00.000Z")
    found = only(update(1, {"iterations": first}), update(2, {"iterations": second}), slow)
    assert found.fields["userFeedback"] == "b"


@pytest.mark.parametrize("status", ["awaiting-review", "failed", "rejected", "approved"])
def test_a_status_gives_way_to_higher_ones_alone(status):
    ranks = ["running", "awaiting-review", "failed", "rejected", "approved"]
    below = [{"id": "i", "overallStatus": lower} for lower in ["reverted", *ranks[: ranks.index(status)]]]
    assert fields([{"id": "i", "overallStatus": status}], *[[one] for one in below])["overallStatus"] == status


@pytest.mark.parametrize("status", ["staged", "skipped", "failed", "rejected", "approved"])
def test_the_status_of_a_step_gives_way_to_higher_ones_alone(status):
    ranks = ["planned", "staged", "skipped", "failed", "rejected", "approved"]
    arrays = [[{"id": "i", "plan": [{"id": "s", "status": one}]}] for one in [status, *ranks[: ranks.index(status)]]]
    assert fields(*arrays)["plan"] == [{"id": "s", "status": status}]


def test_a_status_that_is_none_of_ours_shows_only_alone():
    assert fields([{"id": "i", "overallStatus": "reverted"}], [{"id": "i", "overallStatus": None}]) == {
        "id": "i",
        "overallStatus": "reverted",
    }


def test_the_first_proposal_of_a_step_stays():
    steps = [{"id": "s", "status": "staged", "proposalId": one} for one in ("p1", "p2", "", None)]
    assert fields(*[[{"id": "i", "plan": [one]}] for one in steps])["plan"][0]["proposalId"] == "p1"


@pytest.mark.parametrize("later", [{}, {"userFeedback": ""}, {"userFeedback": "old"}])
def test_feedback_survives_what_rides_along(later):
    written = [{"id": "i", "userFeedback": "old"}], [{"id": "i", "userFeedback": "new"}], [{"id": "i"} | later]
    assert fields([{"id": "i"}], *written)["userFeedback"] == "new"


@pytest.mark.parametrize("later", ["newer", None])
def test_feedback_gives_way_to_another_text_or_an_explicit_null(later):
    assert fields([{"id": "i", "userFeedback": "a"}], [{"id": "i", "userFeedback": later}])["userFeedback"] == later


def test_the_newest_stamp_decides_between_feedback_of_two_writers():
    early = update(9, {"iterations": [{"id": "i", "userFeedback": "early"}]}, 1)
    late = update(2, {"iterations": [{"id": "i", "userFeedback": "late"}]}, 2)
    without = unstamped(10, {"iterations": [{"id": "i", "userFeedback": "no stamp"}]})
    assert only(late, early, without).fields["userFeedback"] == "late"


def test_a_phase_shows_while_the_iteration_runs_and_an_error_when_it_failed():
    running = FIRST | {"currentPhase": "calling-llm", "phaseStartedAt": at(2), "cancelRequested": True}
    early = FIRST | {"currentPhase": "resolving-inputs"}
    assert fields([early], [running]) == running
    failed = FIRST | {"overallStatus": "failed", "errorDetails": {"name": "E"}}
    assert fields([running], [failed], [running]) == failed
    assert "errorDetails" not in fields([failed], [FIRST | {"overallStatus": "approved"}])


def test_the_newest_phase_shows_also_when_it_was_repeated():
    early, late = ([FIRST | {"currentPhase": phase}] for phase in ("calling-llm", "finalizing"))
    rows = update(1, {"iterations": early}, 1), update(2, {"iterations": early}, 3), update(3, {"iterations": late}, 2)
    assert only(*rows).fields["currentPhase"] == "calling-llm"


def test_values_are_told_apart_as_json_and_numbers_by_their_size():
    assert fields([{"id": "i", "x": 1}], [{"id": "i", "x": True}])["x"] is True
    assert fields([{"id": "i", "x": [1]}], [{"id": "i", "x": [2]}], [{"id": "i", "x": [1.0]}])["x"] == [2]


def test_a_plan_that_was_replaced_is_gone_and_a_stale_one_does_not_come_back():
    plans = [], [{"id": "a"}, {"id": "b"}], [{"id": "c"}, {"id": "b"}], [], [{"id": "a"}, {"id": "b"}]
    assert fields(*[[{"id": "i", "plan": plan}] for plan in plans])["plan"] == [{"id": "c"}, {"id": "b"}]


def test_an_archived_iteration_stays_archived():
    archived = {"id": "i", "archivedAt": at(3)}
    assert fields([{"id": "i"}], [archived], [{"id": "i"}], [{"id": "i", "archivedAt": at(9)}]) == archived


def test_iterations_come_in_order_of_their_start_then_by_id():
    starts = {"c": at(2), "b": at(3), "a": at(3), "late": "2026-06-01T12:00:01.000+02:00", "none": None}
    state = folded(update(1, {"iterations": [{"id": key, "startedAt": start} for key, start in starts.items()]}))
    assert [one.fields["id"] for one in iterations_of(state)] == ["none", "late", "c", "a", "b"]


def test_odd_elements_are_counted_and_do_no_harm():
    counters = Counters()
    odd = [7, None, {}, {"id": ""}, {"id": 5}, {"id": "i", "plan": 7}, {"id": "i", "plan": [{"summary": "x"}]}]
    changes = [
        update(1, {"iterations": odd}),
        update(2, {"iterations": {"0": {"id": "x"}}, "iterations.1": {"id": "y"}}),
    ]
    [found] = iterations_of(folded(*changes, counters=counters))
    assert (found.fields, found.shown) == ({"id": "i", "plan": []}, False)
    assert counters == Counters(changes=2, unnamed_items=6, repeated_items=1, odd_arrays=2)


def test_a_delete_leaves_the_iterations_and_its_own_array_says_nothing():
    state = folded(insert(1, {"iterations": [FIRST]}), delete(2, at(2)))
    assert as_record(state).deleted
    assert [one.fields["id"] for one in iterations_of(state)] == ["i1"]
    assert iterations_of(folded(row("delete", 3, {"iterations": [FIRST]}))) == []


def test_limits_bound_what_is_kept_whatever_comes_first():
    many = [{"id": f"{number:05}"} for number in range(MAX_ITERATIONS + 3)]
    wide = {"id": "00003"} | {f"{number:03}": number for number in range(MAX_FIELDS + 2)}
    changes = [update(1, {"iterations": many}), update(2, {"iterations": [{"id": "00000"}, wide]})]
    changes += [update(3 + n, {"iterations": [{"id": "00003", "000": f"v{n:03}"}]}) for n in range(MAX_VALUES + 2)]
    counters = Counters()
    state = folded(*changes, counters=counters)
    assert len(state.items) == MAX_ITERATIONS
    assert (min(state.items), max(state.items)) == ("00000", f"{MAX_ITERATIONS + 1:05}")
    assert sorted(state.items["00003"].fields) == [f"{number:03}" for number in range(MAX_FIELDS)]
    assert len(state.items["00003"].fields["000"]) == MAX_VALUES
    assert counters.cut_items == 3 + 2 + 1 + 3
    assert dumped(folded(*reversed(changes))) == dumped(state)


def test_a_codec_refuses_what_it_did_not_write():
    with pytest.raises(KeyError):
        load({"w": []})
    with pytest.raises(IndexError):
        load({"w": [], "o": [], "e": {"i": {"b": 0}}})


@given(rows())
def test_both_folds_offer_a_view_the_same(changes):
    state, record = ITERATIONS_FOLD.empty(), State()
    for change in changes:
        ITERATIONS_FOLD.apply(state, change, None)
        apply_to_record(record, change)
    assert ITERATIONS_FOLD.derive(state) == as_record(state)
    assert state.newest_us == record.newest_us
