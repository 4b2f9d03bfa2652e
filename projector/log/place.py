"""A place in the log: source generation, commit LSN, ordinal in the transaction. Never the LSN alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Place(NamedTuple):
    """Ordered as a tuple. `ord` counts the published records of one transaction from 0."""

    source: int
    lsn: int
    ord: int

    def __str__(self) -> str:
        return f"{self.source}:{lsn_text(self.lsn)}:{self.ord}"


def parse_place(text: str) -> Place:
    """The inverse of `str`; raises ValueError."""
    source, lsn, number = text.split(":")
    return Place(int(source), parse_lsn(lsn), int(number))


def lsn_text(lsn: int) -> str:
    """PostgreSQL's way of writing a 64-bit WAL position: two hexadecimal halves."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> int:
    """The inverse of `lsn_text`; raises ValueError."""
    high, slash, low = text.partition("/")
    if not slash:
        raise ValueError(f"{text!r} is no LSN")
    return int(high, 16) << 32 | int(low, 16)


def from_headers(headers: Mapping[str, bytes]) -> Place:
    """Reads the place of a Kafka record; raises KeyError or ValueError when it has none."""
    return Place(int(headers["source"]), parse_lsn(headers["lsn"].decode("ascii")), int(headers["ord"]))
