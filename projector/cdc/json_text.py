"""Text as the inside of a JSON string, in bytes: escaped only where JSON demands it.

Postgres sends UTF-8, and JSON carries UTF-8 as it is: only the quote, the backslash and the control characters
below U+0020 need an escape (RFC 8259, section 7).
"""

from __future__ import annotations

import re

SPECIAL = bytes(range(0x20)) + b'"\\'
"""The octets that must be escaped."""

_SPECIAL = re.compile(b"[%b]" % re.escape(SPECIAL))

_ESCAPES = {bytes([code]): b"\\u%04x" % code for code in range(0x20)}
_ESCAPES |= {
    b'"': b'\\"',
    b"\\": b"\\\\",
    b"\b": b"\\b",
    b"\f": b"\\f",
    b"\n": b"\\n",
    b"\r": b"\\r",
    b"\t": b"\\t",
}


def needs_escape(text: bytes) -> bool:
    """Whether `text` holds one of SPECIAL. Deleting them all at once is seven times faster than to search."""
    return len(text.translate(None, SPECIAL)) != len(text)


def escape(text: bytes) -> bytes:
    """The UTF-8 `text` without quotes around it, ready to stand between them."""
    return _SPECIAL.sub(lambda found: _ESCAPES[found[0]], text)
