"""Ciphertext stays where it is: nothing that clients encrypted reaches a prompt, a log line or a remote service."""

from __future__ import annotations

import re
from typing import Any

PREFIX = "enc:1:"
PLACEHOLDER = "[verschlüsselt]"

# The wire form is enc:1:<base64 iv>.<base64 ciphertext>; a cut one counts too.
_ENCRYPTED = re.compile(r"enc:1:[A-Za-z0-9+/=_.\-]*", re.IGNORECASE)


def is_ciphertext(text: str) -> bool:
    """Whether a field as a whole is encrypted."""
    return text.lstrip().lower().startswith(PREFIX)


def scrub(value: Any) -> Any:
    """The same JSON value with every encrypted part of every string and key replaced by PLACEHOLDER."""
    if isinstance(value, str):
        return _ENCRYPTED.sub(PLACEHOLDER, value)
    if isinstance(value, dict):
        return {scrub(key): scrub(item) for key, item in value.items()}
    if isinstance(value, list):
        return [scrub(item) for item in value]
    return value
