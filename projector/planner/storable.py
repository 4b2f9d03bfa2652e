"""Text that PostgreSQL can keep: no U+0000, no lone surrogates, no numbers that JSON lacks."""

from __future__ import annotations

import math
import re
from typing import Any

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def storable(value: Any) -> Any:
    """The same JSON value with what `jsonb` refuses replaced: by U+FFFD in strings and keys, by null as a number."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [storable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
