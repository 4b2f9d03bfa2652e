"""What an engine has taken in and not committed yet, and what came of committing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from projector.fold import Counters
from projector.views.declared import Identity, View
from projector.views.held import Held, Row
from projector.views.inbox import DeadLetter, Truncation
from projector.views.positions import Partition
from projector.views.store import SMALL_BATCH

SMALL_OCTETS = 4 * 1024 * 1024
"""What a single statement may carry, in the measure of `Batch.octets`."""


@dataclass(slots=True)
class Batch:
    """`held` are the records altered, None for one of which the log holds nothing any more."""

    held: dict[Identity, Held | None] = field(default_factory=dict)
    partition_of: dict[Identity, Partition] = field(default_factory=dict)
    letters: list[DeadLetter] = field(default_factory=list)
    erased: list[str] = field(default_factory=list)
    truncated: dict[Partition, Truncation] = field(default_factory=dict)
    noticed: Counters = field(default_factory=Counters)
    changes: int = 0
    again: int = 0
    """Records that were not above the place reached."""
    octets: int = 0
    """Of the values taken and of the states they went into: what the batch takes in memory, in proportion."""
    newest_commit_us: int | None = None

    @property
    def is_empty(self) -> bool:
        return not self.held and not self.letters and not self.truncated

    @property
    def is_small(self) -> bool:
        """Whether a single statement can carry it: a few rows, or none, and nothing else."""
        if self.letters or self.erased or self.truncated or self.octets > SMALL_OCTETS:
            return False
        return len(self.held) <= SMALL_BATCH and None not in self.held.values()

    @property
    def kept(self) -> Iterator[tuple[Identity, Held]]:
        """The records that have a row afterwards."""
        return ((identity, held) for identity, held in self.held.items() if held is not None)

    @property
    def gone(self) -> list[Identity]:
        """The records that have none."""
        return [identity for identity, held in self.held.items() if held is None]

    def rows(self, view: View) -> Iterator[Row]:
        """The rows of `kept`, each made when it is asked for."""
        for identity, held in self.kept:
            try:
                yield held.row(view, identity)
            except Exception as error:
                error.add_note(f"in the row of {'/'.join(identity)}, of {self.partition_of[identity]}")
                raise


@dataclass(frozen=True, slots=True)
class Applied:
    """`committed`: the next offsets that are now in the database. `seek`: where the caller must fetch from instead."""

    changes: int = 0
    rows: int = 0
    committed: Mapping[Partition, int] = field(default_factory=dict)
    seek: Mapping[Partition, int] = field(default_factory=dict)

    def __add__(self, later: Applied) -> Applied:
        return Applied(
            self.changes + later.changes,
            self.rows + later.rows,
            {**self.committed, **later.committed},
            {**self.seek, **later.seek},
        )
