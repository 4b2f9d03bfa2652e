from __future__ import annotations

import secrets
from pathlib import Path
from threading import Event

import psycopg
import pytest
from psycopg import conninfo
from pydantic import SecretStr

from projector.cdc.publication import prepare_source
from projector.config import Settings
from projector.embedded import postgres
from projector.embedded.database import STREAM_LOGIN, create_log, create_logins
from projector.embedded.servers import Servers
from projector.sql.migrate import grant_login, migrate
from tests.cli.test_servers import findings, run


def test_a_server_without_logical_wal_is_named_by_doctor_and_refused_by_the_stream(
    stack: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgres.SETTINGS, "wal_level", "replica")
    server = postgres.Postgres(tmp_path / "postgres", lambda line: None)
    server.start(Event(), ())
    try:
        logins = create_logins(server.url(), secrets.token_urlsafe(16))
        create_log(server.url())
        settings = Settings(
            database_url=SecretStr(logins.streams),
            admin_database_url=SecretStr(server.url()),
            kafka_bootstrap_servers=stack.bootstrap_servers,
            topic_prefix=f"wal{secrets.token_hex(4)}",
            apps="ai",
        )
        with psycopg.connect(server.url(), autocommit=True) as admin:
            migrate(admin)
            grant_login(admin, STREAM_LOGIN)
            prepare_source(admin, settings)
        doctor = run(settings, "doctor", "--json")
        assert doctor.returncode == 1
        assert any("wal_level" in what for what in findings(doctor))
        stream = run(settings, "run", "cdc")
        assert stream.returncode == 2
        assert stream.stderr.splitlines()[-2:] == [
            "error: the server has wal_level=replica",
            "  set wal_level=logical in postgresql.conf and restart the server",
        ]
        with psycopg.connect(conninfo.make_conninfo(server.url())) as admin:
            assert admin.execute("select count(*) from mana_ai.cdc_sources").fetchone() == (0,)
    finally:
        server.stop()
