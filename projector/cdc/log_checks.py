"""What `projector doctor` asks of sync_changes: whether its rows are seen, and what its publication sends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import errors

from projector.cdc.publication import IDENTITY_INDEX, apps_of, read_publication
from projector.config import Settings
from projector.errors import Finding
from projector.sql import query

_MIGRATE = "run `projector migrate`"
_MIGRATE_AS_OWNER = "run `projector migrate` as the owner of sync_changes"


def check_log(conn: psycopg.Connection[Any], settings: Settings) -> list[Finding]:
    """Looks through `conn`, an autocommit session that may enter projector_cdc."""
    return [*_sight(conn), *_publication(conn, settings)]


def _sight(conn: psycopg.Connection[Any]) -> Iterator[Finding]:
    """Reads a row as a fill does: with row_security off, a policy that would hide rows is an error instead."""
    try:
        with conn.transaction():
            conn.execute("set local role projector_cdc")
            conn.execute("set local row_security = off")
            conn.execute("select from sync_changes limit 1")
    except errors.InsufficientPrivilege as error:
        text = error.diag.message_primary or ""
        if "row-level security" in text:
            yield Finding(
                "error",
                "projector_cdc cannot see the rows of sync_changes: row-level security hides them",
                "rows that a fill does not see would be missing in the topics, and nobody would notice",
                "alter role projector_cdc bypassrls, as a superuser",
            )
        else:
            yield Finding(
                "error",
                f"projector_cdc may not read sync_changes: {text}",
                "rows of before the slot, and of a gap, are published out of the table",
                f"grant select on sync_changes to projector_cdc, or {_MIGRATE}",
            )


def _publication(conn: psycopg.Connection[Any], settings: Settings) -> Iterator[Finding]:
    name = settings.publication_name
    published = read_publication(conn, name)
    if published is None:
        yield Finding(
            "error", f"there is no publication {name}", "it says which rows the server sends to the stream", _MIGRATE
        )
        return
    apps = apps_of(published.row_filter)
    if published.tables == 0 or not published.inserts:
        yield Finding(
            "error",
            f"publication {name} does not publish inserts of sync_changes",
            "the server would send nothing, and the stream would confirm it",
            _MIGRATE,
        )
    elif apps is None:
        yield Finding(
            "warning",
            f"publication {name} has a row filter of its own: {published.row_filter or 'none, every app passes'}",
            "rows of other apps are sent for nothing, or rows of ours are left out",
            f"{_MIGRATE}, which filters on PROJECTOR_APPS",
        )
    elif missing := sorted(set(settings.apps) - apps):
        yield Finding(
            "error",
            f"publication {name} leaves out apps of PROJECTOR_APPS: {', '.join(missing)}",
            "their changes never reach a topic",
            _MIGRATE,
        )
    elif more := sorted(apps - set(settings.apps)):
        yield Finding(
            "warning",
            f"publication {name} sends apps that PROJECTOR_APPS does not name: {', '.join(more)}",
            "the stream reads their rows and throws them away",
            f"{_MIGRATE}, or name them in PROJECTOR_APPS",
        )
    if published.updates or not published.truncations:
        yield Finding(
            "warning",
            f"publication {name} publishes updates, which the log has no use for, or leaves out truncations",
            "a table that was emptied would live on in the topics and views",
            _MIGRATE,
        )
    yield from _identity(conn, deletes=published.deletes, filtered=published.row_filter is not None)


def _identity(conn: psycopg.Connection[Any], *, deletes: bool, filtered: bool) -> Iterator[Finding]:
    kind, index = conn.execute(query("cdc/replica_identity")).fetchone() or ("d", None)
    if kind == "f":
        yield Finding(
            "error",
            "sync_changes has REPLICA IDENTITY FULL",
            "erasing a row would send its content into the topics once more",
            f"alter table sync_changes replica identity using index {IDENTITY_INDEX}",
        )
    elif not deletes:
        yield Finding(
            "warning",
            "deleted rows of sync_changes are not published",
            "what is erased in the table stays in the topics and views",
            _MIGRATE_AS_OWNER,
        )
    elif index != IDENTITY_INDEX:
        yield Finding(
            "error" if filtered else "warning",
            "the replica identity of sync_changes does not cover app_id and user_id",
            "with the publication's row filter the owner's own DELETE fails; without one it names no user",
            _MIGRATE_AS_OWNER,
        )
