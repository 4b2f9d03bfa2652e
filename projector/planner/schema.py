"""The part of JSON Schema that describes parameters: what a schema may say, and whether a value holds against it.

What the model is shown is what its calls are checked against, so a keyword that cannot be checked is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

Schema = Mapping[str, Any]

TYPES: dict[str, Callable[[object], bool]] = {
    "string": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
_KEYWORDS = {
    "string": {"enum", "pattern", "format", "minLength", "maxLength"},
    "number": {"minimum", "maximum"},
    "integer": {"minimum", "maximum"},
    "boolean": set[str](),
    "array": {"items", "minItems", "maxItems"},
    "object": {"properties", "required"},
}
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def check_schema(schema: Schema) -> None:
    """Raises ValueError for a type or a keyword that `complaint` does not know."""
    kind = schema.get("type")
    if kind not in TYPES:
        raise ValueError(f"Unsupported parameter type: {kind}")
    if unknown := schema.keys() - _KEYWORDS[kind] - {"type", "description"}:
        raise ValueError(f"unsupported keywords of a {kind}: {', '.join(sorted(unknown))}")
    if "enum" in schema and not (schema["enum"] and all(isinstance(value, str) for value in schema["enum"])):
        raise ValueError("an enum needs strings to choose from")
    if schema.get("format", "date") != "date":
        raise ValueError(f"unsupported format: {schema['format']}")
    pattern = schema.get("pattern", "^$")
    if not (pattern.startswith("^") and pattern.endswith("$")):
        raise ValueError(f"a pattern covers the whole string: {pattern}")
    if kind == "array":
        check_schema(schema.get("items", {}))
    for inner in schema.get("properties", {}).values():
        check_schema(inner)


def complaint(value: object, schema: Schema) -> str | None:
    """What the value must be and is not, as the end of a sentence that begins with its name; None when it holds."""
    kind = schema["type"]
    if not TYPES[kind](value):
        return f"must be of type {kind}"
    match value:
        case str():
            return _of_string(value, schema)
        case bool():
            return None
        case int() | float():
            return _of_number(value, schema)
        case list():
            return _of_array(value, schema)
        case dict():
            return _of_object(value, schema)
    return None


def _of_string(value: str, schema: Schema) -> str | None:
    if "enum" in schema and value not in schema["enum"]:
        return f"must be one of: {', '.join(schema['enum'])}"
    if len(value) < schema.get("minLength", 0):
        return f"must have at least {schema['minLength']} characters"
    if len(value) > schema.get("maxLength", len(value)):
        return f"must have at most {schema['maxLength']} characters"
    # Whole: `$` alone would let a line break at the end through.
    if "pattern" in schema and not re.fullmatch(schema["pattern"], value):
        return f"must match {schema['pattern']}"
    if schema.get("format") == "date" and not _is_date(value):
        return "must be a date as YYYY-MM-DD"
    return None


def _of_number(value: float, schema: Schema) -> str | None:
    if value < schema.get("minimum", value):
        return f"must be at least {schema['minimum']}"
    if value > schema.get("maximum", value):
        return f"must be at most {schema['maximum']}"
    return None


def _of_array(value: list[object], schema: Schema) -> str | None:
    if len(value) < schema.get("minItems", 0):
        return f"must have at least {schema['minItems']} items"
    if len(value) > schema.get("maxItems", len(value)):
        return f"must have at most {schema['maxItems']} items"
    for index, item in enumerate(value):
        if wrong := complaint(item, schema["items"]):
            return f"[{index}] {wrong}"
    return None


def _of_object(value: dict[str, object], schema: Schema) -> str | None:
    for name in schema.get("required", ()):
        if name not in value:
            return f"needs {name}"
    for name, inner in schema.get("properties", {}).items():
        if name in value and (wrong := complaint(value[name], inner)):
            return f".{name} {wrong}"
    return None


def _is_date(value: str) -> bool:
    if not _DATE.fullmatch(value):
        return False
    try:
        date.fromisoformat(value)
    except ValueError:
        return False
    return True
