"""Which LSN may be confirmed to Postgres: the end of the last transaction whose records are all acknowledged."""

from __future__ import annotations

from collections import OrderedDict


class Progress:
    """Follows transactions and what is still outstanding of them.

    Whoever takes records of a transaction (a batch, a dead letter not yet written) takes a hold, and releases it
    when they are safe. A hold remembers the end of the transaction before the one in which it was taken, so the
    oldest hold bounds what may be confirmed, and no LSN from inside a transaction ever can be.
    """

    __slots__ = ("_complete", "_flushed", "_holds", "_next", "in_transaction")

    def __init__(self, confirmed: int) -> None:
        """`confirmed` is the slot's confirmed_flush_lsn: nothing below it is ever reported."""
        self._complete = confirmed
        self._flushed = confirmed
        self._holds: OrderedDict[int, int] = OrderedDict()
        self._next = 0
        self.in_transaction = False

    def begin(self) -> None:
        self.in_transaction = True

    def commit(self, end_lsn: int) -> None:
        """The whole transaction has been read; its records may still be outstanding."""
        self._complete = end_lsn
        self.in_transaction = False

    def idle_at(self, wal_end: int) -> None:
        """A keepalive says that nothing of ours is below `wal_end` but what has been sent."""
        if not self.in_transaction and not self._holds and wal_end > self._complete:
            self._complete = wal_end

    def hold(self) -> int:
        """Returns a token for `release`."""
        token = self._next
        self._next = token + 1
        self._holds[token] = self._complete
        return token

    def release(self, token: int) -> None:
        del self._holds[token]

    @property
    def outstanding(self) -> bool:
        """Whether anything read has not been acknowledged."""
        return bool(self._holds)

    @property
    def received(self) -> int:
        """The end of the last transaction read whole."""
        return self._complete

    @property
    def flushed(self) -> int:
        """The LSN to confirm; never falls."""
        # Holds are taken in order of their bounds, so the oldest has the lowest.
        bound = next(iter(self._holds.values())) if self._holds else self._complete
        self._flushed = max(self._flushed, bound)
        return self._flushed
