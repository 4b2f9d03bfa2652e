"""How far a run of `verify` has come, kept in the database so that a stopped one goes on where it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import orjson
import psycopg

from projector.errors import RunContinuedError
from projector.sql import query
from projector.views.declared import Identity
from projector.views.differences import Difference
from projector.views.parting import Parting


@dataclass(frozen=True, slots=True)
class Run:
    """`changes` of `total` rows of the log were folded, `rows` records compared; `id` is None for a run not kept.

    Every user up to `after_user` is done, and every record up to `after_record` of that record's user.
    """

    id: int | None
    total: int
    pages: int = 0
    after_user: str | None = None
    after_record: Identity | None = None
    changes: int = 0
    rows: int = 0
    differences: int = 0
    examples: tuple[Difference, ...] = field(default=())


async def begin(conn: psycopg.AsyncConnection[Any], view: str, total: int) -> Run:
    """A new run; the oldest ones of the view are forgotten."""
    row = await (await conn.execute(query("views/verify_begin"), {"view": view, "total": total})).fetchone()
    await conn.execute(query("views/verify_forget"), {"view": view})
    assert row is not None
    return Run(row[0], total)


async def resume(conn: psycopg.AsyncConnection[Any], view: str) -> Run | None:
    """The newest run of the view if it did not come to its end."""
    row = await (await conn.execute(query("views/verify_resume"), {"view": view})).fetchone()
    if row is None:
        return None
    number, total, pages, user, record, changes, rows, differences, examples = row
    known = tuple(_difference(one) for one in examples)
    return Run(
        number, total, pages, user, None if record is None else _identity(record), changes, rows, differences, known
    )


async def checkpoint(conn: psycopg.AsyncConnection[Any], before: Run, after: Run, *, finished: bool) -> Run:
    """Stores what a page has added; raises RunContinuedError when another process has gone on with this run."""
    if before.id is None:
        return after
    parameters = {
        "id": before.id,
        "pages": before.pages,
        "after_user": after.after_user,
        "after_record": None if after.after_record is None else list(after.after_record),
        "changes": after.changes,
        "rows": after.rows,
        "differences": after.differences,
        "examples": orjson.dumps([asdict(one) for one in after.examples]).decode(),
        "finished": finished,
    }
    if (await conn.execute(query("views/verify_checkpoint"), parameters)).rowcount != 1:
        raise RunContinuedError(f"another process goes on with run {before.id}")
    return replace(after, pages=before.pages + 1)


def _difference(stored: dict[str, Any]) -> Difference:
    parting = stored["parting"]
    return Difference(
        _identity(stored["identity"]),
        stored["kind"],
        stored["path"],
        stored["serving"],
        stored["log"],
        None if parting is None else Parting(parting["change_id"], parting["why"]),
        stored["where"],
    )


def _identity(stored: Sequence[str]) -> Identity:
    user, app, table, record = stored
    return user, app, table, record
