from __future__ import annotations

from random import Random

import orjson
import pytest

from projector.log.order import PartitionOrder
from projector.log.place import Place
from projector.views.declared import MISSION_ITERATIONS, MISSIONS, RECORDS
from projector.views.fetch import Record
from projector.views.gathered import Gathered
from projector.views.held import nothing
from projector.views.inbox import DeadLetter, Fold, Reload, Truncation, sort
from projector.views.positions import Partition
from tests.views.log import row, value_of

AI = Partition("p.sync_changes.ai", 3)


def message(offset, value, *, key=b"u1", op="update", table=b"aiMissions", lsn=None):
    headers = [("source", b"1"), ("lsn", lsn or b"0/%X" % (offset + 1)), ("ord", b"0"), ("op", op.encode())]
    if table is not None:
        headers.append(("table", table))
    return Record(*AI, offset, key, value, headers, 0)


def turned_round(change):
    """The value with the columns in another order, and something in the data that looks like the record's id."""
    columns = orjson.loads(value_of(change))
    return orjson.dumps({"data": {**columns.pop("data"), "record_id": "m9"}, **columns})


ERASED = value_of(row("update", "m1", 1, {})).replace(b'"op":"update"', b'"op":"erased"')
TRUNCATED = message(40, b'{"op":"truncated"}', key=None, op="truncated", table=None)
ODD = [
    message(30, b'{"record_id":"m1"'),
    message(31, b'{"record_id":"m1'),
    message(32, None),
    message(33, value_of(row("update", "m1", 5, {"a": 1})), key=b"u2"),
    message(34, value_of(row("update", "m1", 5, {"a": 1}, user_id="u\ufffd")), key=b"u\xff"),
    message(35, value_of(row("update", "m1", 5, {"a": 1})), key=b"u\0"),
    message(36, value_of(row("update", "m1", 5, {"a": 1})), lsn=b"nowhere"),
    message(37, value_of(row("update", "m\0", 5, {"a": 1}))),
    message(38, b'{"record_id":"m\0"}'),
    message(39, ERASED, op="erased"),
    TRUNCATED,
    message(41, value_of(row("update", 'with "quotes"', 5, {"a": 1}))),
    message(42, value_of(row("update", "Gie\u00dfen", 5, {"a": 1}))),
    message(43, turned_round(row("update", "m1", 6, {"title": "of m1"}))),
    message(44, value_of(row("update", "a1", 6, {"name": "Mana"}, table="agents")), table=b"agents"),
    message(45, value_of(row("update", "m1", 6, {}, table="agents"))),
    message(46, value_of(row("update", "x1", 6, {"a": 1}, table="others")), table=None),
    message(47, value_of(row("update", "m1", 6, {"title": 1}) | {"schema_version": 9})),
]
PLAIN = [
    message(
        n, value_of(row("update", f"m{n % 3}", n, {f"k{n % 4}": n, "grant": None, "iterations": [{"id": f"i{n}"}]}))
    )
    for n in range(30)
]


def as_stored(row):
    """`record` without an order of its own, as jsonb keeps it."""
    return *row[:-2], orjson.loads(row[-2]), row[-1]


def one_by_one(view, messages):
    """The rows, and what else the messages are, as `sort` tells."""
    held, others = {}, []
    for one in messages:
        event = sort(view, one)
        if isinstance(event, Fold):
            held.setdefault(event.identity, nothing(view.fold)).take(event.change, event.place)
        elif event is not None:
            others.append(event)
    return {identity: as_stored(one.row(view, identity)) for identity, one in held.items()}, others


def gathered(view, messages):
    found = Gathered(view, AI, PartitionOrder())
    found.add(messages[:20])
    found.add(messages[20:])
    records = list(found.records())
    rows = {}
    for identity, entries in records:
        for row_of_it in found.rows([(identity, entries)], {}):
            rows[identity] = as_stored(row_of_it)
    found.sort_again(messages)
    return found, rows


