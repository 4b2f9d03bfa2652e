from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from projector.fold import State, dump, fold, load
from projector.log.change import Change
from projector.views.parting import Parting, part
from tests.fold.rows import delete, insert, row, update

KEYS = ("title", "cadence", "cadence.atHour", "cadence.at.hour", "grant.wrappedKey", "grant.expiresAt", "deletedAt")
VALUES = st.sampled_from([None, 1, True, "t", "2026-06-01T10:01:00.000Z", {"a": 1}, [1, 2]])


@st.composite
def histories(draw: st.DrawFn) -> list[Change]:
    """Changes of one record in the order of their topic, which is not that of their times."""
    changes = []
    for number in range(draw(st.integers(1, 7))):
        op = draw(st.sampled_from(["insert", "update", "update", "delete"]))
        data = draw(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))
        if op == "delete":
            data = draw(st.sampled_from([{}, *({"deletedAt": f"2026-06-01T10:00:0{n}.000Z"} for n in range(3, 8))]))
        stamp = {key: f"2026-06-01T10:00:0{draw(st.integers(0, 5))}.000Z" for key in data}
        space = draw(st.sampled_from([None, None, "s1"]))
        created = draw(st.integers(1, 5))
        changes.append(row(op, created, data, stamp, number=number + 1, space_id=space))
    return changes


@given(histories(), st.data())
@settings(max_examples=300, deadline=None)
def test_whichever_change_a_row_lacks_is_named_if_anything_of_it_would_show(changes, data):
    dropped = data.draw(st.sampled_from(changes))
    whole, lacking = fold(changes), fold(one for one in changes if one is not dropped)
    named = part(lacking, changes)
    if dump(whole) == dump(lacking):
        assert named is None
    else:
        assert named == Parting(dropped.id, "not applied")


@given(histories(), st.data())
@settings(max_examples=300, deadline=None)
def test_whichever_write_of_a_row_is_altered_its_change_is_named(changes, data):
    dumped = dump(fold(changes))
    writes = data.draw(st.sampled_from([dumped["w"], dumped.get("d", [])]))
    if not writes:
        return
    write = data.draw(st.sampled_from(writes))
    field = data.draw(st.sampled_from([-4, -3, -2, -1]))
    owner = write[-1]
    other = {
        -4: "altered",
        -3: data.draw(st.sampled_from([None, 0, 1 << 60])),
        -2: data.draw(st.sampled_from([0, 1 << 60])),
        -1: "no such change",
    }
    altered = list(write)
    altered[field] = other[field]
    writes[writes.index(write)] = altered
    named = part(load(dumped), changes)
    if altered == list(write):
        assert named is None
    else:
        assert named == Parting(owner, "changed in the row")


def test_the_first_of_several_missing_changes_is_named_in_the_order_of_the_topic():
    first, late, early = insert(1, {"a": 1}), update(9, {"a": 2}), update(5, {"b": 3})
    assert part(fold([first]), [first, late, early]) == Parting(late.id, "not applied")
    assert part(None, [late, first]) == Parting(late.id, "not applied")


def test_a_row_that_holds_a_change_that_is_gone_from_the_log_names_it():
    kept, gone = insert(1, {"a": 1}), update(2, {"a": 2})
    assert part(fold([kept, gone]), [kept]) == Parting(gone.id, "not in the log")
    assert part(fold([gone]), []) == Parting(gone.id, "not in the log")
    undone = delete(3)
    assert part(fold([kept, undone]), [kept]) == Parting(undone.id, "not in the log")


def test_a_row_that_names_another_change_as_the_one_that_made_the_record_is_wrong():
    changes = [update(1, {"a": 1}), insert(2, {"a": 2}), update(3, {"a": 3})]
    dumped = dump(fold(changes))
    for made, named in (
        (dumped["i"], Parting(changes[0].id, "not applied")),
        ([0, changes[1].id], Parting(changes[1].id, "changed in the row")),
        ([0, "no such change"], Parting("no such change", "not in the log")),
    ):
        assert part(load(dumped | {"f": made}), changes) == named


def test_of_what_is_derived_the_change_that_decides_it_is_named():
    changes = [insert(1, {"a": {"b": 1}}), update(2, {"a.c": 2}), delete(3)]
    state = fold(changes)
    for path, change in (
        (("record", "a", "b"), changes[0]),
        (("record", "a", "c", "d"), changes[1]),
        (("deleted",), changes[2]),
        (("complete",), changes[0]),
        (("updated_at",), changes[1]),
        (("last_applied_at",), changes[2]),
    ):
        assert part(state, changes, path) == Parting(change.id, "changed in the row"), path
    assert part(state, changes, ("record", "never")) is None
    early = [delete(1, "2026-06-01T10:00:09.000Z")]
    assert part(fold(early), early, ("deleted",)) == Parting(early[0].id, "changed in the row")
    assert part(State(), []) is None
