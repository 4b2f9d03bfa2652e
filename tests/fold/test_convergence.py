"""Whatever comes in, in whatever order, the result is a function of the set of changes alone."""

from __future__ import annotations

import copy

import orjson
from hypothesis import given
from hypothesis import strategies as st

from projector.devices import Key, comparable, new_device_view
from projector.fold import Order, State, Write, apply, derive, dump, fold, load, merge, parse_instant
from projector.fold.stamps import NO_INSTANT
from projector.log.change import Change
from tests.fold.rows import at, row

KEYS = [
    *["a", "a.b", "a.b.c", "a.b.c.d", "a.c", "b", "title"],
    *["", ".", "a.", ".a", "a..b", "id", "id.x", "updatedAt", "__fieldMeta", "__proto__", "__proto__.x"],
    *["deletedAt", "deletedAt.x"],
    *["grant", "grant.wrappedKey", "grant.expiresAt", "grant.issuedAt"],
    *["grant.derivation", "grant.derivation.version", "grant.derivation.recordIds"],
]
TIMES = st.integers(0, 6)
GRANT = {"wrappedKey": "k", "expiresAt": at(50), "derivation": {"version": "v1", "missionId": "m1", "recordIds": ["r"]}}
VALUES = st.sampled_from(
    [
        *[None, False, True, 0, 0.0, 1, "", "x", [], [1], {}],
        *[{"b": None}, {"b": 1}, {"b": {"c": 2}, "c": 3}, {"b": [], "c": ""}],
        *[GRANT, {"expiresAt": at(40)}, {**GRANT, "wrappedKey": "other", "derivation": None}],
        *["k1", "k2", at(10), at(20), at(30), at(3), "v2", ["r1", "r2"]],
    ]
)
SLOTS = st.one_of(
    TIMES.map(at),
    TIMES.map(lambda seconds: {"at": at(seconds), "actor": {"kind": "ai"}}),
    st.sampled_from([None, "", "garbage", 5, {}, {"at": 5}, [], "2026-06-01T12:00:02+02:00"]),
)
DELETED_AT = TIMES.map(lambda seconds: {"deletedAt": at(seconds)})


@st.composite
def rows(draw: st.DrawFn) -> list[Change]:
    """Up to a dozen rows of one record: few times, so that instants and `created_at` tie."""
    result = []
    ops = draw(st.sampled_from([["insert", "update", "update", "update", "delete"], ["insert", *["delete"] * 4]]))
    for number in draw(st.lists(st.integers(1, 40), min_size=1, max_size=12, unique=True)):
        op = draw(st.sampled_from(ops))
        if op == "delete":
            data = draw(st.one_of(DELETED_AT, st.sampled_from([None, {}, {"deletedAt": None}, {"deletedAt": "soon"}])))
        else:
            data = draw(st.one_of(st.none(), st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5)))
        if op == "insert" and data is not None and draw(st.booleans()):
            data = {**data, draw(st.sampled_from(["updatedAt", "createdAt"])): draw(SLOTS)}
        stamped = list(data or {})
        if draw(st.booleans()):
            meta = dict.fromkeys(stamped, draw(SLOTS))
        else:
            meta = {key: draw(SLOTS) for key in stamped if draw(st.booleans())}
        space = draw(st.sampled_from([None, "s1", "s2"]))
        result.append(row(op, draw(TIMES), data, meta if op != "delete" else {}, number=number, space_id=space))
    return result


def dumped(state: State) -> bytes:
    """Byte for byte, key order included."""
    return orjson.dumps(dump(state))


@given(rows(), st.data())
def test_order_repetition_and_batching_leave_no_trace(changes, data):
    expected = fold(changes)
    mixed = data.draw(st.permutations([*changes, *data.draw(st.lists(st.sampled_from(changes), max_size=6))]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(mixed)), max_size=3)))
    merged = State()
    for start, end in zip([0, *cuts], [*cuts, len(mixed)], strict=True):
        merged = merge(merged, load(orjson.loads(dumped(fold(mixed[start:end])))))
    assert dumped(fold(mixed)) == dumped(expected) == dumped(merged)
    assert derive(merged) == derive(expected)


