"""The golden vectors of the merge, with the reference's answer beside ours.

`ours` is the record shown: the vector's field `name`, or what the row says. It is the answer that the vectors
recommend, or else `recommended` is theirs and `rule` says what asks for another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from projector.fold import derive, dump, fold, following_stamp, format_instant, load
from projector.log.change import BadChange, Change, decode
from tests.fold.rows import at, delete, insert, row, unstamped, update, us


@dataclass(frozen=True)
class Vector:
    """`reference` is what its missions projection shows: seen for the listed vectors, read off for variants."""

    rows: list[Change]
    reference: Any
    ours: Any
    recommended: Any = None
    rule: str = ""


def ins(created: float, name: str, slot: Any = None, **more: Any) -> Change:
    return insert(created, {"name": name, **more}, None if slot is None else {"name": slot})


def upd(created: float, name: str, slot: Any) -> Change:
    return update(created, {"name": name}, slot)


def obj(text: str) -> dict[str, Any]:
    return {"at": text, "actor": {"kind": "system"}, "origin": "system"}


OLD, EARLY, LATE = "2020-01-01T00:00:00.000Z", "2026-01-01T00:00:00.000Z", "2026-06-01T00:00:00.000Z"
DAY = "2026-04-15T"

VECTORS = {
    # An insert without any time is below every stamp, an update stamped years ago included.
    "G1": Vector(
        [ins(0, "A"), upd(1, "STALE", OLD)], "STALE", "STALE", "A", "rule 3: unstamped is below every instant"
    ),
    "G1, the insert naming its time": Vector([ins(0, "A", createdAt=at(0)), upd(1, "STALE", OLD)], "STALE", "A"),
    "G2": Vector(
        [ins(0, "orig"), upd(1, "edited", at(0.5)), ins(2, "orig"), upd(2.5, "edited", at(0.5))], "orig", "edited"
    ),
    "G3": Vector([ins(0, "A", obj(EARLY)), upd(1, "B", LATE)], "A", "B"),
    "G4": Vector([ins(0, "A", LATE), upd(1, "B", obj(EARLY))], "B", "A"),
    "G5": Vector([ins(0, "A", obj(LATE)), upd(1, "B", obj(EARLY))], "B", "A"),
    "G6": Vector([ins(0, "A", f"{DAY}00:00:00Z"), upd(1, "B", f"{DAY}00:00:00.500Z")], "A", "B"),
    "G7": Vector([ins(0, "A", f"{DAY}00:00:00.1Z"), upd(1, "B", f"{DAY}00:00:00.123Z")], "A", "B"),
    "G8": Vector([ins(0, "A", f"{DAY}12:00:00+02:00"), upd(1, "B", f"{DAY}11:00:00Z")], "A", "B"),
    # The insert's stamp is that of `name`; clamping, which the vector allows, would give name B.
    "G9": Vector(
        [
            insert(0, {"name": "A", "role": "r"}, {"name": "2030-01-01T00:00:00Z"}),
            unstamped(1, {"name": "B", "role": "s"}),
        ],
        {"name": "A", "role": "s"},
        {"name": "A", "role": "s"},
    ),
    "G9, the insert naming its time": Vector(
        [
            insert(0, {"name": "A", "role": "r", "createdAt": at(0)}, {"name": "2030-01-01T00:00:00Z"}),
            unstamped(1, {"name": "B", "role": "s"}),
        ],
        {"name": "A", "role": "s"},
        {"name": "A", "role": "r"},
        {"name": "A", "role": "s"},
        "rule 3: an update without a stamp loses, as on devices",
    ),
    "G10": Vector([insert(0, None)], {"id": "a1", "__fieldMeta": {}}, "partial"),
    "G11": Vector([insert(0, {"id": "evil", "name": "A"})], {"id": "evil"}, "A"),
    "G13, deleted with a time": Vector(
        [ins(0, "A", createdAt=at(0)), delete(1, at(1)), ins(2, "A", createdAt=at(2))], "gone", "gone"
    ),
    "G13, deleted without": Vector(
        [ins(0, "A", createdAt=at(0)), delete(1), ins(2, "A", createdAt=at(2))],
        "gone",
        "A",
    ),
    "G14": Vector(
        [update(0, {"state": "active", "nextRunAt": at(-9)})],
        "a due mission without title and objective",
        "partial",
    ),
    # Two rows that the reference's cursor passes over: order of arrival does not matter here.
    "G15": Vector([upd(2, "tx2", at(2)), upd(1, "tx1", at(3))], "tx2", "tx1"),
    "G16": Vector(
        [ins(0, "A", createdAt=at(0)), row("update", 0, {"name": "B"}, {"name": at(0)}, number=1 << 120)], "A", "B"
    ),
}


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("arrival", ["in order", "backwards", "one by one through the codec"])
def test_a_golden_vector_has_our_answer_in_any_order(name, arrival):
    vector = VECTORS[name]
    state = fold(vector.rows if arrival == "in order" else reversed(vector.rows))
    if arrival == "one by one through the codec":
        state = load(orjson.loads(orjson.dumps(dump(state))))
    shown = derive(state)
    if vector.ours == "gone":
        assert shown.deleted
    elif vector.ours == "partial":
        assert not shown.complete
    elif isinstance(vector.ours, dict):
        assert {key: shown.fields[key] for key in vector.ours} == vector.ours
    else:
        assert shown.fields["name"] == vector.ours
    assert shown.deleted == (vector.ours == "gone")
    assert "id" not in shown.fields


def test_g12_data_that_is_no_object_never_reaches_the_fold():
    value = {
        "id": "00000000-0000-0000-0000-000000000001",
        "app_id": "ai",
        "table_name": "agents",
        "record_id": "a1",
        "user_id": "u",
        "op": "insert",
        "data": ["x", "y"],
        "field_meta": {},
        "client_id": "c",
        "created_at": "2026-06-01T00:00:00.000000Z",
        "schema_version": 1,
        "actor": None,
        "origin": None,
        "space_id": None,
    }
    with pytest.raises(BadChange) as refused:
        decode(orjson.dumps(value))
    assert refused.value.code == "data-not-object"


def test_g20_an_iteration_shows_although_the_stored_ones_are_stamped_in_the_future():
    """The reference wrote three rows and showed none; the vector recommends clamping. Ours is stamped after it."""
    ahead = update(1, {"iterations": []}, "2099-01-01T00:00:00.000Z")
    stored = [insert(0, {"iterations": [], "createdAt": at(0)}), ahead]
    stamp = following_stamp(us(2), fold(stored).newest_instant([("iterations",)]))
    written = update(2, {"iterations": [{"id": "i1"}]}, format_instant(stamp))
    assert format_instant(stamp) == "2099-01-01T00:00:00.001Z"
    assert derive(fold([*stored, written])).fields["iterations"] == [{"id": "i1"}]


def test_two_answers_differ_from_the_recommended_ones():
    differing = {name: (v.recommended, v.ours) for name, v in VECTORS.items() if v.rule}
    assert differing == {
        "G1": ("A", "STALE"),
        "G9, the insert naming its time": ({"name": "A", "role": "s"}, {"name": "A", "role": "r"}),
    }
