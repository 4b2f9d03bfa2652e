"""The parts of this process that must move. Each says itself that it is at work, and how far it is.

One list for the process, as the metrics have: whoever runs it looks from another thread, and nothing here waits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from projector.health.judge import Seen


class Servers(Protocol):
    """What a part may ask the servers, through connections that are not its own."""

    async def ends(self, places: Collection[Place]) -> Mapping[Place, int]:
        """The end offset of each."""
        ...


Place = tuple[str, int]
"""Topic and partition."""
Read = Callable[[Servers], Awaitable[Seen | None]]
"""Runs in another thread than the part, on what can be read there at any moment; None while the part waits."""


class Part:
    """One loop. `failure` names the error after which it goes on no more, while the process does."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.needed = False
        self.at_work = False
        self.patience_s = 0.0
        self.lag_s: Callable[[], float] | None = None
        self.failure: str | None = None
        self._read: Read | None = None
        self._passes = 0

    def moved(self) -> None:
        """To be called by a loop at each pass."""
        self._passes += 1

    async def seen(self, servers: Servers) -> Seen | None:
        """How far it is; None while it is not at work, or waits for others."""
        if not self.at_work:
            return None
        if self._read is None:
            return Seen(self._passes)
        seen = await self._read(servers)
        return None if seen is None else Seen((self._passes, seen.position), seen.ahead)

    @contextmanager
    def working(self, read: Read | None, patience_s: float, lag_s: Callable[[], float] | None) -> Iterator[Part]:
        self._read, self.patience_s, self.lag_s = read, patience_s, lag_s
        self._passes += 1
        self.at_work = True
        try:
            yield self
        finally:
            self.at_work = False


_parts: dict[str, Part] = {}


def part(name: str) -> Part:
    return _parts.setdefault(name, Part(name))


def parts() -> list[Part]:
    """All that were named so far."""
    return list(_parts.values())


def expect(*names: str) -> None:
    """Names the parts without which the stream is not at work."""
    for name in names:
        part(name).needed = True


@contextmanager
def at_work(
    name: str,
    read: Read | None = None,
    *,
    patience_s: float = 0.0,
    lag_s: Callable[[], float] | None = None,
) -> Iterator[Part]:
    """The part is at work for so long. Without `read` it is a loop that never rests and tells each pass by `moved`.

    `patience_s` is the longest time that it may take by design for one step. `lag_s`: how far it is behind, NaN when
    that is not known.
    """
    with part(name).working(read, patience_s, lag_s) as working:
        yield working


def at_work_on_topics(
    name: str, offsets: Callable[[], Mapping[Any, int]], *, lag_s: Callable[[], float] | None = None
) -> AbstractContextManager[Part]:
    """`at_work` for what follows topics: `offsets` gives the next offset that it wants of each `Place` it has."""

    async def seen(servers: Servers) -> Seen:
        wanted: dict[Place, int] = dict(offsets())
        ends = await servers.ends(wanted)
        return Seen(tuple(sorted(wanted.items())), any(ends[place] > offset for place, offset in wanted.items()))

    return at_work(name, seen, lag_s=lag_s)


def failed(name: str, error: Exception) -> None:
    """The part goes on no more, and the others do."""
    part(name).failure = type(error).__name__


def moved(name: str) -> None:
    """For a long step of a part: it is not over, but goes on."""
    part(name).moved()


async def never(_servers: Servers) -> None:
    """The `Read` of a part that has nothing to do here, by design."""