@given(rows(), st.data())
def test_merging_commutes_associates_and_repeats_without_effect(changes, data):
    some = st.lists(st.sampled_from(changes), max_size=8)
    a, b, c = (fold(data.draw(some)) for _ in range(3))
    assert dumped(merge(a, b)) == dumped(merge(b, a))
    assert dumped(merge(a, merge(b, c))) == dumped(merge(merge(a, b), c))
    assert dumped(merge(a, a)) == dumped(a) == dumped(merge(a, State()))


@given(rows())
def test_a_repeated_change_is_known_to_change_nothing(changes):
    state = fold(changes)
    before = dumped(state)
    for change in changes:
        assert not apply(state, change)
    assert dumped(state) == before


@given(rows())
def test_apply_tells_whether_the_state_is_another_one(changes):
    state = State()
    for change in changes:
        before = dumped(state)
        assert apply(state, change) == (dumped(state) != before)


@given(rows())
def test_neither_changes_nor_states_nor_records_share_anything_that_is_altered(changes):
    given_away = copy.deepcopy(changes)
    state = fold(changes)
    before = dumped(state)
    for shown in (derive(state), derive(state, share=True)):
        assert shown == derive(load(dump(state)))
    merge(state, fold(changes[:1]))
    _spoil(derive(state).fields)
    _spoil(derive(state).grant)
    assert dumped(state) == before
    assert changes == given_away


@given(rows())
def test_the_record_is_the_one_that_the_rules_spell_out(changes):
    state = fold(changes)
    shown = derive(state)
    assert shown.fields == _record_by_the_rules(state)
    assert shown.deleted == (shown.deleted_at_us is not None)
    assert shown.updated_at_us == max(
        (write.instant for write in state.writes.values() if write.instant != NO_INSTANT), default=None
    )


@given(rows())
def test_of_the_deletes_passed_over_those_are_kept_that_would_win_if_an_earlier_row_made_the_record(changes):
    state = fold(changes)
    first = min((Order(change.created_at_us, change.id) for change in changes if _makes(change)), default=None)
    assert state.first == first
    # Of a delete alone nothing makes the record: it is passed over.
    deletes = [write for change in changes for write in fold([change]).early]
    others = [write for change in changes if (write := fold([change]).writes.get(("deletedAt",))) is not None]

    def winner(counting: list[Write]) -> Write | None:
        return max(others + counting, key=lambda write: write[:3], default=None)

    early = [write for write in deletes if first is None or write.order < first]
    assert state.writes.get(("deletedAt",)) == winner([write for write in deletes if write not in early])
    could_win = [winner([other for other in deletes if other.order >= write.order]) for write in early]
    assert sorted(state.early) == sorted({write for write in early if write in could_win})


