"""The tests run on the version of PostgreSQL that was asked for, and the embedded database works on each."""

from __future__ import annotations

import os

import psycopg
import pytest

from projector.embedded.servers import Servers
from tests.fixtures.stack import given_servers


@pytest.mark.skipif(given_servers() is not None, reason="the servers are given, of whatever version")
def test_the_session_runs_on_the_version_asked_for(stack: Servers) -> None:
    with psycopg.connect(stack.admin_url) as conn:
        major = conn.info.server_version // 10_000
    if not os.environ.get("PROJECTOR_PG_BINDIR"):
        assert major == int(os.environ.get("PROJECTOR_PG_VERSION") or 18)
