"""Rows are found in the bytes of a replication connection, wherever the network splits them."""

from __future__ import annotations

import pytest

from tests.faults.copy_rows import HEAD, CopyRows


def message(kind: bytes, content: bytes) -> bytes:
    return kind + (len(content) + 4).to_bytes(4, "big") + content


def wal(written: bytes) -> bytes:
    return message(b"d", b"w" + bytes(24) + written)


KEEPALIVE = message(b"d", b"k" + bytes(17))
BEFORE = message(b"R", bytes(4)) + message(b"D", b"I" * 40) + message(b"W", bytes(3)) + KEEPALIVE
FIRST = wal(b"B" + bytes(20)) + wal(b"R" + bytes(90)) + wal(b"I" + bytes(200)) + KEEPALIVE + wal(b"I")
SECOND = wal(b"C" + bytes(25)) + wal(b"B" + bytes(20)) + wal(b"D" + bytes(9)) + wal(b"I" + bytes(7))
LOG = BEFORE + FIRST + SECOND


@pytest.mark.parametrize("size", [1, 4, 5, 30, 31, 32, 100, len(LOG)])
def test_the_rows_of_a_transaction_are_numbered_and_placed_however_they_are_split(size: int) -> None:
    rows, found = CopyRows(), []
    for at in range(0, len(LOG), size):
        chunk = LOG[at : at + size]
        for row in rows.follow(chunk):
            assert 0 < row.head <= len(chunk)
            found.append((row.number, LOG[at + row.head - HEAD : at + row.end]))
    assert found == [(1, wal(b"I" + bytes(200))), (2, wal(b"I")), (1, wal(b"I" + bytes(7)))]
