"""Framing of the streaming replication protocol: what travels inside the COPY BOTH messages.

Source: PostgreSQL documentation, "Streaming Replication Protocol". Offsets and lengths are in bytes, instants in
microseconds since 2000-01-01 UTC.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from projector.cdc.pgoutput import MalformedMessage
from projector.log.clock import POSTGRES_EPOCH_US, now_us

XLOG_DATA: Final = 119  # w: start int64, end int64, send time int64, payload
KEEPALIVE: Final = 107  # k: wal end int64, send time int64, reply wanted byte
XLOG_HEADER: Final = 25

_KEEPALIVE = struct.Struct(">xqqB")
_STATUS = struct.Struct(">cqqqqB")


class Keepalive(NamedTuple):
    """`wal_end`: everything that committed below it has been sent before this message."""

    wal_end: int
    sent_at: int
    reply_wanted: bool


def parse_keepalive(frame: bytes) -> Keepalive:
    """Raises MalformedMessage when the frame is not 18 bytes long."""
    if len(frame) != _KEEPALIVE.size:
        raise MalformedMessage(f"keepalive of {len(frame)} bytes instead of {_KEEPALIVE.size}", 0)
    wal_end, sent_at, reply = _KEEPALIVE.unpack(frame)
    return Keepalive(wal_end, sent_at, bool(reply))


def standby_status(received: int, flushed: int, *, reply_wanted: bool = False) -> bytes:
    """A standby status update: `received` was read, everything below `flushed` is safe and may be forgotten."""
    return _STATUS.pack(b"r", received, flushed, flushed, now_us() - POSTGRES_EPOCH_US, reply_wanted)
