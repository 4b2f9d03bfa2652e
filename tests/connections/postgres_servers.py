"""A PostgreSQL that takes no connection without TLS, and from one login a client certificate instead of a password."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Event

import psycopg
from psycopg import conninfo, sql

from projector.embedded.postgres import Postgres
from tests.connections.certificates import Authority

VERSION = 15
"""Built with OpenSSL, be it Debian's or the Maven artifact; the wheel's 18 is not."""
CERTIFIED = "projector_certified"
"""The login that shows a certificate; the logins of the fixtures have passwords."""


@dataclass(frozen=True, slots=True)
class SecurePostgres:
    """`admin_url` and whatever is derived from it verifies the server's certificate, which `authority` signed."""

    server: Postgres
    authority: Authority
    admin_url: str


def start_secure_postgres(directory: Path, cache_dir: Path) -> SecurePostgres:
    """Starts it, then closes all ways in but TLS."""
    authority = Authority(directory / "authority")
    server = Postgres(directory, lambda line: None, version=VERSION, cache_dir=cache_dir)
    server.start(Event())
    try:
        _close(server, authority)
    except BaseException:
        server.stop()
        raise
    admin_url = conninfo.make_conninfo(server.url(), sslmode="verify-full", sslrootcert=str(authority.file))
    return SecurePostgres(server, authority, admin_url)


def _close(server: Postgres, authority: Authority) -> None:
    certificate, key = authority.issue("server")
    for file, name in (certificate, "server.crt"), (key, "server.key"), (authority.file, "root.crt"):
        copy = server.data / name
        copy.touch(0o600)
        copy.write_bytes(file.read_bytes())
    with psycopg.connect(server.url(), autocommit=True) as conn:
        conn.execute(sql.SQL("create role {} login replication").format(sql.Identifier(CERTIFIED)))
        conn.execute("alter system set ssl_ca_file = 'root.crt'")
        conn.execute("alter system set ssl = on")
        (server.data / "pg_hba.conf").write_text(
            f"hostssl all {CERTIFIED} 127.0.0.1/32 cert\nhostssl all all 127.0.0.1/32 scram-sha-256\n"
        )
        conn.execute("select pg_reload_conf()")
