from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from projector.embedded.kafka import Kafka


@pytest.fixture
def kafka(tmp_path: Path, cache_dir: Path) -> Iterator[Kafka]:
    """A broker of the test's own, to be stopped."""
    broker = Kafka(tmp_path / "kafka", cache_dir, lambda line: None)
    broker.start(Event())
    try:
        yield broker
    finally:
        broker.stop()
