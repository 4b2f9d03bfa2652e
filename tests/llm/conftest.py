from __future__ import annotations

import pytest

from projector import open_files


@pytest.fixture(scope="session", autouse=True)
def _many_open_files() -> None:
    """A test that has a thousand calls under way holds both ends of each."""
    open_files.allow()
