"""Erasure of a user: everything that the projector keeps of them, in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import psycopg
from psycopg.errors import DeadlockDetected

from projector.config import Settings
from projector.errors import UserInLogError
from projector.log.topics import partition_of
from projector.logging import get
from projector.sql import query
from projector.sql.user_tables import UserTable, enter
from projector.views import kafka
from projector.views.declared import VIEWS, View
from projector.views.positions import Partition, Positions

# The key of a record names its user, but the value that it came with may be of another one.
LETTERS = UserTable(
    "projector_engine",
    "dead_letters",
    "user_id = %(user)s or position(convert_to(%(member)s, 'UTF8') in value) > 0",
)
# Examples of differences show values of rows, and an unfinished run names the user whom it has come to.
RUNS = UserTable(
    "projector_engine",
    "verify_runs",
    "%(user)s in (after_user, after_record[1])"
    " or exists (select from jsonb_array_elements(examples) as example where example -> 'identity' ->> 0 = %(user)s)",
)
# How far a rebuild from the log has come: the row is the rebuild's, and is not deleted.
REBUILDS = UserTable("projector_engine", "view_rebuilds", "after_user = %(user)s")

log = get("views")


def tables_of(view: View) -> tuple[UserTable, ...]:
    """Every table that holds rows of the view."""
    return tuple(UserTable("projector_engine", f"{view.table}_{generation}") for generation in (1, 2))


def positions_of(view: View, cluster: str) -> tuple[Positions, ...]:
    """The positions of whoever writes to `tables_of`."""
    return (Positions(view.name, cluster), Positions(view.name, cluster, spare=True))


TABLES = (*(table for view in VIEWS.values() for table in tables_of(view)), LETTERS, RUNS)


async def count_log(conn: psycopg.AsyncConnection[Any], user: str) -> dict[str, int]:
    """Rows of the user in sync_changes, by app; inside a transaction."""
    await enter(conn, "projector_engine")
    return dict(await (await conn.execute(query("erase/log_rows"), {"user": user})).fetchall())


async def erase_user(
    conn: psycopg.AsyncConnection[Any],
    settings: Settings,
    user: str,
    tables: Iterable[UserTable],
    cluster: str,
    widths: Mapping[str, int],
) -> None:
    """Deletes the user's rows from `tables`, all or none; engines at work then drop what they remember of them.

    `widths` are the numbers of partitions of the topics of cluster `cluster`. Raises UserInLogError, and deletes
    nothing, when the log has rows of the user at the end, be it that a write-back was faster.
    """
    tables = tuple(tables)
    while True:
        try:
            async with conn.transaction():
                await _hold(conn, settings, user, cluster, widths)
                for table in tables:
                    await table.erase(conn, user)
                if rows := await count_log(conn, user):
                    raise UserInLogError(f"sync_changes holds {sum(rows.values())} rows of this user")
        except DeadlockDetected:
            # Workers renew the leases of many runs in an order of their own.
            log.info("erasure met another writer, beginning again")
        else:
            return


async def _hold(
    conn: psycopg.AsyncConnection[Any], settings: Settings, user: str, cluster: str, widths: Mapping[str, int]
) -> None:
    await enter(conn, "projector_engine")
    for view in VIEWS.values():
        partitions = [
            Partition(topic, partition_of(user.encode(), widths[topic]))
            for topic in kafka.topics_of(settings, view)
            if topic in widths
        ]
        for positions in positions_of(view, cluster):
            await positions.bump(conn, partitions)
