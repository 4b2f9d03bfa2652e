"""Numbered migrations, each applied once and in one transaction."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, LiteralString

import psycopg
from psycopg import conninfo, errors, sql

from projector.config import Settings
from projector.errors import NotMigratedError, PrivilegeError, ProjectorError

# Two migrators at once take turns. The number is arbitrary and must never change.
LOCK_KEY = 7_421_905_113

STREAM_ROLES = ("projector_cdc", "projector_engine", "projector_planner", "projector_sink", "projector_reader")


class MigrationChangedError(ProjectorError):
    """A migration that was applied is never edited: restore the file and put the change into a new one."""


@dataclass(frozen=True, slots=True)
class Migration:
    """`number` gives the order; `checksum` notices a file that was edited after it was applied."""

    number: int
    name: str
    text: LiteralString

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


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


def migrate(conn: psycopg.Connection[Any]) -> list[Migration]:
    """Applies what is missing and returns it. `conn` is an autocommit connection of the admin login.

    Raises PrivilegeError when the login may not do it, MigrationChangedError for an edited file, and
    NotMigratedError when there is no `sync_changes` here.
    """
    try:
        conn.execute("select pg_advisory_lock(%s)", [LOCK_KEY])
        try:
            return _migrate(conn)
        finally:
            conn.execute("select pg_advisory_unlock(%s)", [LOCK_KEY])
    except errors.InsufficientPrivilege as error:
        raise PrivilegeError(f"this login may not migrate: {error.diag.message_primary}") from error


def _migrate(conn: psycopg.Connection[Any]) -> list[Migration]:
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
    applied = dict(conn.execute("select number, checksum from mana_ai.schema_migrations").fetchall())
    done = []
    for migration in migrations():
        known = applied.get(migration.number)
        if known is None:
            with conn.transaction():
                conn.execute(migration.text)
                conn.execute(
                    "insert into mana_ai.schema_migrations (number, name, checksum) values (%s, %s, %s)",
                    [migration.number, migration.name, migration.checksum],
                )
            done.append(migration)
        elif known != migration.checksum:
            raise MigrationChangedError(
                f"migration {migration.number:04} {migration.name} differs from what was applied"
            )
    return done


def missing(conn: psycopg.Connection[Any]) -> list[Migration]:
    """What `migrate` would apply; needs no more than to read the catalogue."""
    if conn.execute("select to_regclass('mana_ai.schema_migrations')").fetchone() == (None,):
        return migrations()
    applied = {number for (number,) in conn.execute("select number from mana_ai.schema_migrations").fetchall()}
    return [migration for migration in migrations() if migration.number not in applied]


def stream_login(settings: Settings) -> str:
    """The user whom the streams' URL names."""
    return str(conninfo.conninfo_to_dict(settings.require_database()).get("user") or "")


def grant_login(conn: psycopg.Connection[Any], login: str) -> None:
    """Lets `login` enter the streams' roles and read the WAL; raises PrivilegeError when `conn` may not grant it.

    A superuser is refused: everything would work, and row-level security would protect nobody.
    """
    row = conn.execute("select rolsuper, rolreplication from pg_roles where rolname = %s", [login]).fetchone()
    if row is None:
        raise NotMigratedError(f"there is no login {login!r}", "create it without superuser, then migrate again")
    is_superuser, may_replicate = row
    if is_superuser:
        raise PrivilegeError(
            f"the streams' login {login!r} is a superuser, whom row-level security does not bind",
            "create a login without superuser and name it in PROJECTOR_DATABASE_URL",
        )
    name = sql.Identifier(login)
    try:
        for role in STREAM_ROLES:
            conn.execute(sql.SQL("grant {} to {}").format(sql.Identifier(role), name))
        if not may_replicate:
            conn.execute(sql.SQL("alter role {} replication").format(name))
    except errors.InsufficientPrivilege as error:
        raise PrivilegeError(f"this login may not grant the streams' roles: {error.diag.message_primary}") from error
