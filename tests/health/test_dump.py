"""What is told of the tasks of a loop that stands still."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest
import structlog

from projector import logging as ours
from projector.config import Settings
from projector.health import dump
from projector.logging import get


@pytest.fixture
def configured() -> Iterator[None]:
    root = logging.getLogger()
    before, handlers, level = structlog.get_config(), root.handlers[:], root.level
    yield
    structlog.configure(**before)
    root.handlers[:], root.level = handlers, level


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_a_task_is_told_of_in_every_format(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    """A field may have a name of which the renderer expects something else."""
    ours.configure(Settings(log_format=log_format), "cdc")

    async def wait_here() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(wait_here(), name="waiting")
    await asyncio.sleep(0)
    [told] = [entry for entry in dump.tasks(asyncio.get_running_loop()) if entry["task"].startswith("waiting")]
    get("health").error("task", **told)
    task.cancel()
    line = capsys.readouterr().err
    assert "test_dump.py" in line
    assert "wait_here" in line