@given(st.data())
def test_a_record_is_deleted_when_a_new_device_does_not_have_it(data):
    changes: list[Change] = []
    for number in range(data.draw(st.integers(1, 8))):
        # A tombstone of what the device has makes it forget all fields.
        early = [] if any(map(_makes, changes)) else ["delete", "tombstone"]
        kind = data.draw(st.sampled_from(["insert", "empty insert", "update", "unstamped", "delete", *early]))
        time = data.draw(st.sampled_from([None, *map(at, range(7))]))
        stamp = at(data.draw(TIMES))
        op, fields, meta = {
            "insert": ("insert", {"createdAt": stamp, "deletedAt": time}, {}),
            "empty insert": ("insert", data.draw(st.sampled_from([None, {}])), {}),
            "update": ("update", {"deletedAt": time, "title": "t"}, {"deletedAt": stamp, "title": stamp}),
            "unstamped": ("update", {"title": "t"}, {"state": stamp}),
            "delete": ("delete", {"deletedAt": time or stamp}, {}),
            "tombstone": ("delete", {}, {}),
        }[kind]
        changes.append(row(op, number // 2, fields, meta, number=number))
    device = new_device_view(changes).get(Key("ai", "aiMissions", "m1"))
    assert (device is not None) == any(map(_makes, changes))
    if device is not None:
        arrived = data.draw(st.permutations(changes))
        assert derive(fold(arrived)).deleted == (comparable(device) is None)


def _makes(change: Change) -> bool:
    """Whether a device makes a record that it does not have of the change."""
    stamped = change.data.keys() & change.field_meta.keys()
    return change.op == "insert" or (change.op == "update" and bool(stamped))


@given(rows())
def test_the_effective_grant_never_outlives_or_outreaches_its_issue(changes):
    state = fold(changes)
    grant = derive(state).grant
    found = [
        (write.instant, write.created_us, write.change_id, change, path)
        for change in changes
        for path, write in fold([change]).writes.items()
        if path == ("grant",) or (path == ("grant", "wrappedKey") and "grant" not in change.data)
    ]
    if not found:
        assert grant is None
        return
    *stamp, issue, path = max(found, key=lambda write: write[:3])
    if path == ("grant",):
        carried = issue.data["grant"] if isinstance(issue.data["grant"], dict) else {}
    else:
        carried = derive(fold([issue])).fields["grant"]
    if not isinstance(carried.get("wrappedKey"), str) or not carried["wrappedKey"]:
        assert grant is None
        return
    assert grant is not None
    assert grant["wrappedKey"] == carried["wrappedKey"]
    assert grant.get("issuedAt") == carried.get("issuedAt")
    scope, carried_scope = grant["derivation"], carried.get("derivation")
    if isinstance(carried_scope, dict):
        assert scope.get("recordIds") == carried_scope.get("recordIds")
    elif carried_scope is None and isinstance(scope, dict):
        assert scope.keys() <= {"version", "missionId"}
    ends = [carried.get("expiresAt")]
    if _instant(ends[0]) is not None:
        for change in changes:
            if change is not issue and change.op == "update" and "grant" not in change.data:
                write = fold([change]).writes.get(("grant", "expiresAt"))
                if write is not None and list(write[:3]) > stamp and _instant(write.value) is not None:
                    ends.append(write.value)
        assert _instant(grant["expiresAt"]) == min(_instant(end) for end in ends)
    else:
        assert grant.get("expiresAt") == ends[0]


def _instant(text: object) -> int | None:
    return parse_instant(text) if isinstance(text, str) else None


def _record_by_the_rules(state: State) -> dict[str, object]:
    """Rule by rule and without haste: copies everything, looks at every ancestor."""
    # One by one: values drawn twice are one object, and copied together they would stay one.
    writes = {path: write._replace(value=copy.deepcopy(write.value)) for path, write in state.writes.items()}
    tree: dict[str, object] = {}
    for path in sorted(writes, key=lambda path: (len(path), path)):
        ancestors = [writes[path[:depth]] for depth in range(1, len(path)) if path[:depth] in writes]
        order = Order(writes[path].created_us, writes[path].change_id)
        if any(order <= Order(ancestor.created_us, ancestor.change_id) for ancestor in ancestors):
            continue
        inner: object = tree
        for segment in path[:-1]:
            below = inner.get(segment)
            if below is None or below is False or below == "" or (isinstance(below, int | float) and below == 0):
                below = inner[segment] = {}
            inner = below
            if not isinstance(inner, dict):
                break
        else:
            inner[path[-1]] = writes[path].value
    return tree


def _spoil(value: object) -> None:
    if isinstance(value, dict):
        for item in value.values():
            _spoil(item)
        value["spoilt"] = True
    elif isinstance(value, list):
        for item in value:
            _spoil(item)
        value.append("spoilt")
