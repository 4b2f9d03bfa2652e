"""What a dead letter holds, made safe to look at: anybody may have written it, and some of it is ciphertext."""

from __future__ import annotations

import base64
import re
from typing import Any

SHOWN_BYTES = 64 * 1024
"""Of a payload on the terminal."""

# A JSON text up to its end, or whatever it is up to a quote or a space.
_CIPHERTEXT = re.compile(r'"(enc:1:(?:[^"\\]|\\.)*)|(enc:1:[^"\s]*)', re.DOTALL)


def shorten(text: str) -> str:
    """`text` with `enc:1:… (N bytes)` for each encrypted value."""

    def short(found: re.Match[str]) -> str:
        quoted, bare = found.groups()
        size = len((bare if quoted is None else quoted).encode())
        return f"{'' if quoted is None else chr(34)}enc:1:… ({size} bytes)"

    return _CIPHERTEXT.sub(short, text)


def printable(text: str) -> str:
    """`text` with escapes for what could steer a terminal or turn its reading around."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def inline(text: str | None) -> str:
    """A field of a letter for people."""
    return "-" if text is None else printable(shorten(text))


def payload_lines(value: bytes | None, *, full: bool) -> list[str]:
    """The payload for people: bytes that are no UTF-8 as escapes, and no more than SHOWN_BYTES unless `full`."""
    if value is None:
        return ["(null)"]
    text = value.decode("utf-8", "backslashreplace")
    if full:
        return [printable(line) for line in text.split("\n")]
    raw = shorten(text).encode()
    left = len(raw) - SHOWN_BYTES
    lines = [printable(line) for line in raw[:SHOWN_BYTES].decode("utf-8", "ignore").split("\n")]
    return lines if left <= 0 else [*lines, f"… ({left} more bytes: --full shows them)"]


def payload_fields(value: bytes | None, *, full: bool) -> dict[str, Any]:
    """The payload for scripts: as it is with `full`, else shortened and, where it is no UTF-8, with escapes."""
    if value is None:
        return {"payload": None, "payload_encoding": None, "payload_bytes": 0}
    size = {"payload_bytes": len(value)}
    try:
        text = value.decode()
    except UnicodeDecodeError:
        if full:
            return {"payload": base64.b64encode(value).decode(), "payload_encoding": "base64", **size}
        text = value.decode("utf-8", "backslashreplace")
        return {"payload": shorten(text), "payload_encoding": "escaped", **size}
    return {"payload": text if full else shorten(text), "payload_encoding": "utf-8", **size}
