"""What `projector doctor` asks of sync_changes: whether its rows can be filled in, and what its publication sends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import errors

from projector.cdc.publication import IDENTITY_INDEX, apps_of, read_publication
from projector.cdc.rights import RIGHTS
from projector.config import Settings
from projector.errors import Finding
from projector.sql import query

_MIGRATE = "run `projector migrate`"
_MIGRATE_AS_OWNER = "run `projector migrate` as the owner of sync_changes"


def check_log(conn: psycopg.Connection[Any], settings: Settings) -> list[Finding]:
    """Looks through `conn`, an autocommit session that may enter projector_cdc."""
    return [*_rights(conn), *_publication(conn, settings)]


def _rights(conn: psycopg.Connection[Any]) -> Iterator[Finding]:
    for right in RIGHTS:
        try:
            with conn.transaction(force_rollback=True):
                conn.execute("set local role projector_cdc")
                conn.execute(right.trial)
        except errors.InsufficientPrivilege as error:
            refused = right.refused(error, conn.info.dbname)
            yield Finding("error", refused.message, right.why, refused.remedy)
            return
        except errors.ReadOnlySqlTransaction:
            return  # a standby, as the checks of the server say


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
            f"{_MIGRATE}, or set PROJECTOR_APPS={','.join([*settings.apps, *more])}",
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
