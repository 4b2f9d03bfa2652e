from __future__ import annotations

import orjson
import pytest

from projector.log.change import MAX_DEPTH, MAX_IDENTITY, BadChange, decode

ROW = {
    "id": "00000000-0000-4000-8000-000000000001",
    "app_id": "ai",
    "table_name": "agents",
    "record_id": "a",
    "user_id": "u",
    "op": "insert",
    "data": {"name": "Mana"},
    "field_meta": {},
    "client_id": "c",
    "created_at": "2026-11-25T10:00:00.000001Z",
    "schema_version": 1,
    "actor": None,
    "origin": None,
    "space_id": None,
}


def encoded(**changed: object) -> bytes:
    return orjson.dumps(ROW | changed)


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


def test_a_row_becomes_a_change_with_its_time_in_microseconds() -> None:
    change = decode(encoded())
    assert (change.id, change.table, change.data) == (ROW["id"], "agents", {"name": "Mana"})
    assert change.created_at_us == 1_795_600_800_000_001


@pytest.mark.parametrize("data", [None, {}])
def test_null_data_is_an_empty_object_and_remembered_as_null(data: object) -> None:
    change = decode(encoded(data=data))
    assert change.data == {}
    assert change.data_is_null == (data is None)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b"{", "not-json"),
        (b"[]", "not-json"),
        (encoded(user_id=""), "empty-user-id"),
        (encoded(data=["x"]), "data-not-object"),
        (encoded(data="text"), "data-not-object"),
        (encoded(data=1), "data-not-object"),
        (encoded(schema_version=2), "unknown-schema-version"),
        (encoded(op="upsert"), "unknown-op"),
        (encoded(created_at="yesterday"), "missing-column"),
        (encoded(id=7), "wrong-type"),
        (encoded(record_id=None), "wrong-type"),
        (encoded(user_id=["u1"]), "wrong-type"),
        (encoded(schema_version="1"), "wrong-type"),
        (encoded(space_id={}), "wrong-type"),
        (encoded(created_at="0001-01-01T00:00:00+14:00"), "wrong-type"),
        (encoded(created_at="9999-12-31T23:59:59-14:00"), "wrong-type"),
        (orjson.dumps({"id": "x"}), "missing-column"),
        (encoded(data={"name": "a\0b"}), "unstorable-text"),
        (encoded(data={"deep": [{"a\0b": 1}]}), "unstorable-text"),
        (encoded().replace(b"Mana", b"\\ud83d"), "unstorable-text"),
        (encoded(data={"n": orjson.Fragment("1e400")}), "number-out-of-range"),
        (encoded(actor=[orjson.Fragment("-1.797693134862315808e308")]), "number-out-of-range"),
        (encoded(table_name=7), "wrong-type"),
        (encoded(app_id=None), "wrong-type"),
        (encoded(record_id="é" * (MAX_IDENTITY // 2)), "id-too-long"),
        (encoded(table_name="t" * MAX_IDENTITY), "id-too-long"),
        (encoded(data={"deep": nested(MAX_DEPTH)}), "too-deep"),
        (encoded(op="update", data={".".join("a" * (MAX_DEPTH + 1)): 1}), "too-deep"),
    ],
)
def test_what_cannot_be_folded_names_its_cause(value: bytes, code: str) -> None:
    with pytest.raises(BadChange) as caught:
        decode(value)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "data",
    [
        {"text": "\\u0000 spelled out"},
        {"flat": [[] for _ in range(2 * MAX_DEPTH)]},
        {"prose": "." * 500},
        {"deep": nested(MAX_DEPTH - 3)},
    ],
)
def test_odd_but_sound_values_pass(data: object) -> None:
    assert decode(encoded(data=data)).data == data
