"""TLS and client certificates to a real PostgreSQL, for every kind of connection."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from psycopg import conninfo
from pydantic import SecretStr

from projector.cdc.replication import Replication
from projector.config import Settings
from projector.embedded.servers import Servers
from projector.errors import DatabaseUnavailableError
from projector.kafka import client_options
from projector.log.topics import Topics
from projector.sql.connection import connect, connect_admin, connect_streams, connect_sync, pool
from tests.cdc.support import insert, running
from tests.connections.certificates import Authority
from tests.connections.kafka_servers import SecureKafka
from tests.connections.postgres_servers import CERTIFIED, SecurePostgres
from tests.fixtures.settings import Database, settings_for


@pytest.fixture
def settings(stack: Servers, secure_database: Database) -> Settings:
    """As those of the other tests: logins with passwords, over TLS."""
    return settings_for(stack, secure_database)


@pytest.fixture(scope="session")
def certificate(postgres: SecurePostgres) -> dict[str, str]:
    """What a URL says to show the certificate of the login CERTIFIED."""
    return _parameters(postgres.authority.issue(CERTIFIED))


def _parameters(files: tuple[Path, Path]) -> dict[str, str]:
    return {"sslcert": str(files[0]), "sslkey": str(files[1])}


def _changed(url: SecretStr, **parameters: str | None) -> SecretStr:
    parts = conninfo.conninfo_to_dict(url.get_secret_value()) | parameters
    return SecretStr(conninfo.make_conninfo(**{name: value for name, value in parts.items() if value is not None}))


def _certified(settings: Settings, certificate: dict[str, str], *urls: str) -> Settings:
    """Shows the certificate instead of a password, in the URLs named."""
    url = _changed(settings.database_url, user=CERTIFIED, password=None, **certificate)
    return settings.model_copy(update=dict.fromkeys(urls, url))


async def _publishes(settings: Settings) -> list[tuple[Any, ...]]:
    """Streams one row to its topic; returns login, encryption and certificate of the session that read the slot."""
    async with running(settings):
        with psycopg.connect(settings.admin_url, autocommit=True) as conn:
            insert(conn, app_id="ai")
            sessions = conn.execute(
                "select r.usename, s.ssl, s.client_dn from pg_stat_replication r join pg_stat_ssl s using (pid)"
            ).fetchall()
        topic = Topics(settings.topic_prefix).changes("ai")
        async with asyncio.timeout(20), AIOKafkaConsumer(**client_options(settings)) as consumer:
            consumer.assign([TopicPartition(topic, number) for number in range(settings.topic_partitions)])
            await consumer.seek_to_beginning()
            assert b"Water the plants" in (await consumer.getone()).value
    return sessions


async def test_the_change_stream_reads_the_slot_over_tls(settings: Settings) -> None:
    assert await _publishes(settings) == [("projector", True, None)]


async def test_certificates_and_scram_carry_the_stream_from_end_to_end(
    settings: Settings, certificate: dict[str, str], kafka: SecureKafka
) -> None:
    settings = kafka.settings(_certified(settings, certificate, "database_url"), "SCRAM")
    assert await _publishes(settings) == [(CERTIFIED, True, f"/CN={CERTIFIED}")]


async def test_the_replication_login_may_have_a_certificate_of_its_own(
    settings: Settings, certificate: dict[str, str]
) -> None:
    assert await _publishes(_certified(settings, certificate, "replication_url")) == [
        (CERTIFIED, True, f"/CN={CERTIFIED}")
    ]


async def test_every_kind_of_connection_shows_the_certificate(settings: Settings, certificate: dict[str, str]) -> None:
    admin_url = settings.admin_url
    settings = _certified(settings, certificate, "database_url", "admin_database_url")
    async with AsyncExitStack() as stack:
        stack.enter_context(connect_sync(settings, "projector_cdc"))
        stack.enter_context(connect_streams(settings))
        stack.enter_context(connect_admin(settings))
        await stack.enter_async_context(await connect(settings, "projector_cdc"))
        opened = await stack.enter_async_context(pool(settings, "projector_engine", size=1))
        await opened.wait()
        stack.push_async_callback((await Replication.connect(settings)).close)
        with psycopg.connect(admin_url) as admin:
            sessions = admin.execute(
                "select s.client_dn from pg_stat_ssl s join pg_stat_activity using (pid) where usename = %s",
                [CERTIFIED],
            ).fetchall()
    assert sessions == [(f"/CN={CERTIFIED}",)] * 6


async def _refused(settings: Settings, *words: str) -> None:
    """Each kind of connection is refused with an error that holds the words and no password."""
    password = conninfo.conninfo_to_dict(settings.database_url.get_secret_value()).get("password")
    settings = settings.model_copy(update={"admin_database_url": settings.database_url})
    errors = []
    for attempt in (connect_streams, connect_admin, lambda s: connect_sync(s, "projector_cdc")):
        with pytest.raises(DatabaseUnavailableError) as caught:
            attempt(settings)
        errors.append(str(caught.value))
    for opening in (connect(settings, "projector_cdc"), Replication.connect(settings)):
        with pytest.raises(DatabaseUnavailableError) as caught:
            await opening
        errors.append(str(caught.value))
    for error in errors:
        for word in (*words, "PROJECTOR_DATABASE_URL"):
            assert word in error
        assert not password or str(password) not in error


async def _refused_with(settings: Settings, *words: str, **parameters: str | None) -> None:
    changed = _changed(settings.database_url, **parameters)
    await _refused(settings.model_copy(update={"database_url": changed}), *words)


async def test_a_server_that_wants_tls_is_named_as_that(settings: Settings) -> None:
    await _refused_with(settings, "no encryption", "sslmode=verify-full", sslmode="disable", sslrootcert=None)


async def test_a_server_without_tls_is_not_spoken_to_in_the_clear(settings: Settings) -> None:
    with psycopg.connect(settings.admin_url, autocommit=True) as admin:
        try:
            await _switch_tls(admin, settings.admin_url, on=False)
            await _refused_with(settings, "does not support SSL", "ssl = on")
        finally:
            await _switch_tls(admin, settings.admin_url, on=True)


async def _switch_tls(admin: psycopg.Connection[Any], url: str, *, on: bool) -> None:
    """Returns when new sessions have it: the server reads its settings again some time after it was told to."""
    admin.execute(f"alter system set ssl = {'on' if on else 'off'}")
    admin.execute("select pg_reload_conf()")
    async with asyncio.timeout(20):
        while _has_tls(url) is not on:
            await asyncio.sleep(0.05)


def _has_tls(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError as error:
        if "does not support SSL" not in str(error):
            raise
        return False
    return True


async def test_a_server_of_an_unknown_authority_is_refused(settings: Settings, tmp_path: Path) -> None:
    foreign = str(Authority(tmp_path / "foreign").file)
    await _refused_with(settings, "certificate verify failed", "sslrootcert", sslrootcert=foreign)
    await _refused_with(settings, "sslrootcert", sslrootcert="/nowhere/ca.pem")


async def test_a_server_under_another_name_is_refused(settings: Settings) -> None:
    await _refused_with(settings, "does not match host name", host="localhost", hostaddr="127.0.0.1")


async def test_a_missing_certificate_is_named(settings: Settings, tmp_path: Path) -> None:
    await _refused_with(settings, "valid client certificate", "sslcert", user=CERTIFIED)
    unreadable = {"sslcert": "/nowhere/client.pem", "sslkey": "/nowhere/client.key"}
    await _refused_with(settings, "sslcert", user=CERTIFIED, **unreadable)


async def test_a_certificate_of_another_login_or_authority_is_named(
    settings: Settings, postgres: SecurePostgres, tmp_path: Path
) -> None:
    another = _parameters(postgres.authority.issue("somebody"))
    await _refused_with(settings, "certificate authentication failed", "sslcert", user=CERTIFIED, **another)
    foreign = _parameters(Authority(tmp_path / "foreign").issue(CERTIFIED))
    await _refused_with(settings, "unknown ca", "sslcert", user=CERTIFIED, **foreign)


async def test_a_key_that_others_may_read_is_named(settings: Settings, postgres: SecurePostgres) -> None:
    certificate, key = postgres.authority.issue("careless")
    key.chmod(0o644)
    await _refused_with(settings, "chmod 600", user=CERTIFIED, **_parameters((certificate, key)))


async def test_a_wrong_password_is_not_repeated(settings: Settings) -> None:
    await _refused_with(settings, "password authentication failed", password="a-wrong-word")
