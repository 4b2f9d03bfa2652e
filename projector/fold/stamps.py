"""Instants as writers stamp them, and the order of two writes."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

NO_INSTANT = -(1 << 62)
"""Instant of a write that carries none: below every real one."""

FUTURE_TOLERANCE_US = 5 * 60 * 1_000_000
"""How far a stamp may lie ahead of the server's clock before it is counted as a future one."""

_SECOND_US = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_EARLIEST_US = (date.min.toordinal() - _EPOCH_DAY) * 86_400 * _SECOND_US
_LATEST_US = (date.max.toordinal() + 1 - _EPOCH_DAY) * 86_400 * _SECOND_US - 1

_match = re.compile(
    r"(\d{4}-\d\d-\d\d)T([01]\d|2[0-3]):([0-5]\d):([0-5]\d)(?:\.(\d{1,9}))?"
    r"(?:Z|([+-])([01]\d|2[0-3]):([0-5]\d))",
    re.ASCII,
).fullmatch


class Order(NamedTuple):
    """Where a row stands among all rows: unique, and the same for every reader."""

    created_us: int
    change_id: str


class Write(NamedTuple):
    """One value written to one path. Its stamp is the first three fields, compared in that order."""

    instant: int
    created_us: int
    change_id: str
    value: Any

    @property
    def stamped(self) -> bool:
        return self.instant != NO_INSTANT

    @property
    def order(self) -> Order:
        return Order(self.created_us, self.change_id)

    def beats(self, other: Write) -> bool:
        """True when this stamp is the larger one; a write does not beat itself."""
        return self[:3] > other[:3]


def parse_instant(text: str) -> int | None:
    """Microseconds since the Unix epoch, or None.

    Accepted: `YYYY-MM-DDTHH:MM:SS`, up to nine digits of a fraction (cut to microseconds), and `Z` or `±hh:mm`;
    a real date, and an instant within the years 1 to 9999 UTC. Everything else is no instant.
    """
    if (
        len(text) == 24
        and text[23] == "Z"
        and text[19] == "."
        and text[10] == "T"
        and text[5] != "W"
        and text[11:13] != "24"
    ):
        # As devices write it: of what looks so, `fromisoformat` takes what is described above and nothing else.
        try:
            return (datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND
        except ValueError:
            return None
    found = _match(text)
    if found is None:
        return None
    day, hour, minute, second, fraction, sign, ahead_hours, ahead_minutes = found.groups()
    midnight = _midnight(day)
    if midnight is None:
        return None
    seconds = midnight + (int(hour) * 60 + int(minute)) * 60 + int(second)
    if sign is not None:
        ahead = (int(ahead_hours) * 60 + int(ahead_minutes)) * 60
        seconds += -ahead if sign == "+" else ahead
    us = seconds * _SECOND_US
    if fraction is not None:
        us += int(fraction[:6].ljust(6, "0"))
    return us if _EARLIEST_US <= us <= _LATEST_US else None


@lru_cache(maxsize=1024)
def _midnight(day: str) -> int | None:
    """Seconds since the epoch at the beginning of `YYYY-MM-DD`, UTC; stamps come many to a day."""
    try:
        return (date(int(day[:4]), int(day[5:7]), int(day[8:])).toordinal() - _EPOCH_DAY) * 86_400
    except ValueError:
        return None


def format_instant(us: int) -> str:
    """`YYYY-MM-DDTHH:MM:SS.mmmZ`, cut (not rounded) to milliseconds.

    Raises OverflowError outside the years 1 to 9999, which have no such text.
    """
    moment = _EPOCH + timedelta(milliseconds=us // 1000)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z".rjust(24, "0")


def following_stamp(now_us: int, newest_us: int | None) -> int:
    """The instant of a write that must win: now, or a millisecond after the newest instant it has to beat.

    Whole milliseconds, because stamps are emitted with three digits. After the last one that there is comes none: it
    is taken again, and the row that is the later one wins.
    """
    wanted = now_us if newest_us is None else max(now_us, newest_us + 1000)
    return min(wanted, _LATEST_US) // 1000 * 1000
