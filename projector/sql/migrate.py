"""Numbered migrations, each applied once and in one transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, LiteralString, NamedTuple

import psycopg
from psycopg import conninfo, errors, sql

from projector.config import Settings
from projector.errors import Finding, NotMigratedError, PrivilegeError, ProjectorError
from projector.sql import drift
from projector.sql.connection import STREAM_ROLES

# Two migrators at once take turns. The number is arbitrary and must never change.
LOCK_KEY = 7_421_905_113


class MigrationChangedError(ProjectorError):
    """A migration that was applied is never edited: restore the file and put the change into a new one."""


class NewerDatabaseError(ProjectorError):
    """Install the version of the program that migrated this database, or a later one."""


class SchemaDriftError(ProjectorError):
    """`projector doctor` says how to mend each; `projector migrate --accept-drift` takes it as it is."""


@dataclass(frozen=True, slots=True)
class Migration:
    """`number` gives the order; `checksum` notices a file that was edited after it was applied."""

    number: int
    name: str
    text: LiteralString

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.number:04} {self.name}"


class Compared(NamedTuple):
    """This version's migrations against those applied; `unknown` are (number, name) of another version's."""

    missing: list[Migration]
    changed: list[Migration]
    unknown: list[tuple[int, str]]


def migrations() -> list[Migration]:
    """All migrations of this version, in order."""
    folder = files("projector.sql") / "migrations"
    found = []
    for entry in folder.iterdir():
        stem, _, suffix = entry.name.rpartition(".")
        if suffix == "sql":
            number, _, name = stem.partition("_")
            found.append(Migration(int(number), name, entry.read_text("utf-8")))
    return sorted(found, key=lambda migration: migration.number)


def migrate(conn: psycopg.Connection[Any], *, accept_drift: bool = False) -> list[Migration]:
    """Applies what is missing and returns it. `conn` is an autocommit connection of the admin login.

    Each migration is one transaction, and with it the schema is recorded. `accept_drift` records it as it is, changes
    made by hand included.

    Raises PrivilegeError when the login may not do it, MigrationChangedError for an edited file, NewerDatabaseError
    for a database that a newer version migrated, SchemaDriftError when something is to be applied to a schema that
    was changed by hand, and NotMigratedError when there is no `sync_changes` here.
    """
    try:
        conn.execute("select pg_advisory_lock(%s)", [LOCK_KEY])
        try:
            return _migrate(conn, accept_drift=accept_drift)
        finally:
            conn.execute("select pg_advisory_unlock(%s)", [LOCK_KEY])
    except errors.InsufficientPrivilege as error:
        raise PrivilegeError(f"this login may not migrate: {error.diag.message_primary}") from error


def _migrate(conn: psycopg.Connection[Any], *, accept_drift: bool) -> list[Migration]:
    if conn.execute("select to_regclass('sync_changes')").fetchone() == (None,):
        raise NotMigratedError(
            "this database has no table sync_changes",
            "point PROJECTOR_DATABASE_URL at the sync server's database, after its first start",
        )
    conn.execute("create schema if not exists mana_ai")
    conn.execute(
        "create table if not exists mana_ai.schema_migrations ("
        " number int primary key, name text not null, checksum text not null,"
        " applied_at timestamptz not null default now())"
    )
    compared = compare(conn)
    if compared.changed:
        raise MigrationChangedError(f"migration {compared.changed[0]} differs from what was applied")
    if compared.unknown:
        number, name = compared.unknown[-1]
        raise NewerDatabaseError(f"migration {number:04} {name} was applied and is unknown to this version")
    recorded = drift.is_recorded(conn)
    if compared.missing and recorded and not accept_drift and (differing := drift.differences(conn)):
        raise SchemaDriftError(f"the schema was changed since it was last migrated: {'; '.join(map(str, differing))}")
    for migration in compared.missing:
        with conn.transaction():
            conn.execute(migration.text)
            conn.execute(
                "insert into mana_ai.schema_migrations (number, name, checksum) values (%s, %s, %s)",
                [migration.number, migration.name, migration.checksum],
            )
            if conn.execute("select to_regclass('mana_ai.schema_objects')").fetchone() != (None,):
                drift.record(conn)
    if accept_drift or not (recorded or compared.missing):
        with conn.transaction():
            drift.record(conn)
    return compared.missing


def compare(conn: psycopg.Connection[Any]) -> Compared:
    """What `migrate` would apply, and what stands in its way; needs no more than to read the catalogue."""
    ours = {migration.number: migration for migration in migrations()}
    applied = {}
    if conn.execute("select to_regclass('mana_ai.schema_migrations')").fetchone() != (None,):
        rows = conn.execute("select number, name, checksum from mana_ai.schema_migrations order by number").fetchall()
        applied = {number: (name, checksum) for number, name, checksum in rows}
    return Compared(
        missing=[migration for number, migration in ours.items() if number not in applied],
        changed=[m for number, m in ours.items() if number in applied and applied[number][1] != m.checksum],
        unknown=[(number, name) for number, (name, _) in applied.items() if number not in ours],
    )


def stream_login(settings: Settings) -> str:
    """The user whom the streams' URL names."""
    return str(conninfo.conninfo_to_dict(settings.require_database()).get("user") or "")


