"""What every connection to PostgreSQL has, unless its URL says otherwise."""

from __future__ import annotations

import os
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import psycopg
import pytest
from psycopg import conninfo
from pydantic import SecretStr

from projector.cdc.replication import Replication
from projector.config import Settings
from projector.errors import DatabaseUnavailableError
from projector.sql.connection import DEFAULTS, complete, connect, connect_admin, connect_streams, connect_sync, pool
from tests.fixtures.clusters import second_server


def limits(pgconn: psycopg.pq.abc.PGconn) -> tuple[int, int]:
    """Of the socket: seconds of silence before the server is asked, and milliseconds without an answer."""
    with socket.socket(fileno=os.dup(pgconn.socket)) as connection:
        asked = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        return asked, connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)


async def of_every_kind(settings: Settings) -> set[tuple[int, int]]:
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(pool(settings, "projector_engine", size=1))
        replication = await Replication.connect(settings)
        stack.push_async_callback(replication.close)
        return {
            limits(stack.enter_context(connect_sync(settings, "projector_cdc")).pgconn),
            limits(stack.enter_context(connect_streams(settings)).pgconn),
            limits(stack.enter_context(connect_admin(settings)).pgconn),
            limits((await stack.enter_async_context(await connect(settings, "projector_cdc"))).pgconn),
            limits((await stack.enter_async_context(opened.connection())).pgconn),
            limits(replication.conn.pgconn),
        }


async def test_a_server_that_vanished_without_a_word_is_noticed_by_every_kind_of_connection(settings: Settings) -> None:
    assert await of_every_kind(settings) == {(10, 40_000)}


async def test_what_a_url_names_itself_counts(settings: Settings) -> None:
    def patient(url: str) -> SecretStr:
        return SecretStr(conninfo.make_conninfo(url, keepalives_idle=77, tcp_user_timeout=5000))

    urls = {"database_url": settings.require_database(), "admin_database_url": settings.admin_url}
    own = settings.model_copy(update={name: patient(url) for name, url in urls.items()})
    assert await of_every_kind(own) == {(77, 5000)}


def test_a_parameter_is_added_beside_what_the_url_names() -> None:
    found = conninfo.conninfo_to_dict(
        complete("postgresql://anna@db/log?connect_timeout=3&application_name=own", application_name="projector_cdc")
    )
    named = {"user": "anna", "host": "db", "dbname": "log", "application_name": "projector_cdc"}
    assert found == {**{name: str(value) for name, value in DEFAULTS.items()}, **named, "connect_timeout": "3"}


async def test_a_server_without_a_free_walsender_says_what_to_raise(tmp_path: Path) -> None:
    with second_server(tmp_path / "small", settings={"max_wal_senders": "1"}) as server:
        settings = Settings(database_url=server.admin_url)
        first = await Replication.connect(settings)
        try:
            with pytest.raises(DatabaseUnavailableError, match="requested standby connections") as caught:
                await Replication.connect(settings)
        finally:
            await first.close()
    assert "raise max_wal_senders" in caught.value.remedy
