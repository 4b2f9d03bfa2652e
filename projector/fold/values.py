"""JSON values as Python has them."""

from __future__ import annotations

from typing import Any


def copy_json(value: Any) -> Any:
    """A copy that shares no object and no array with its source; scalars are immutable anyway."""
    # Scalars are told apart before the call, and loops need one frame a level: both matter for large arrays.
    if isinstance(value, dict):
        copied: dict[str, Any] = {}
        for key, item in value.items():
            copied[key] = copy_json(item) if isinstance(item, dict | list) else item
        return copied
    if isinstance(value, list):
        items: list[Any] = []
        for item in value:
            items.append(copy_json(item) if isinstance(item, dict | list) else item)
        return items
    return value


def is_falsy(value: object) -> bool:
    """As JavaScript has it: null, false, zero and the empty text. An empty array or object is truthy."""
    return not value and not isinstance(value, list | dict)
