"""What travels with `mission.due` and `mission.iterations`: which run, and nothing to act on."""

from __future__ import annotations

from uuid import UUID

from projector.cdc.commands import BadCommand, parse


def run_of(value: bytes | None) -> tuple[UUID, str] | None:
    """The run and its user; None for anything else, since whoever may write to the topic can put a record there."""
    try:
        return parse(value or b"")
    except BadCommand:
        return None
