"""A change: one row of `sync_changes` as its topic carries it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from projector.log.clock import EARLIEST_US, LATEST_US, from_datetime

SUPPORTED_SCHEMA_VERSION = 1
MAX_DEPTH = 100
"""Objects and arrays inside each other, and segments of a key: far beyond real records, far below any encoder."""
MAX_IDENTITY = 2_600
"""Octets of user, app, table and record together. An entry of an index of PostgreSQL has room for 2,704."""
ERASED = "erased"
"""`op` of a record that says a row was deleted from the log: reload what it belonged to."""
FILL_HEADER = "fill"
"""Header of a record that was published out of the table; it names the fill."""
TRUNCATED = "truncated"
"""`op` of a record without a key that says all rows were deleted from the log: reload all of its partition."""


class BadChange(Exception):  # a verdict on data, not a fault of the program
    """A change that cannot be folded. `code` is short and bounded (a metric label); `detail` is for people."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


@dataclass(slots=True)
class Change:
    """`data` and `field_meta` are always objects here; `data_is_null` tells a row whose data was null."""

    id: str
    app_id: str
    table: str
    record_id: str
    user_id: str
    op: str
    data: dict[str, Any]
    field_meta: dict[str, Any]
    client_id: str
    created_at_us: int
    schema_version: int
    actor: Any
    origin: str | None
    space_id: str | None
    data_is_null: bool = False


# NUL cannot be stored by PostgreSQL, lone surrogates not be encoded; in JSON both come as escapes.
_SUSPECT = re.compile(rb"\\u0000|\\u[dD][89a-fA-F]")


def decode(value: bytes) -> Change:
    """Decodes the value of a change's record; raises BadChange with the cause when it cannot be folded."""
    try:
        row = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise BadChange(_why_unreadable(value, error), str(error)) from None
    if not isinstance(row, dict):
        raise BadChange("not-json", "the value is no object")
    try:
        user_id = row["user_id"]
        data, meta = row["data"], row["field_meta"]
        change = Change(  # by position: fifteen keywords cost as much as a third of the parsing
            row["id"],
            row["app_id"],
            row["table_name"],
            row["record_id"],
            user_id,
            row["op"],
            data if isinstance(data, dict) else {},
            meta if isinstance(meta, dict) else {},
            row["client_id"],
            from_datetime(datetime.fromisoformat(row["created_at"])),
            row["schema_version"],
            row["actor"],
            row["origin"],
            row["space_id"],
            data is None,
        )
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise BadChange("missing-column", f"{type(error).__name__}: {error}") from None
    if not user_id:
        raise BadChange("empty-user-id", "the row names no user")
    # The publisher writes no other types; later code relies on these.
    if not (
        type(user_id) is str
        and type(change.id) is str
        and type(change.app_id) is str
        and type(change.table) is str
        and type(change.record_id) is str
        and type(change.schema_version) is int
        and (change.space_id is None or type(change.space_id) is str)
    ):
        raise BadChange("wrong-type", "a text is no text, or schema_version no integer")
    # No character has more than four octets. Counting them costs more than all that is looked at here.
    if len(user_id) + len(change.record_id) + len(change.table) + len(change.app_id) > MAX_IDENTITY // 4:
        octets = sum(len(part.encode()) for part in (user_id, change.app_id, change.table, change.record_id))
        if octets > MAX_IDENTITY:
            raise BadChange("id-too-long", f"user, app, table and record have {octets} octets")
    if not EARLIEST_US <= change.created_at_us <= LATEST_US:
        raise BadChange("wrong-type", "created_at is outside of the years 1 to 9999, UTC")
    if data is not None and not isinstance(data, dict):
        raise BadChange("data-not-object", f"data is a JSON {_json_kind(data)}")
    if change.schema_version > SUPPORTED_SCHEMA_VERSION:
        raise BadChange("unknown-schema-version", f"schema_version is {change.schema_version}")
    if change.op not in ("insert", "update", "delete"):
        raise BadChange("unknown-op", f"op is {change.op!r}")
    # What has few of these characters is not deep. Removing them costs a quarter of counting them.
    if len(value) - len(value.translate(None, b"{[.")) >= MAX_DEPTH:
        if _depth(row) > MAX_DEPTH:
            raise BadChange("too-deep", f"values are nested more than {MAX_DEPTH} deep")
        if any(key.count(".") >= MAX_DEPTH for key in change.data):
            raise BadChange("too-deep", f"a key has more than {MAX_DEPTH} segments")
    # One octet is found many times faster than six.
    if b"\\" in value and b"\\u0000" in value and _holds_nul(row):
        raise BadChange("unstorable-text", "a text holds U+0000")
    return change


def _why_unreadable(value: bytes, error: orjson.JSONDecodeError) -> str:
    # JSON has no infinity, which is what devices make of such a number: the change cannot be shown as they show it.
    if error.msg.startswith("number is infinity"):
        return "number-out-of-range"
    return "unstorable-text" if _SUSPECT.search(value) else "not-json"


def _json_kind(value: object) -> str:
    return {list: "array", str: "string", bool: "boolean"}.get(type(value), "number")


def _depth(value: object) -> int:
    """Level by level, because recursion is what deep values exhaust."""
    depth, level = 0, [value]
    while level := [
        inner
        for outer in level
        if isinstance(outer, (dict, list))
        for inner in (outer.values() if isinstance(outer, dict) else outer)
    ]:
        depth += 1
    return depth


def _holds_nul(value: object) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any("\0" in key or _holds_nul(item) for key, item in value.items())
    return isinstance(value, list) and any(_holds_nul(item) for item in value)
