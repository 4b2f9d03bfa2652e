"""A server whose transaction ids have come round: old rows carry ids that look like those of new ones."""

from __future__ import annotations

import subprocess
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from projector.embedded.account import unprivileged
from projector.embedded.postgres_binaries import client_program
from projector.embedded.servers import Servers
from tests.cdc.support import insert, killed, process, read, read_until, running
from tests.fixtures.clusters import Cluster, prepared_database, second_server
from tests.fixtures.settings import settings_for

NAME = "old"
VERSION = 18
"""That of the program which sets the next transaction id."""


def come_round(server: Cluster, next_xid: int) -> None:
    """The next transaction has this number, one epoch later; every row there is was frozen long ago."""
    for (database,) in server.ask("select datname from pg_database where datallowconn"):
        server.ask("vacuum (freeze)", database=database)
    server.stop()
    program = [client_program("pg_resetwal"), "--epoch=1", f"--next-transaction-id={next_xid}", server.postgres.data]
    subprocess.run([*unprivileged().prefix, *program], check=True, capture_output=True, timeout=60)
    server.start()


async def test_a_fill_brings_rows_whose_transaction_ids_are_used_again(stack: Servers, tmp_path: Path) -> None:
    with second_server(tmp_path / "old", VERSION) as server:
        database = prepared_database(server, NAME)
        settings = settings_for(server.servers(stack.bootstrap_servers), database).model_copy(
            update={"topic_prefix": f"old-{tmp_path.name}"}
        )
        long_ago = datetime.now(UTC) - timedelta(days=50)
        with psycopg.connect(settings.admin_url, autocommit=True) as conn:
            (first,) = conn.execute("select pg_current_xact_id()::text::bigint").fetchone() or (0,)
            written = [insert(conn, record_id=f"old-{n}", created_at=long_ago) for n in range(300)]
        come_round(server, first)
        with process(settings, "cdc.after_recorded") as child:
            await killed(child)
        with psycopg.connect(settings.admin_url, autocommit=True) as conn:
            (then,) = conn.execute("select pg_current_xact_id()::text::bigint").fetchone() or (0,)
            assert first < then - 2**32 < first + 250, "the ids of some old rows are still to come"
            written += [insert(conn, record_id=f"new-{n}") for n in range(350)]
        async with running(settings):
            await read_until(settings, len(written))
        records = await read(settings)
    assert Counter(r.headers["id"].decode() for r in records) == Counter(written)
