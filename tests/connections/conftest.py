from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from threading import Event

import psycopg
import pytest

from projector.embedded.database import STREAM_LOGIN, create_log, create_logins
from projector.embedded.servers import Servers
from projector.sql.migrate import grant_login, migrate
from tests.connections.kafka_servers import SecureKafka, secure_kafka
from tests.connections.postgres_servers import CERTIFIED, SecurePostgres, start_secure_postgres
from tests.fixtures.settings import Database, Template


@pytest.fixture
async def hung_up() -> AsyncIterator[None]:
    """Ends a test when its connections have: aiokafka does not wait for the end of one that was refused, which with
    TLS takes an answer of the broker, and a loop that ends before it leaves a warning to whichever test comes next."""
    yield
    selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
    async with asyncio.timeout(10):
        while len(selector.get_map()) > 1:  # the loop's own pipe stays
            await asyncio.sleep(0.01)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[SecureKafka]:
    """One broker for all the tests here."""
    secure = secure_kafka(tmp_path_factory.mktemp("secure-kafka"), cache_dir)
    secure.server.start(Event())
    yield secure
    secure.server.stop()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[SecurePostgres]:
    """One server with TLS for all the tests here."""
    secure = start_secure_postgres(tmp_path_factory.mktemp("secure-postgres"), cache_dir)
    yield secure
    secure.server.stop()


@pytest.fixture(scope="session")
def secure_template(postgres: SecurePostgres, stack: Servers) -> Template:
    """As the template of the other tests, on the server with TLS."""
    servers = Servers(postgres.admin_url, stack.bootstrap_servers)
    logins = create_logins(servers.admin_url, secrets.token_urlsafe(24))
    name = "template_secure"
    url = servers.create_database(name)
    create_log(url)
    with psycopg.connect(url, autocommit=True) as conn:
        migrate(conn)
        grant_login(conn, STREAM_LOGIN)
        grant_login(conn, CERTIFIED)
    return Template(servers, name, logins)


@pytest.fixture
def secure_database(secure_template: Template) -> Iterator[Database]:
    with secure_template.copy() as copied:
        yield copied
