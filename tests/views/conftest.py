from __future__ import annotations

import pytest

from tests.views.log import open_log


@pytest.fixture
async def log(settings):
    async with open_log(settings) as opened:
        yield opened
