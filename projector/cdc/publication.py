"""The publication on `sync_changes`, and the identity under which its deleted rows arrive.

Postgres evaluates a row filter for deletes on the replica identity alone. With the default identity (the primary
key) a publication that filters on app_id makes the owner's own DELETE fail, so the order here matters: an index
that covers the filter and the record's identity, REPLICA IDENTITY USING INDEX, and only then the publication.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg
from psycopg import errors, sql

from projector.cdc.rows import IDENTITY
from projector.config import Settings
from projector.errors import NotMigratedError, PrivilegeError
from projector.logging import get
from projector.sql import query

IDENTITY_INDEX = "sync_changes_projector_identity"

log = get("cdc")


class Published(NamedTuple):
    """A publication as the catalogue has it. `row_filter` is None when every row passes.

    One that was dropped and made anew has another `oid`.
    """

    row_filter: str | None
    inserts: bool
    deletes: bool
    truncations: bool
    updates: bool
    tables: int
    oid: int


def filter_expression(apps: tuple[str, ...]) -> sql.Composable:
    """`app_id in (…)`, in a fixed order."""
    return sql.SQL("app_id in ({})").format(sql.SQL(", ").join(map(sql.Literal, sorted(apps))))


def prepare_source(conn: psycopg.Connection[Any], settings: Settings) -> None:
    """Creates index, identity and publication, or changes them to what the settings say. Safe to repeat.

    `conn` is an autocommit connection of the admin login. A login that does not own `sync_changes` cannot create
    the identity: then inserts alone are published, a warning says so, and erased rows do not reach the topics.
    Raises PrivilegeError when even the publication is refused.
    """
    owner = bool(_one(conn, query("cdc/owns_log")))
    try:
        if owner:
            _ensure_identity(conn)
        else:
            log.warning(
                "this login does not own sync_changes, so only inserts are published",
                remedy="run `projector migrate` as the owner, or erase records with `projector erase`",
            )
        with conn.transaction():
            conn.execute("select pg_advisory_xact_lock(hashtext('projector publication'))")
            _ensure_publication(conn, settings, deletes=owner)
    except errors.InsufficientPrivilege as error:
        raise PrivilegeError(
            f"this login may not prepare the publication: {error.diag.message_primary}",
            "run `projector migrate` as the owner of sync_changes, with CREATE on the database",
        ) from error


def read_publication(conn: psycopg.Connection[Any], name: str) -> Published | None:
    """What the catalogue says about a publication and its part of `sync_changes`, None without one."""
    row = conn.execute(query("cdc/publication"), [name]).fetchone()
    return None if row is None else Published(*row)


async def require_publication(conn: psycopg.AsyncConnection[Any], settings: Settings) -> Published:
    """The publication; raises NotMigratedError unless it exists and lets every configured app through.

    Rows of an app that it leaves out would be missing in the topics without a sign.
    """
    row = await (await conn.execute(query("cdc/publication"), [settings.publication_name])).fetchone()
    if row is None:
        raise NotMigratedError(f"there is no publication {settings.publication_name} in this database")
    present = Published(*row)
    apps = apps_of(present.row_filter)
    if present.tables == 0 or not present.inserts:
        raise NotMigratedError(f"publication {settings.publication_name} does not publish inserts of sync_changes")
    left_out = [] if apps is None else sorted(set(settings.apps) - apps)
    if left_out:
        raise NotMigratedError(
            f"publication {settings.publication_name} leaves out apps of PROJECTOR_APPS: {', '.join(left_out)}"
        )
    return present


def _ensure_identity(conn: psycopg.Connection[Any]) -> None:
    index = sql.Identifier(IDENTITY_INDEX)
    valid = _one(conn, query("cdc/has_identity_index"), [IDENTITY_INDEX])
    if valid is False:  # left behind by a creation that was interrupted
        conn.execute(sql.SQL("drop index concurrently if exists {}").format(index))
    if not valid:
        # Concurrently, for the table may be large and its writers must not wait.
        create = "create unique index concurrently if not exists {} on sync_changes ({})"
        columns = sql.SQL(", ").join(map(sql.Identifier, IDENTITY))
        try:
            conn.execute(sql.SQL(create).format(index, columns))
        except errors.UniqueViolation:
            log.info("another session creates the identity index")
    if _one(conn, query("cdc/identity_index")) != IDENTITY_INDEX:
        conn.execute(
            sql.SQL("alter table sync_changes replica identity using index {}").format(sql.Identifier(IDENTITY_INDEX))
        )


def _ensure_publication(conn: psycopg.Connection[Any], settings: Settings, *, deletes: bool) -> None:
    name = sql.Identifier(settings.publication_name)
    publish = sql.Literal("insert, delete, truncate" if deletes else "insert, truncate")
    expression = filter_expression(settings.apps)
    present = read_publication(conn, settings.publication_name)
    if present is None:
        conn.execute(
            sql.SQL("create publication {} for table sync_changes where ({}) with (publish = {})").format(
                name, expression, publish
            )
        )
        return
    if apps_of(present.row_filter) != set(settings.apps) or present.tables != 1:
        conn.execute(sql.SQL("alter publication {} set table sync_changes where ({})").format(name, expression))
        log.info("publication changed", publication=settings.publication_name, apps=settings.apps)
    if (present.inserts, present.deletes, present.truncations, present.updates) != (True, deletes, True, False):
        conn.execute(sql.SQL("alter publication {} set (publish = {})").format(name, publish))


def apps_of(row_filter: str | None) -> set[str] | None:
    """The apps that a filter of ours lets through, as Postgres prints it back; None for any other filter."""
    if row_filter is None:
        return None
    text = row_filter.strip().removeprefix("(").removesuffix(")").strip()
    if text.startswith("app_id = '") and text.endswith("'::text"):
        return {text.removeprefix("app_id = '").removesuffix("'::text")}
    head, tail = "app_id = ANY (ARRAY[", "])"
    if not (text.startswith(head) and text.endswith(tail)):
        return None
    # Names of apps hold neither quotes nor commas: settings refuse them.
    names = text.removeprefix(head).removesuffix(tail).split(", ")
    return {name.removeprefix("'").removesuffix("'::text") for name in names}


def _one(conn: psycopg.Connection[Any], text: Any, parameters: list[object] | None = None) -> Any:
    row = conn.execute(text, parameters).fetchone()
    return None if row is None else row[0]
