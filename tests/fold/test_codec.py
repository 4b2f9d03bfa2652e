from __future__ import annotations

import orjson
import pytest

from projector.fold import FOLD_VERSION, State, dump, fold, load
from tests.fold.rows import at, delete, insert, unstamped, update, us


def test_an_empty_state_is_short():
    assert dump(State()) == {"w": []}
    assert dump(load({"w": []})) == {"w": []}


def test_the_layout_of_a_dumped_state_belongs_to_its_version():
    changes = [
        insert(0, {"title": "a", "createdAt": at(0)}, space_id="s", number=1),
        update(1, {"cadence.atHour": 7}, number=2),
        unstamped(2, {"note": None}, number=3),
        delete(3, number=4),
        update(4, {"grant": {"wrappedKey": "k", "expiresAt": at(90)}}, number=5),
        update(5, {"grant.expiresAt": at(80)}, number=6),
    ]
    ids = {number: f"00000000-0000-0000-0000-00000000000{number}" for number in range(7)}
    grant = {"wrappedKey": "k", "expiresAt": at(90)}
    assert FOLD_VERSION == 3
    assert orjson.loads(orjson.dumps(dump(fold(changes)))) == {
        "w": [
            [["cadence", "atHour"], 7, us(1), us(1), ids[2]],
            [["createdAt"], at(0), us(0), us(0), ids[1]],
            [["grant"], grant, us(4), us(4), ids[5]],
            [["grant", "expiresAt"], at(80), us(5), us(5), ids[6]],
            [["note"], None, None, us(2), ids[3]],
            [["title"], "a", us(0), us(0), ids[1]],
        ],
        "i": [us(0), ids[1]],
        "t": [us(3), ids[4]],
        "c": True,
        "n": us(5),
        "s": [us(0), ids[1], "s"],
        "g": [[us(4), us(4), ids[5], grant], [[us(5), us(5), ids[6], at(80)]]],
    }


def test_a_row_that_made_the_record_is_named_when_it_is_not_the_latest_insert_and_so_are_deletes_before_it():
    early, made, again = delete(0, at(9), number=1), insert(1, {"a": 1}, number=2), insert(2, {"a": 1}, number=3)
    usual = dump(fold([made, delete(2, at(2)), update(3, {"a": 2})]))
    assert usual.keys() == {"w", "i", "c", "n"}
    dumped = dump(fold([early, made, again]))
    assert dumped["f"] == [us(1), made.id]
    assert dumped["d"] == [[at(9), us(9), us(0), early.id]]
    assert dump(fold([early])) == {"w": [], "d": dumped["d"], "n": us(0)}


def test_a_state_survives_its_text():
    changes = [
        insert(0, {"a": {"b": [1, {"c": None}]}, "createdAt": at(0)}),
        update(1, {"a.b": [], "grant.expiresAt": at(9)}),
    ]
    dumped = dump(fold(changes))
    assert dump(load(orjson.loads(orjson.dumps(dumped)))) == dumped


@pytest.mark.parametrize(
    "broken",
    [{}, {"w": [["a"]]}, {"w": 5}, {"w": [], "s": [1]}, {"w": [], "g": [None, [[1, 2, "id", "never"]]]}],
)
def test_what_is_no_dumped_state_is_refused(broken):
    with pytest.raises((KeyError, TypeError, ValueError)):
        load(broken)
