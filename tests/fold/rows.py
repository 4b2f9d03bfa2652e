"""Rows for tests of the fold, written briefly: times are seconds after a common start."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from projector.fold import Record, derive, fold, format_instant, parse_instant
from projector.log.change import Change

START = "2026-06-01T10:00:00.000Z"
_START_US = parse_instant(START) or 0


def us(seconds: float) -> int:
    """`seconds` after the start, in µs since the epoch."""
    return _START_US + round(seconds * 1_000_000)


def at(seconds: float) -> str:
    """`seconds` after the start, as a stamp."""
    return format_instant(us(seconds))


def row(
    op: str,
    created: float,
    data: dict[str, Any] | None,
    meta: dict[str, Any] | None = None,
    *,
    number: int | None = None,
    space_id: str | None = None,
) -> Change:
    """A row created `created` seconds after the start; its id follows from `number`, else from its time."""
    return Change(
        id=str(UUID(int=us(created) if number is None else number)),
        app_id="ai",
        table="aiMissions",
        record_id="m1",
        user_id="u1",
        op=op,
        data=data if data is not None else {},
        field_meta=meta or {},
        client_id="c1",
        created_at_us=us(created),
        schema_version=1,
        actor=None,
        origin=None,
        space_id=space_id,
        data_is_null=data is None,
    )


def insert(created: float, data: dict[str, Any] | None, meta: dict[str, Any] | None = None, **more: Any) -> Change:
    return row("insert", created, data, meta, **more)


def update(created: float, data: dict[str, Any], stamp: Any = None, **more: Any) -> Change:
    """All keys stamped alike: with `stamp` as it is when text or object, else with `created`, or that many seconds."""
    if stamp is None:
        stamp = created
    slot = at(stamp) if isinstance(stamp, int | float) else stamp
    return row("update", created, data, dict.fromkeys(data, slot), **more)


def unstamped(created: float, data: dict[str, Any], **more: Any) -> Change:
    return row("update", created, data, {}, **more)


def delete(created: float, deleted_at: str | None = None, **more: Any) -> Change:
    return row("delete", created, {} if deleted_at is None else {"deletedAt": deleted_at}, **more)


def record(*changes: Change) -> Record:
    return derive(fold(changes))


def fields(*changes: Change) -> dict[str, Any]:
    return record(*changes).fields
