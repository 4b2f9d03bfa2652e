"""Which of the transactions that the stream has read can be seen by others yet.

A commit is in the WAL, and on its way to us, before the server takes the transaction off the list of those that run; a
synchronous standby that is away keeps the two apart for as long as it likes. Whoever reads the table meanwhile finds it
as it was before. So no record may tell of such a commit: a view that folds its record anew from the table would lose a
change that it had already, or keep what was just erased.

Source: RecordTransactionCommit in PostgreSQL's xact.c; documentation, "pg_snapshot Components".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

_HALF: Final = 1 << 31
_MASK: Final = (1 << 32) - 1


class Snapshot(NamedTuple):
    """What a session could see at one moment, in 64-bit transaction ids: all below `xmax` but those in `running`."""

    xmax: int
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """From the text of a pg_snapshot, `xmin:xmax:running,running,…`. Raises ValueError."""
        _, xmax, running = text.split(":")
        return cls(int(xmax), frozenset(map(int, running.split(","))) if running else frozenset())


class Visibility:
    """`unseen`: the transactions to be told of that the newest snapshot did not show, as 64-bit ids."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.unseen: list[int] = []
        self._snapshot = snapshot

    def read(self, xid: int) -> None:
        """A committed transaction is about to be told of; `xid` is the 32 bits that the stream tells of its id."""
        xmax = self._snapshot.xmax
        # The server never lets two ids that are in use lie half the circle apart.
        self._add((xmax + ((xid - xmax + _HALF) & _MASK) - _HALF,))

    def see(self, snapshot: Snapshot) -> None:
        """Takes a snapshot that is younger than everything read so far."""
        self._snapshot = snapshot
        unseen, self.unseen = self.unseen, []
        self._add(unseen)

    def _add(self, ids: Iterable[int]) -> None:
        xmax, running = self._snapshot
        self.unseen += [each for each in ids if each >= xmax or each in running]
