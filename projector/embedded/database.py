"""The sync server's side of an embedded database: its table, its login, and the login of the streams."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

import psycopg
from psycopg import conninfo, sql

SYNC_LOGIN = "sync_server"
STREAM_LOGIN = "projector"


@dataclass(frozen=True, slots=True)
class Logins:
    """Connection strings: `sync` writes the log under row-level security, `streams` runs the product."""

    sync: str
    streams: str

    def of_database(self, name: str) -> Logins:
        """The same logins in another database of the cluster."""
        return Logins(*(conninfo.make_conninfo(url, dbname=name) for url in (self.sync, self.streams)))


def create_logins(admin_url: str, password: str) -> Logins:
    """Creates both logins, neither superuser; safe to repeat, and then sets the password given."""
    with psycopg.connect(admin_url, autocommit=True) as conn, conn.transaction():
        # Logins belong to the cluster, so whoever prepares another database of it waits here.
        conn.execute("select pg_advisory_xact_lock(hashtext('projector logins'))")
        for login, attribute in ((SYNC_LOGIN, "noreplication"), (STREAM_LOGIN, "replication")):
            exists = conn.execute("select from pg_roles where rolname = %s", [login]).fetchone() is not None
            conn.execute(
                sql.SQL("{} role {} login nosuperuser noinherit {} password {}").format(
                    sql.SQL("alter" if exists else "create"),
                    sql.Identifier(login),
                    sql.SQL(attribute),
                    sql.Literal(password),
                )
            )
    return Logins(
        sync=conninfo.make_conninfo(admin_url, user=SYNC_LOGIN, password=password),
        streams=conninfo.make_conninfo(admin_url, user=STREAM_LOGIN, password=password),
    )


def create_log(admin_url: str) -> None:
    """Creates `sync_changes`, owned by the sync server's login; safe to repeat."""
    ddl = (files("projector.sql") / "embedded" / "sync_changes.sql").read_text("utf-8")
    with psycopg.connect(admin_url, autocommit=True) as conn, conn.transaction():
        conn.execute("select pg_advisory_xact_lock(hashtext('sync_changes'))")
        conn.execute(ddl)
        conn.execute(sql.SQL("alter table sync_changes owner to {}").format(sql.Identifier(SYNC_LOGIN)))
