"""A PostgreSQL and a Kafka to work with, whoever runs them."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg import conninfo, sql


@dataclass(frozen=True, slots=True)
class Servers:
    """`admin_url` may create databases and roles; `bootstrap_servers` is `host:port[,host:port]`."""

    admin_url: str
    bootstrap_servers: str

    def database_url(self, name: str) -> str:
        """The admin connection to another database of the server."""
        return conninfo.make_conninfo(self.admin_url, dbname=name)

    def create_database(self, name: str) -> str:
        """Creates an empty database unless it exists; returns its admin connection."""
        create_database(self.admin_url, name)
        return self.database_url(name)


def create_database(url: str, name: str) -> None:
    """Creates an empty database unless it exists, over a connection to any other one of the server."""
    with psycopg.connect(url, autocommit=True) as conn:
        if conn.execute("select from pg_database where datname = %s", [name]).fetchone() is None:
            conn.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