def grant_login(conn: psycopg.Connection[Any], login: str) -> list[Finding]:
    """Lets `login` enter the streams' roles and read the WAL, and a fill make temporary tables in this database.

    Raises PrivilegeError when `conn` may not grant the roles. What else it may not grant is returned: managed servers
    give these rights in ways of their own, and `projector doctor` tries them. A superuser is refused: everything would
    work, and row-level security would protect nobody.
    """
    row = conn.execute("select rolsuper from pg_roles where rolname = %s", [login]).fetchone()
    if row is None:
        raise NotMigratedError(f"there is no login {login!r}", "create it without superuser, then migrate again")
    (is_superuser,) = row
    if is_superuser:
        raise PrivilegeError(
            f"the streams' login {login!r} is a superuser, whom row-level security does not bind",
            "create a login without superuser and name it in PROJECTOR_DATABASE_URL",
        )
    name = sql.Identifier(login)
    try:
        for role in STREAM_ROLES:
            conn.execute(sql.SQL("grant {} to {}").format(sql.Identifier(role), name))
    except errors.InsufficientPrivilege as error:
        raise PrivilegeError(f"this login may not grant the streams' roles: {error.diag.message_primary}") from error
    return [
        *_give(
            conn,
            sql.SQL("select rolreplication from pg_roles where rolname = {}").format(sql.Literal(login)),
            sql.SQL("alter role {} replication").format(name),
            f"this login may not give {login} REPLICATION",
            "the stream reads the WAL through a replication slot, which it creates itself",
            "as a superuser, or on Amazon RDS: grant rds_replication to it; `projector doctor` tries whether it can",
        ),
        *_give(
            conn,
            sql.SQL("select has_database_privilege('projector_cdc', current_database(), 'temporary')"),
            sql.SQL("grant temporary on database {} to projector_cdc").format(sql.Identifier(conn.info.dbname)),
            "this login may not let projector_cdc make temporary tables",
            "a fill keeps there which changes the topics hold",
            "as the owner of the database",
        ),
    ]


def _give(
    conn: psycopg.Connection[Any],
    held: sql.SQL | sql.Composed,
    grant: sql.Composed,
    lack: str,
    why: str,
    otherwise: str,
) -> Iterator[Finding]:
    if conn.execute(held).fetchone() == (True,):
        return
    said = "nothing was granted"
    try:
        conn.execute(grant)
    except errors.InsufficientPrivilege as error:
        said = error.diag.message_primary or said
    # A grant that has no effect is no error.
    if conn.execute(held).fetchone() != (True,):
        yield Finding("warning", f"{lack}: {said}", why, f"{grant.as_string(conn)}, {otherwise}")
