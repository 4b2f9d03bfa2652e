"""What users wrote and models answered, for a person to read: with the right to, and only once that is written down.

The database sees to it: a role shows the run that its login has told to read, and no other.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg
from psycopg import conninfo

from projector.config import Settings
from projector.errors import ConfigError, ContentRefusedError, NotMigratedError, RowSecurityError
from projector.planner.runs import Connection, StoredStep, Whole
from projector.sql import query
from projector.sql.connection import CONTENT_ROLE, connect


async def with_content(
    settings: Settings, user_id: str, run_id: UUID, whole: Whole, steps: Sequence[StoredStep]
) -> tuple[Whole, list[StoredStep]]:
    """The run and its steps with the content that the login of the settings may read; the reading is noted.

    Raises ContentRefusedError when it has no right to, ConfigError when the run is gone.
    """
    async with _reading(settings, user_id, run_id) as conn:
        cursor = await conn.execute(query("planner/content_run"), {"run_id": run_id})
        run = await cursor.fetchone()
        if run is None:
            raise ConfigError(f"there is no run {run_id} any more", "`projector runs list` shows those there are")
        cursor = await conn.execute(query("planner/content_steps"), {"run_id": run_id})
        responses: dict[int, Any] = dict(await cursor.fetchall())
    brief, plan = run
    return (
        replace(whole, brief=brief, plan=plan),
        [replace(step, response=responses.get(step.seq)) for step in steps],
    )


async def note_reading(settings: Settings, user_id: str, run_id: UUID) -> None:
    """Notes that what is made of a user's data is read. Raises ContentRefusedError for a login without the right."""
    async with _reading(settings, user_id, run_id):
        pass


@asynccontextmanager
async def _reading(settings: Settings, user_id: str, run_id: UUID) -> AsyncIterator[Connection]:
    try:
        conn = await connect(settings, CONTENT_ROLE)
    except NotMigratedError as error:
        if "does not exist" in error.message:
            raise
        login = conninfo.conninfo_to_dict(settings.require_database()).get("user") or "LOGIN"
        raise ContentRefusedError(
            f"the login {login} may not read what users wrote: it is no member of the role {CONTENT_ROLE}",
            f"without --content sizes are shown. Who may read it needs, from an administrator: grant {CONTENT_ROLE} to"
            f" {psycopg.sql.Identifier(str(login)).as_string()}",
        ) from error
    async with conn:
        row = await (await conn.execute(query("planner/enter_content"), {"user_id": user_id})).fetchone()
        if row is None or not row[1]:
            raise RowSecurityError(f"row-level security does not hold for the role {CONTENT_ROLE}")
        # A transaction of its own: what is not written down is not shown.
        await conn.execute(query("planner/note_read"), {"user_id": user_id, "run_id": run_id})
        yield conn
