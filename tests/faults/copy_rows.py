"""Where in the bytes of a replication connection the rows of a transaction stand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

_WAL = 25
"""Octets of a CopyData's content before what the plugin wrote: `w`, two LSNs and a time."""
HEAD = 5 + _WAL + 1
"""Octets until it is known that a message brings a row: type and length, and the first of what the plugin wrote."""


class Row(NamedTuple):
    """`number` in its transaction, from 1. `head`, `end`: offsets in the bytes given; `end` may lie beyond them."""

    number: int
    head: int
    end: int


class CopyRows:
    """Follows what a server sends on one connection, from the first byte on, however it is split."""

    def __init__(self) -> None:
        self._begun = b""
        self._next = 0
        self._number = 0

    def follow(self, chunk: bytes) -> Iterator[Row]:
        """The rows whose head ends in `chunk`, which goes on where the last one ended. To be read to the end."""
        data, before = self._begun + chunk, len(self._begun)
        at = self._next
        while at + 5 <= len(data):
            end = at + 1 + int.from_bytes(data[at + 1 : at + 5], "big")
            if len(data) < min(end, at + HEAD):
                break
            if data[at : at + 1] == b"d" and data[at + 5 : at + 6] == b"w" and end - at >= HEAD:
                kind = data[at + HEAD - 1 : at + HEAD]
                self._number = 0 if kind == b"B" else self._number + (kind == b"I")
                if kind == b"I":
                    yield Row(self._number, at + HEAD - before, end - before)
            at = end
        self._begun, self._next = data[at:], max(0, at - len(data))
