"""What `projector doctor` asks of the source: every reason why the stream could not run, or would run badly.

Nothing is changed here. Capability is tried where that is possible, rather than read from role flags: managed servers
grant replication without showing it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import psycopg
from psycopg import conninfo, errors, sql

from projector.cdc.publication import IDENTITY_INDEX, apps_of, read_publication
from projector.config import Settings
from projector.errors import Finding
from projector.sql import query
from projector.sql.connection import CONNECT_TIMEOUT_S

OLDEST_VERSION = 150_000


class _Facts(NamedTuple):
    version: int
    wal_level: str
    max_slot_wal_keep_size: str
    max_replication_slots: int
    used_slots: int
    max_wal_senders: int
    encoding: str
    log_exists: bool


class _SlotFacts(NamedTuple):
    plugin: str
    ours: bool
    wal_status: str
    invalidation: str | None


def check_source(conn: psycopg.Connection[Any], settings: Settings) -> list[Finding]:
    """Looks through `conn`, an autocommit session of any login, and through the replication login of the settings.

    Returns what is wrong, the cause before its consequences; nothing when the stream can run.
    """
    facts = _Facts(*(conn.execute(query("cdc/facts")).fetchone() or ()))
    found = [*_server(facts)]
    if not facts.log_exists:
        found.append(
            Finding(
                "error",
                "this database has no table sync_changes",
                "point PROJECTOR_DATABASE_URL at the sync server's database, after its first start",
            )
        )
        return found
    found += _replication_login(settings, facts)
    found += _visibility(conn)
    found += _publication(conn, settings)
    found += _slot(conn, settings)
    return found


def _server(facts: _Facts) -> Iterator[Finding]:
    if facts.version < OLDEST_VERSION:
        yield Finding(
            "error", f"the server is version {facts.version // 10_000}", "upgrade it to PostgreSQL 15 or later"
        )
    if facts.wal_level != "logical":
        yield Finding(
            "error",
            f"the server has wal_level={facts.wal_level}",
            "alter system set wal_level = 'logical', then restart the server",
        )
    if facts.encoding != "UTF8":
        yield Finding(
            "error",
            f"the database is encoded in {facts.encoding}",
            "move sync_changes to a database created with encoding 'UTF8'",
        )
    if facts.max_slot_wal_keep_size == "-1":
        yield Finding(
            "warning",
            "max_slot_wal_keep_size is unlimited: a stream that stays away fills the server's disk",
            "alter system set max_slot_wal_keep_size to what the disk can spare, then select pg_reload_conf()",
        )


def _replication_login(settings: Settings, facts: _Facts) -> Iterator[Finding]:
    """Opens a replication session, which the server refuses to a login that may not replicate."""
    try:
        url = conninfo.make_conninfo(
            settings.require_replication(), replication="database", connect_timeout=CONNECT_TIMEOUT_S
        )
        with psycopg.connect(url, autocommit=True) as session:
            session.execute("IDENTIFY_SYSTEM")
    except errors.InsufficientPrivilege as error:
        yield Finding("error", f"the login may not replicate: {error.diag.message_primary}", _grant(settings))
    except psycopg.OperationalError as error:
        text = " ".join(str(error).split())
        if "permission denied" in text or "must be superuser" in text:
            yield Finding("error", "the login may not replicate", _grant(settings))
        else:
            yield Finding(
                "error",
                f"no replication connection: {text}",
                "check PROJECTOR_REPLICATION_URL, pg_hba.conf for this login, and max_wal_senders"
                f" (now {facts.max_wal_senders})",
            )


def _grant(settings: Settings) -> str:
    user = conninfo.conninfo_to_dict(settings.require_replication()).get("user") or "projector"
    return f"alter role {sql.Identifier(str(user)).as_string(None)} replication"


def _visibility(conn: psycopg.Connection[Any]) -> Iterator[Finding]:
    role = conn.execute(query("cdc/role_sees_rows")).fetchone()
    if role is None:
        yield Finding("error", "there is no role projector_cdc", "run `projector migrate`")
        return
    may_select, bypasses = role
    if not may_select:
        yield Finding(
            "error",
            "projector_cdc may not read sync_changes",
            "grant select on sync_changes to projector_cdc (`projector migrate` does)",
        )
    if not bypasses:
        yield Finding(
            "error",
            "projector_cdc cannot see the rows of sync_changes: row-level security hides them",
            "alter role projector_cdc bypassrls, as a superuser",
        )


def _publication(conn: psycopg.Connection[Any], settings: Settings) -> Iterator[Finding]:
    name = settings.publication_name
    published = read_publication(conn, name)
    if published is None:
        yield Finding("error", f"there is no publication {name}", "run `projector migrate`")
        return
    apps = apps_of(published.row_filter)
    if published.tables == 0 or not published.inserts:
        yield Finding(
            "error", f"publication {name} does not publish inserts of sync_changes", "run `projector migrate`"
        )
    elif apps is None:
        yield Finding(
            "warning",
            f"publication {name} has a row filter of its own: {published.row_filter or 'none, every app passes'}",
            "run `projector migrate` to filter on PROJECTOR_APPS",
        )
    elif missing := sorted(set(settings.apps) - apps):
        yield Finding(
            "error",
            f"publication {name} leaves out apps of PROJECTOR_APPS: {', '.join(missing)}",
            "run `projector migrate`",
        )
    elif more := sorted(apps - set(settings.apps)):
        yield Finding(
            "warning",
            f"publication {name} sends apps that PROJECTOR_APPS does not name: {', '.join(more)}",
            "run `projector migrate`",
        )
    if published.updates or not published.truncations:
        yield Finding(
            "warning",
            f"publication {name} publishes updates, which the log has no use for, or leaves out truncations",
            "run `projector migrate`",
        )
    yield from _identity(conn, deletes=published.deletes, filtered=published.row_filter is not None)


def _identity(conn: psycopg.Connection[Any], *, deletes: bool, filtered: bool) -> Iterator[Finding]:
    kind, index = conn.execute(query("cdc/replica_identity")).fetchone() or ("d", None)
    if kind == "f":
        yield Finding(
            "error",
            "sync_changes has REPLICA IDENTITY FULL: erasing a row would send its content once more",
            f"alter table sync_changes replica identity using index {IDENTITY_INDEX}",
        )
    elif not deletes:
        yield Finding(
            "warning",
            "deleted rows of sync_changes are not published, so erasure does not reach the topics",
            "run `projector migrate` as the owner of sync_changes",
        )
    elif index != IDENTITY_INDEX:
        # With a row filter on app_id this also makes the owner's own DELETE fail.
        yield Finding(
            "error" if filtered else "warning",
            "the replica identity of sync_changes does not cover app_id and user_id, so deletes fail or name no user",
            "run `projector migrate` as the owner of sync_changes",
        )


def _slot(conn: psycopg.Connection[Any], settings: Settings) -> Iterator[Finding]:
    name = settings.slot_name
    row = conn.execute(query("cdc/slot_health"), [name]).fetchone()
    known = conn.execute(query("cdc/known_slot")).fetchone() if _migrated(conn) else None
    if row is None:
        if known is not None:
            yield Finding(
                "error",
                f"the replication slot {known[0]} was dropped",
                "find out who dropped it; rows committed meanwhile are not in the topics",
            )
        else:
            yield Finding(
                "warning", f"there is no replication slot {name} yet", "start `projector run cdc`: it creates it"
            )
            yield from _no_room(conn)
        return
    slot = _SlotFacts(*row)
    if slot.plugin != "pgoutput" or not slot.ours:
        yield Finding(
            "error",
            f"the replication slot {name} belongs to another database or plugin ({slot.plugin})",
            "set PROJECTOR_SLOT_NAME to a name of this installation's own",
        )
    elif slot.invalidation or slot.wal_status == "lost":
        yield Finding(
            "error",
            f"the replication slot {name} was invalidated ({slot.invalidation or 'wal_removed'})",
            "raise max_slot_wal_keep_size and create the slot anew",
        )
    elif slot.wal_status == "unreserved":
        yield Finding(
            "warning",
            f"the replication slot {name} is about to lose its WAL",
            "start `projector run cdc`, or raise max_slot_wal_keep_size now",
        )


def _migrated(conn: psycopg.Connection[Any]) -> bool:
    row = conn.execute("select coalesce(has_table_privilege(to_regclass('mana_ai.cdc_sources'), 'SELECT'), false)")
    return bool((row.fetchone() or (False,))[0])


def _no_room(conn: psycopg.Connection[Any]) -> Iterator[Finding]:
    facts = _Facts(*(conn.execute(query("cdc/facts")).fetchone() or ()))
    if facts.used_slots >= facts.max_replication_slots:
        yield Finding(
            "error",
            f"no replication slot is free: {facts.used_slots} of max_replication_slots are in use",
            "drop a slot that nobody reads, or raise max_replication_slots and restart the server",
        )
