"""A record as it was: which of its changes lie within a time, an offset or an LSN. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from projector.errors import ConfigError, HistoryCutError
from projector.fold import parse_instant
from projector.log.place import Place, lsn_text, parse_lsn
from projector.views.explain import Entry

_LSN = re.compile(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}")


@dataclass(frozen=True, slots=True)
class AtTime:
    """Everything that committed at this time (µs since the epoch) or before."""

    us: int


@dataclass(frozen=True, slots=True)
class AtOffset:
    """Everything below this offset of the record's partition."""

    offset: int


@dataclass(frozen=True, slots=True)
class AtLsn:
    """Everything that committed up to this LSN of the newest source, and all of the sources before it."""

    lsn: int


AsOf: TypeAlias = AtTime | AtOffset | AtLsn


class Reach(NamedTuple):
    """What the partition holds: its beginning, the place of the first record there, and the newest source."""

    beginning: int
    first: Place | None
    newest_source: int


def parse_as_of(text: str) -> AsOf:
    """Tells the three apart by their looks; raises ConfigError for anything else."""
    if text.isascii() and text.isdigit():
        return AtOffset(int(text))
    if _LSN.fullmatch(text):
        return AtLsn(parse_lsn(text))
    us = parse_instant(text)
    if us is None:
        raise ConfigError(
            f"--as-of {text!r} is no time, offset or LSN",
            "write a time with its zone (2026-06-01T10:00:00Z), an offset (1234) or an LSN (0/16B3748)",
        )
    return AtTime(us)


def select(entries: list[Entry], as_of: AsOf, reach: Reach) -> list[Entry]:
    """The changes that were there; raises HistoryCutError when what the topic lost could be among them or not.

    Changes that are not in the topic yet have no place: they count by time alone, as those of before its beginning.
    """
    if any(entry.whence == "before the topic's beginning" for entry in entries):
        _require_reach(as_of, reach)
    return [entry for entry in entries if _within(entry, as_of, reach)]


def _within(entry: Entry, as_of: AsOf, reach: Reach) -> bool:
    if isinstance(as_of, AtTime):
        return entry.at_us <= as_of.us
    if entry.offset is None or entry.place is None:
        # What was cut off lies below everything that is left, and what is to come above it.
        return entry.whence == "before the topic's beginning"
    if isinstance(as_of, AtOffset):
        return entry.offset < as_of.offset
    return (entry.place.source, entry.place.lsn) <= (reach.newest_source, as_of.lsn)


def _require_reach(as_of: AsOf, reach: Reach) -> None:
    if isinstance(as_of, AtOffset) and as_of.offset < reach.beginning:
        raise HistoryCutError(f"offset {as_of.offset} lies before the topic's beginning, offset {reach.beginning}")
    if isinstance(as_of, AtLsn):
        first = reach.first
        if first is None or (reach.newest_source, as_of.lsn) < (first.source, first.lsn):
            begins = "holds nothing" if first is None else f"begins at LSN {lsn_text(first.lsn)}"
            raise HistoryCutError(f"LSN {lsn_text(as_of.lsn)} lies before the topic's beginning: it {begins}")
