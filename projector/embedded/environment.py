"""Everything that runs under `projector dev`, the demo, the chaos tests and the benchmarks: servers and streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import conninfo
from pydantic import SecretStr

from projector.cdc.publication import prepare_source
from projector.config import Settings
from projector.embedded.database import STREAM_LOGIN, Logins, create_log, create_logins
from projector.embedded.pipeline import Pipeline
from projector.embedded.stack import Stack
from projector.sql.migrate import grant_login, migrate


@dataclass(frozen=True, slots=True)
class Environment:
    """`admin_url` is the superuser's, `logins.sync` the sync server's; `pipeline` has no stream running yet."""

    admin_url: str
    logins: Logins
    settings: Settings
    pipeline: Pipeline


@contextmanager
def environment(settings: Settings, state_dir: Path, report: Callable[[str], None]) -> Iterator[Environment]:
    """Starts PostgreSQL and Kafka on `state_dir`, prepares the database, and ends all of it at exit."""
    ports = {"postgres_port": settings.postgres_port, "kafka_port": settings.kafka_port}
    with Stack(state_dir, settings.cache_dir, report, **ports) as stack:
        password = str(conninfo.conninfo_to_dict(stack.admin_url)["password"])
        logins = create_logins(stack.admin_url, password)
        create_log(stack.admin_url)
        ready = settings.model_copy(
            update={
                "database_url": SecretStr(logins.streams),
                "admin_database_url": SecretStr(stack.admin_url),
                "kafka_bootstrap_servers": stack.bootstrap_servers,
                "state_dir": state_dir,
            }
        )
        prepare(ready)
        pipeline = Pipeline(ready, state_dir / "log")
        try:
            yield Environment(stack.admin_url, logins, ready, pipeline)
        finally:
            pipeline.stop_all()


def prepare(settings: Settings) -> None:
    """What `projector migrate` does, for a database of our own."""
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        migrate(conn)
        grant_login(conn, STREAM_LOGIN)
        prepare_source(conn, settings)
