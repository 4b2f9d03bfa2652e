"""The records of one partition that the engine holds decoded, the least recently used going first."""

from __future__ import annotations

from collections import OrderedDict

from projector.views.declared import Identity
from projector.views.held import Held

CACHE_BYTES = 32 * 1024 * 1024
"""Of encoded state, for each partition; decoded it is several times that."""


class Cache:
    """Knows nothing that is not committed: whoever loses a swap drops it whole."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._limit = limit
        self._size = 0
        self._held: OrderedDict[Identity, Held] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def take(self, identity: Identity) -> Held | None:
        """Hands the record out and forgets it, since it is about to be altered; `put` it back when committed."""
        held = self._held.pop(identity, None)
        if held is not None:
            self._size -= held.size
        return held

    def put(self, identity: Identity, held: Held) -> None:
        """Keeps the record as the newest, and drops the oldest ones over the limit."""
        self.take(identity)
        self._held[identity] = held
        self._size += held.size
        while self._size > self._limit:
            _, dropped = self._held.popitem(last=False)
            self._size -= dropped.size

    def clear(self) -> None:
        self._held.clear()
        self._size = 0
