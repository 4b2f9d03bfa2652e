"""What travels with `mission.due` and `mission.iterations`: which run, and nothing to act on."""

from __future__ import annotations

from uuid import UUID

import orjson


def run_of(value: bytes) -> tuple[UUID, str] | None:
    """The run and its user; None for anything else, since whoever may write to the database can emit a message."""
    try:
        message = orjson.loads(value)
        user_id = message["user_id"]
        return (UUID(message["run_id"]), user_id) if isinstance(user_id, str) and user_id else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
