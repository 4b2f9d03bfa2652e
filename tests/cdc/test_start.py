"""What the server sends in one breath with its answer to START_REPLICATION makes no socket readable afterwards."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import conninfo, errors, sql
from pydantic import SecretStr

from projector.cdc.publication import prepare_source
from projector.config import Settings
from streams import cdc
from tests.cdc.support import insert, read_until, running
from tests.faults.proxy import CHUNK, Connection, Proxy

COPY_BOTH = b"W"
"""CopyBothResponse, the answer: the server is quiet between its messages, so a chunk begins with it."""
QUIET_S = 0.5
FAILS = "1 / (length(app_id) - length(app_id)) = 0"


class InOneBreath(Proxy):
    """Delivers the answer to START_REPLICATION together with what follows it. The server must not encrypt."""

    def _deliver(self, connection: Connection, upwards: bool, chunk: bytes) -> None:
        if not upwards and chunk.startswith(COPY_BOTH):
            while select.select([connection.server], [], [], QUIET_S)[0] and (more := connection.server.recv(CHUNK)):
                chunk += more
        super()._deliver(connection, upwards, chunk)


@pytest.fixture
def one_breath(settings: Settings) -> Iterator[Settings]:
    """The settings, with such a network on the way to the stream."""
    upstream = conninfo.conninfo_to_dict(settings.require_replication())
    proxy = InOneBreath(lambda: int(upstream["port"]))
    through = conninfo.make_conninfo(settings.require_replication(), port=proxy.port)
    try:
        yield settings.model_copy(update={"replication_url": SecretStr(through)})
    finally:
        proxy.close()


async def test_an_error_that_comes_with_the_answer_ends_the_session(settings: Settings, one_breath: Settings) -> None:
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        async with running(settings):
            insert(conn, record_id="before")
            await read_until(settings, 1)
        # The row is decoded under the filter of its time, whatever has become of it since.
        publication = sql.Identifier(settings.publication_name)
        conn.execute(sql.SQL("alter publication {} set table sync_changes where (" + FAILS + ")").format(publication))
        insert(conn, record_id="while it fails")
        prepare_source(conn, settings)
    with pytest.raises(errors.DivisionByZero):
        await asyncio.wait_for(cdc.run(one_breath, asyncio.Event()), 20)
