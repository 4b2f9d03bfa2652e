"""What may be shown of a record's values: no key material, no ciphertext in full, and nothing that moves the cursor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from projector.planner.ciphertext import PREFIX, is_ciphertext

WRAPPED_KEY = "wrappedKey"
WIDTH = 100


def redact(value: Any, path: Sequence[str] = ()) -> Any:
    """The same JSON value at `path`, its ciphertexts and wrapped keys as their length in bytes."""
    # A key of an insert is literal, so its last part may name what a path would.
    if path and path[-1].rpartition(".")[2] == WRAPPED_KEY and value is not None:
        return f"(redacted, {_size(value)} bytes)"
    if isinstance(value, str):
        return f"{PREFIX}… ({_size(value)} bytes)" if is_ciphertext(value) else value
    if isinstance(value, dict):
        return {redact(key): redact(item, (key,)) for key, item in value.items()}
    if isinstance(value, list):
        return [redact(item) for item in value]
    return value


def shown(value: Any, path: Sequence[str] = ()) -> str:
    """The redacted value as JSON text for a terminal, cut to WIDTH characters."""
    return clipped(redact(value, path))


def clipped(value: Any) -> str:
    """The same of a value that is redacted already."""
    text = printable(orjson.dumps(value).decode())
    return text if len(text) <= WIDTH else f"{text[:WIDTH]}… ({len(text):,} characters)"


def printable(text: str) -> str:
    """Control characters and marks of direction as escapes: what users wrote must not steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _size(value: Any) -> int:
    return len(value.encode()) if isinstance(value, str) else len(orjson.dumps(value))
