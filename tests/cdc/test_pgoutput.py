"""The parser, on bytes put together here; those of a real server are in test_pgoutput_server.py."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projector.cdc.pgoutput import (
    Begin,
    Column,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    MalformedMessage,
    Missing,
    Origin,
    Relation,
    Truncate,
    Type,
    Update,
    parse,
)

TUPLE = b"\0\3" + b"t\0\0\0\2ab" + b"n" + b"u"
VALUES = (b"ab", None, Missing.UNCHANGED_TOAST)

EXAMPLES = {
    b"B" + struct.pack(">qqI", 0x1_0000_0002, 3, 4_000_000_000): Begin(0x1_0000_0002, 3, 4_000_000_000),
    b"C\0" + struct.pack(">qqq", 1, 2, 3): Commit(1, 2, 3),
    b"O" + struct.pack(">q", 7) + b"upstream\0": Origin(7, "upstream"),
    b"R" + struct.pack(">I", 5) + b"public\0t\0i" + b"\0\1" + b"\1id\0" + struct.pack(">Ii", 2950, -1): Relation(
        5, "public", "t", "i", (Column("id", 2950, -1, True),)
    ),
    b"R" + struct.pack(">I", 5) + b"\0t\0n\0\0": Relation(5, "pg_catalog", "t", "n", ()),
    b"Y" + struct.pack(">I", 6) + b"public\0mood\0": Type(6, "public", "mood"),
    b"I\0\0\0\5N" + TUPLE: Insert(5, VALUES),
    b"U\0\0\0\5N" + TUPLE: Update(5, None, False, VALUES),
    b"U\0\0\0\5K" + TUPLE + b"N" + TUPLE: Update(5, VALUES, True, VALUES),
    b"U\0\0\0\5O" + TUPLE + b"N" + TUPLE: Update(5, VALUES, False, VALUES),
    b"D\0\0\0\5K" + TUPLE: Delete(5, VALUES, True),
    b"D\0\0\0\5O" + TUPLE: Delete(5, VALUES, False),
    b"T\0\0\0\2\3" + struct.pack(">II", 5, 6): Truncate((5, 6), True, True),
    b"M\1" + struct.pack(">q", 9) + b"mission.due\0\0\0\0\2{}": LogicalMessage(True, 9, "mission.due", b"{}"),
    b"M\0" + struct.pack(">q", 9) + b"\0\0\0\0\0": LogicalMessage(False, 9, "", b""),
}


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(EXAMPLES[m]).__name__)
def test_every_kind_of_message_is_parsed(message: bytes) -> None:
    assert parse(message) == EXAMPLES[message]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(EXAMPLES[m]).__name__)
def test_a_message_cut_anywhere_is_refused_with_the_offset(message: bytes) -> None:
    for end in range(len(message)):
        with pytest.raises(MalformedMessage) as refused:
            parse(message[:end])
        assert 0 <= refused.value.offset <= end
        assert f"at offset {refused.value.offset}" in str(refused.value)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(EXAMPLES[m]).__name__)
def test_bytes_left_over_are_refused(message: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse(message + b"\0")


@pytest.mark.parametrize(
    ("message", "offset"),
    [
        (b"S\0\0\0\1\1", 0),  # the start of a streamed transaction belongs to protocol version 2
        (b"x", 0),
        (b"I\0\0\0\5X\0\0", 5),
        (b"I\0\0\0\5N\xff\xff", 6),
        (b"I\0\0\0\5N\0\1b\0\0\0\0", 8),
        (b"I\0\0\0\5N\0\1t\xff\xff\xff\xff", 9),
        (b"R\0\0\0\5public\0t\0x\0\0", 14),
        (b"O" + b"\0" * 8 + b"\xff\0", 9),
    ],
)
def test_malformed_bytes_are_refused_where_they_are(message: bytes, offset: int) -> None:
    with pytest.raises(MalformedMessage) as refused:
        parse(message)
    assert refused.value.offset == offset


@given(st.binary(max_size=60))
def test_any_bytes_are_parsed_or_refused_and_nothing_else(message: bytes) -> None:
    with contextlib.suppress(MalformedMessage):
        parse(message)
