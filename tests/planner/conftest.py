from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from projector.config import Settings
from projector.sql.connection import pool
from tests.fixtures.settings import Database
from tests.planner.world import World


@pytest.fixture
async def world(settings: Settings, database: Database) -> AsyncIterator[World]:
    async with pool(settings, "projector_planner", size=4) as connections:
        made = World(settings, database, connections)
        try:
            yield made
        finally:
            made.close()
