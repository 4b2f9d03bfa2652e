"""What has been committed, in order of commit for each user and app, until it was found in the topics."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from typing import NamedTuple

Lane = tuple[str, str]
"""Topic and user: within it the order is that of the commits."""


class Event(NamedTuple):
    """`op` as the record's header has it; `n` numbers the rows of a writer, so that a value can be recognised."""

    op: str
    id: str
    n: int = 0


class Ledger:
    """Written by the writers, each of which owns its users, and emptied by the judge."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.committed: defaultdict[Lane, deque[Event]] = defaultdict(deque)
        self.counts: defaultdict[Lane, int] = defaultdict(int)
        """Events ever committed."""
        self.erased: set[str] = set()
        """Ids of rows that were deleted again."""

    def commit(self, events: list[tuple[Lane, Event]]) -> None:
        with self.lock:
            for lane, event in events:
                self.committed[lane].append(event)
                self.counts[lane] += 1
                if event.op == "erased":
                    self.erased.add(event.id)

    def cut(self) -> dict[Lane, int]:
        """How many events of each lane have been committed by now."""
        with self.lock:
            return dict(self.counts)
