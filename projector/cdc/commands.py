"""Logical messages: which of them are ours, and what they may say.

Any role of the database may emit one, so a message carries nothing but the name of a run; consumers act on the
ledger's row alone.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

import orjson

DUE: Final = "mission.due"
ITERATIONS: Final = "mission.iterations"

_LONGEST = 4096


class BadCommand(Exception):
    """A message under one of our prefixes that does not name a run and its user."""


def parse(content: bytes) -> tuple[UUID, str]:
    """The run and its user, of `{"run_id": uuid, "user_id": text}`; a text that a row can hold, and not empty.

    Raises BadCommand when the content is anything else.
    """
    if len(content) > _LONGEST:
        raise BadCommand(f"{len(content)} bytes")
    try:
        command = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise BadCommand(f"not JSON: {error}") from None
    if not isinstance(command, dict) or set(command) != {"run_id", "user_id"}:
        raise BadCommand("not an object of run_id and user_id")
    run_id, user_id = command["run_id"], command["user_id"]
    if not isinstance(run_id, str) or not isinstance(user_id, str) or not user_id:
        raise BadCommand("run_id and user_id must be texts, and user_id not empty")
    if "\0" in user_id:
        raise BadCommand("user_id holds U+0000, which no row does")
    try:
        run = UUID(run_id)
    except ValueError:
        raise BadCommand("run_id is no UUID") from None
    if str(run) != run_id:
        raise BadCommand("run_id is not written as the database writes a UUID")
    return run, user_id
