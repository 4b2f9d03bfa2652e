"""Time as integers: microseconds since the Unix epoch, UTC."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# PostgreSQL counts from 2000-01-01 on the wire.
POSTGRES_EPOCH_US = 946_684_800_000_000

# What a datetime can hold: the years 1 to 9999.
EARLIEST_US = -62_135_596_800_000_000
LATEST_US = 253_402_300_799_999_999


def now_us() -> int:
    """The wall clock."""
    return time.time_ns() // 1000


def to_datetime(us: int) -> datetime:
    """Exact; raises OverflowError outside the years 1 to 9999."""
    return EPOCH + timedelta(microseconds=us)


def from_datetime(moment: datetime) -> int:
    """Exact; the datetime must carry a time zone."""
    return (moment - EPOCH) // _MICROSECOND