@pytest.mark.parametrize("view", [MISSIONS, MISSION_ITERATIONS], ids=lambda view: view.name)
@pytest.mark.parametrize("seed", range(3))
def test_rows_are_those_of_folding_one_by_one_in_any_order(view, seed):
    values = Random(seed).sample([one.value for one in PLAIN], len(PLAIN))
    messages = [message(n, value) for n, value in enumerate(values)]
    found, rows = gathered(view, messages)
    assert rows == one_by_one(view, messages)[0]
    assert (found.changes, found.letters, found.later, found.again) == (30, [], {}, set())


@pytest.mark.parametrize("view", [MISSIONS, RECORDS], ids=lambda view: view.name)
@pytest.mark.parametrize("odd", ODD, ids=lambda one: str(one.offset))
def test_what_does_not_tell_its_record_plainly_is_what_sort_says(view, odd):
    found, rows = gathered(view, [odd])
    expected, others = one_by_one(view, [odd])
    for identity, [(_, event)] in found.later.items():
        if isinstance(event, Fold):
            again = nothing(view.fold)
            again.take(event.change, event.place)
            rows[identity] = as_stored(again.row(view, identity))
    assert rows == expected
    assert found.letters == [one for one in others if isinstance(one, DeadLetter)]
    reloads = [event for [(_, event)] in found.later.values() if isinstance(event, Reload)]
    assert reloads == [one for one in others if isinstance(one, Reload)]
    assert [found.truncation] == ([one for one in others if isinstance(one, Truncation)] or [None])


def test_an_id_with_escapes_is_read_at_once():
    same = [message(n, value_of(row("update", 'a "b"', n, {f"k{n}": n}))) for n in range(3)]
    found, rows = gathered(MISSIONS, same)
    assert (rows, found.again) == (one_by_one(MISSIONS, same)[0], set())


@pytest.mark.parametrize("more", [{}, {"\0": 1}], ids=["plain", "bad"])
def test_what_came_before_is_not_folded_and_the_log_decides(more):
    first, second = PLAIN[:2]
    again = message(50, value_of(row("update", "m0", 0, more)), lsn=b"0/1")
    found, rows = gathered(MISSIONS, [first, second, again])
    assert rows == one_by_one(MISSIONS, [first, second])[0]
    assert (found.order.reached, found.changes) == (Place(1, 2, 0), 2)
    assert [letter.again for letter in found.letters] == ([True] if more else [])
    expected = [] if more else [[(50, Reload(("u1", "ai", "aiMissions", "m0"), Place(1, 1, 0), filled=False))]]
    assert [*found.later.values()] == expected


def test_nothing_but_its_own_place_goes_into_a_row():
    bad = message(90, value_of(row("update", "m1", 5, {}) | {"data": []}))
    found, rows = gathered(MISSIONS, [*PLAIN, bad])
    assert rows == one_by_one(MISSIONS, PLAIN)[0]
    assert [letter.message.offset for letter in found.letters] == [90]


def test_a_row_that_is_there_is_gone_on_with_and_records_come_in_order():
    found = Gathered(MISSIONS, AI, PartitionOrder())
    found.add(PLAIN)
    records = list(found.records())
    assert [identity for identity, _ in records] == [("u1", "ai", "aiMissions", f"m{n}") for n in range(3)]
    held = nothing(MISSIONS.fold)
    held.reach(Place(7, 7, 7))
    [row] = found.rows(records[:1], {records[0][0]: held})
    assert row[list(MISSIONS.all_columns).index("source")] == 7


def test_an_exception_says_in_which_record(monkeypatch):
    found = Gathered(MISSIONS, AI, PartitionOrder())
    found.add(PLAIN)
    monkeypatch.setattr("projector.views.held.Held.row", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as raised:
        list(found.rows(found.records(), {}))
    assert raised.value.__notes__ == ["in u1/ai/aiMissions/m0, of p.sync_changes.ai-3 at or after offset 0"]


def test_what_is_of_another_view_takes_no_memory():
    found = Gathered(MISSIONS, AI, PartitionOrder())
    found.add([message(1, b"x" * 1000, table=b"agents"), message(2, b"x" * 1000, table=b"others")])
    assert (found.octets, found.count) == (0, 0)
    found.add(PLAIN)
    assert found.octets > sum(len(one.value) for one in PLAIN)
