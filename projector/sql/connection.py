"""Connections: the login of the streams, in the role that the part needs and no more."""

from __future__ import annotations

from typing import Any, Final, Literal, get_args

import orjson
import psycopg
from psycopg import conninfo
from psycopg.types.json import set_json_loads
from psycopg_pool import AsyncConnectionPool

from projector.config import Settings
from projector.errors import DatabaseUnavailableError, NotMigratedError

StreamRole = Literal["projector_cdc", "projector_engine", "projector_planner", "projector_sink", "projector_reader"]
Role = StreamRole | Literal["projector_content"]
STREAM_ROLES: Final[tuple[StreamRole, ...]] = get_args(StreamRole)
"""Those that the streams' login enters."""
CONTENT_ROLE: Final = "projector_content"
"""Of people who may read what users wrote: `projector migrate` gives it to nobody."""

DEFAULTS: Final = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 40_000,
}
"""Of libpq, in seconds, the last in ms, where a URL does not say otherwise. A server that vanished without a word is
noticed after 40 s, both by who waits for its answer and by who sends: less than its own `wal_sender_timeout`."""
# Planner and sink hold locks over several statements, which a process that stands still must not keep from the others.
IDLE_IN_TRANSACTION_S: Final[dict[Role, int]] = {"projector_planner": 30, "projector_sink": 30}
DATABASE_AWAY: Final = (psycopg.OperationalError, psycopg.errors.IdleInTransactionSessionTimeout)
"""What says that a connection is lost. The second is what a process finds that stood still for longer than that."""
# As everywhere else here: a number of more than 64 bits is a double, and not an integer that cannot be written again.
set_json_loads(orjson.loads)

_URLS = "PROJECTOR_DATABASE_URL, or in the URL that this connection has of its own"
# What libpq and the server say about a connection that they will not have, and what a person can do about it.
_REMEDIES: Final = (
    ("password authentication failed", f"correct user and password in {_URLS}"),
    ("no password supplied", f"give the password in {_URLS}"),
    ("certificate verify failed", f"set sslrootcert to the authority of the server's certificate in {_URLS}"),
    ("root certificate file", f"set sslrootcert to the authority of the server's certificate in {_URLS}"),
    ("does not match host name", f"write the host as the server's certificate does in {_URLS}"),
    ("server does not support SSL", f"set ssl = on at the server; only sslmode=disable in {_URLS} would do without"),
    ("no encryption", f"the server wants TLS: set sslmode=verify-full in {_URLS}"),
    ("requires a valid client certificate", f"set sslcert and sslkey in {_URLS}"),
    ("certificate authentication failed", f"the name (CN) in the certificate of sslcert must be the user in {_URLS}"),
    ("unknown ca", f"let the server know the authority (ssl_ca_file) of the sslcert in {_URLS}"),
    ("max_wal_senders", "end a session of pg_stat_replication that nobody needs, or raise max_wal_senders and restart"),
    ("certificate file", f"correct sslcert in {_URLS}"),
    ("private key file", f"correct sslkey in {_URLS}, and let nobody else read the file (chmod 600)"),
)


def role_conninfo(settings: Settings, role: Role) -> str:
    """The connection string of a session that has entered `role`."""
    idle_s = IDLE_IN_TRANSACTION_S.get(role, 0)
    return complete(
        settings.require_database(),
        options=f"-c role={role} -c timezone=UTC -c idle_in_transaction_session_timeout={idle_s}s",
        application_name=role,
    )


def complete(url: str, **parameters: str) -> str:
    """A connection string of `url` with these parameters of libpq in place of its own, and DEFAULTS behind its own."""
    named = conninfo.conninfo_to_dict(url)
    defaults = {name: value for name, value in DEFAULTS.items() if name not in named}
    return conninfo.make_conninfo(url, **defaults, **parameters)


def explain_failure(error: psycopg.Error, role: Role | None = None) -> DatabaseUnavailableError | NotMigratedError:
    """Names what a person can do about a connection that was refused."""
    text = " ".join(str(error).split())
    if role is not None and f'"{role}"' in text and ("does not exist" in text or "permission denied" in text):
        return NotMigratedError(f"this login cannot enter the role {role}: {text}")
    remedy = next((remedy for words, remedy in _REMEDIES if words in text), None)
    return DatabaseUnavailableError(f"cannot connect to PostgreSQL: {text}", remedy)


async def connect(settings: Settings, role: Role) -> psycopg.AsyncConnection[tuple[Any, ...]]:
    """An autocommit connection in `role`; raises DatabaseUnavailableError or NotMigratedError."""
    try:
        return await psycopg.AsyncConnection.connect(role_conninfo(settings, role), autocommit=True)
    except psycopg.OperationalError as error:
        raise explain_failure(error, role) from error


def connect_sync(settings: Settings, role: Role) -> psycopg.Connection[tuple[Any, ...]]:
    """The same for code without an event loop."""
    try:
        return psycopg.connect(role_conninfo(settings, role), autocommit=True)
    except psycopg.OperationalError as error:
        raise explain_failure(error, role) from error


def pool(settings: Settings, role: Role, *, size: int) -> AsyncConnectionPool:
    """A pool (not yet open: use `async with`) of up to `size` connections in `role`."""
    return AsyncConnectionPool(
        role_conninfo(settings, role),
        min_size=1,
        max_size=size,
        open=False,
        kwargs={"autocommit": True},
        name=role,
    )


def connect_streams(settings: Settings) -> psycopg.Connection[tuple[Any, ...]]:
    """The streams' login in no special role, for checks."""
    return _connect_as_login(settings.require_database())


def connect_admin(settings: Settings) -> psycopg.Connection[tuple[Any, ...]]:
    """The connection of `projector migrate`: as the admin login, in no special role."""
    return _connect_as_login(settings.admin_url or settings.require_database())


def _connect_as_login(url: str) -> psycopg.Connection[tuple[Any, ...]]:
    try:
        return psycopg.connect(complete(url), autocommit=True)
    except psycopg.OperationalError as error:
        raise explain_failure(error) from error
