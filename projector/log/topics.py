"""Names of the topics, and the partition of a key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aiokafka.partitioner import murmur2


@dataclass(frozen=True, slots=True)
class Topics:
    """Every topic of one installation, by its prefix."""

    prefix: str

    def changes(self, app_id: str) -> str:
        """Rows of `sync_changes` of one app."""
        return f"{self.prefix}.sync_changes.{app_id}"

    @property
    def due(self) -> str:
        """Runs that became due."""
        return f"{self.prefix}.mission.due"

    @property
    def iterations(self) -> str:
        """Runs whose plan is stored."""
        return f"{self.prefix}.mission.iterations"

    @property
    def watermarks(self) -> str:
        """How far the topics go: one partition, compacted."""
        return f"{self.prefix}.watermarks"

    def all(self, apps: Iterable[str]) -> list[str]:
        """The topics of the log: those that hold records with a place."""
        return [*(self.changes(app) for app in apps), self.due, self.iterations]


def partition_of(key: bytes, partitions: int) -> int:
    """The partition that every standard Kafka client gives this key."""
    return int(murmur2(key) & 0x7FFFFFFF) % partitions
