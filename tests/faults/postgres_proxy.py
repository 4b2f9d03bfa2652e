"""A network to PostgreSQL that can be cut in the middle of a row."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from tests.faults.copy_rows import CopyRows
from tests.faults.proxy import Connection, Proxy


@dataclass(frozen=True, slots=True)
class RowCut:
    """`number` of the row in its transaction, from 1; `depth` in [0, 1): how much of the row still passes."""

    number: int
    depth: float
    happened: threading.Event = field(default_factory=threading.Event)


class PostgresProxy(Proxy):
    """Follows what the server sends, which must not be encrypted."""

    def __init__(self, upstream: Callable[[], int]) -> None:
        self._rows: WeakKeyDictionary[Connection, CopyRows] = WeakKeyDictionary()
        self._row_cut: RowCut | None = None
        super().__init__(upstream)

    def cut_in(self, row: RowCut | None) -> None:
        """Closes the replication connection that brings such a row next, in the middle of it; the others stay."""
        self._row_cut = row

    def _deliver(self, connection: Connection, upwards: bool, chunk: bytes) -> None:
        rows = [] if upwards else list(self._rows.setdefault(connection, CopyRows()).follow(chunk))
        cut = self._row_cut
        row = next((row for row in rows if cut is not None and row.number == cut.number), None)
        if cut is None or row is None:
            super()._deliver(connection, upwards, chunk)
            return
        self._row_cut = None
        super()._deliver(connection, upwards, chunk[: row.head + int(cut.depth * (row.end - row.head))])
        connection.close()
        cut.happened.set()
