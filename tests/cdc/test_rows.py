"""Rows as JSON: what a compiled decoder makes of any row is what the columns said."""

from __future__ import annotations

import struct

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projector.cdc.instant_text import iso_instant
from projector.cdc.json_text import SPECIAL, escape, needs_escape
from projector.cdc.pgoutput import Column, MalformedMessage, Missing, Relation
from projector.cdc.rows import RowCodec
from projector.errors import TableShapeError

TYPES = {
    "id": 2950,
    "app_id": 25,
    "table_name": 25,
    "record_id": 25,
    "user_id": 25,
    "op": 25,
    "data": 3802,
    "field_meta": 3802,
    "client_id": 25,
    "created_at": 1184,
    "schema_version": 23,
    "actor": 3802,
    "origin": 25,
    "space_id": 25,
}
ROW: dict[str, bytes | None] = {
    "id": b"6f5f7c1e-3d0b-5c53-9d6b-6a1f0f6c2b10",
    "app_id": b"ai",
    "table_name": b"aiMissions",
    "record_id": b"m1",
    "user_id": b"anna",
    "op": b"insert",
    "data": b'{"a": 1.50}',
    "field_meta": b"{}",
    "client_id": b"c1",
    "created_at": b"2026-11-25 18:30:27.123456+00",
    "schema_version": b"1",
    "actor": None,
    "origin": None,
    "space_id": None,
}
# Postgres text: anything but NUL and surrogates.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)


def relation(names: list[str], **other_types: int) -> Relation:
    columns = [Column(name, other_types.get(name, TYPES.get(name, 25)), -1, False) for name in names]
    return Relation(7, "public", "sync_changes", "i", tuple(columns))


def message(values: list[bytes | None]) -> bytes:
    columns = [b"n" if v is None else b"t" + struct.pack(">i", len(v)) + v for v in values]
    return b"I\0\0\0\7N" + struct.pack(">h", len(values)) + b"".join(columns)


def encode(row: dict[str, bytes | None], order: list[str] | None = None, **types: int) -> bytes:
    names = order or list(row)
    return RowCodec(relation(names, **types)).insert(message([row[name] for name in names]))[-1]


def test_the_columns_stand_in_the_contracts_order_whatever_the_tables() -> None:
    names = ["space_id", *[name for name in reversed(ROW) if name != "space_id"]]
    assert encode(ROW, names) == encode(ROW)
    assert list(orjson.loads(encode(ROW))) == list(TYPES)


def test_json_and_integers_are_spliced_as_they_are() -> None:
    assert b'"data":{"a": 1.50},"field_meta":{},' in encode(ROW)
    assert b'"schema_version":1,"actor":null,"origin":null,"space_id":null}' in encode(ROW)


@given(st.fixed_dictionaries(dict.fromkeys(("table_name", "record_id", "user_id", "client_id"), texts)), texts)
def test_any_text_comes_back_as_it_was(required: dict[str, str], nullable: str) -> None:
    row = ROW | {name: text.encode() for name, text in required.items()}
    row |= {"origin": nullable.encode(), "space_id": nullable.encode()}
    value = orjson.loads(encode(row))
    assert {name: value[name] for name in required} == required
    assert value["origin"] == value["space_id"] == nullable


@given(texts)
def test_escaping_is_json_and_only_where_needed(text: str) -> None:
    octets = text.encode()
    assert orjson.loads(b'"%b"' % escape(octets)) == text
    assert needs_escape(octets) == any(octet in SPECIAL for octet in octets)
    assert needs_escape(octets) == (escape(octets) != octets)


@pytest.mark.parametrize(
    ("printed", "instant"),
    [
        (b"2026-11-25 18:30:27.123456+00", b"2026-11-25T18:30:27.123456Z"),
        (b"2026-11-25 18:30:27.12+00", b"2026-11-25T18:30:27.120000Z"),
        (b"2026-11-25 18:30:27+00", b"2026-11-25T18:30:27.000000Z"),
        (b"0001-01-01 00:00:00+00", b"0001-01-01T00:00:00.000000Z"),
        (b"infinity", b"infinity"),
        (b"10000-01-01 00:00:00.12345+00", b"10000-01-01 00:00:00.12345+00"),
        (b"0044-03-15 12:00:00.123+00 BC", b"0044-03-15 12:00:00.123+00 BC"),
    ],
)
def test_instants_have_six_digits_and_what_is_none_stays(printed: bytes, instant: bytes) -> None:
    assert iso_instant(printed) == instant
    assert orjson.loads(encode(ROW | {"created_at": printed}))["created_at"] == instant.decode()


def test_unknown_columns_follow_the_known_ones() -> None:
    row = ROW | {"100%": b'a"b', "flag": b"t", "none": None, "extra": b"[1]"}
    value = encode(row, flag=16, extra=3802)
    assert orjson.loads(value) == orjson.loads(encode(ROW)) | {"100%": 'a"b', "flag": True, "none": None, "extra": [1]}


def test_the_former_name_of_field_meta_is_understood() -> None:
    names = ["field_timestamps" if name == "field_meta" else name for name in ROW]
    row = {**ROW, "field_timestamps": ROW["field_meta"]}
    codec = RowCodec(relation(names, field_timestamps=3802))
    assert codec.insert(message([row[name] for name in names]))[-1] == encode(ROW)


@pytest.mark.parametrize("name", TYPES)
def test_a_missing_column_is_named(name: str) -> None:
    with pytest.raises(TableShapeError, match=f"no column {name}"):
        RowCodec(relation([other for other in ROW if other != name]))


@pytest.mark.parametrize(("name", "oid"), [("data", 25), ("created_at", 1114), ("schema_version", 1700), ("id", 17)])
def test_a_column_of_another_type_is_named(name: str, oid: int) -> None:
    with pytest.raises(TableShapeError, match=f"{name} holds"):
        RowCodec(relation(list(ROW), **{name: oid}))


def test_null_where_the_log_has_none_is_refused() -> None:
    with pytest.raises(TableShapeError):
        encode(ROW | {"user_id": None})


def test_a_row_cut_anywhere_is_refused() -> None:
    whole = message(list(ROW.values()))
    codec = RowCodec(relation(list(ROW)))
    for end in range(5, len(whole)):
        with pytest.raises((MalformedMessage, TableShapeError)):
            codec.insert(whole[:end])
    with pytest.raises(MalformedMessage):
        codec.insert(whole + b"n")


def test_an_erased_row_tells_its_identity_alone() -> None:
    codec = RowCodec(relation(list(ROW)))
    values = tuple(value if name != "data" else b"secret" for name, value in ROW.items())
    user_id, app_id, table, op, change_id, value = codec.erased(values)
    assert (user_id, app_id, table, op, change_id) == (b"anna", b"ai", b"aiMissions", b"erased", ROW["id"])
    assert list(orjson.loads(value)) == ["id", "app_id", "table_name", "record_id", "user_id", "op"]


@pytest.mark.parametrize("value", [None, Missing.UNCHANGED_TOAST])
def test_an_erased_row_without_its_user_is_refused(value: Missing | None) -> None:
    values = tuple(value if name == "user_id" else v for name, v in ROW.items())
    with pytest.raises(TableShapeError, match="without user_id"):
        RowCodec(relation(list(ROW))).erased(values)
