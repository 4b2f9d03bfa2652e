"""Limits of time that run only while this process can see what comes.

One event loop serves all calls. When very many begin at once it is seconds late, and what came meanwhile waits in the
kernel; a clock would then blame the providers, open their circuits, and turn everybody away.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self
from weakref import WeakKeyDictionary

LOOK_S = 0.1
LATE_S = 0.05
"""What a loop that is merely at work may be late."""


class _Lateness:
    """Seconds in which a loop was too busy to look at its connections, counted while anybody waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting = 0
        self._counted_s = 0.0
        self._due: float | None = None

    def begin(self) -> None:
        self._waiting += 1
        if self._due is None:
            self._look_again()

    def end(self) -> None:
        self._waiting -= 1

    @property
    def lost_s(self) -> float:
        return self._counted_s + self._late_s()

    def _late_s(self) -> float:
        return max(self._loop.time() - self._due - LATE_S, 0.0) if self._due is not None else 0.0

    def _look_again(self) -> None:
        self._due = self._loop.time() + LOOK_S
        self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._counted_s += self._late_s()
        self._due = None
        if self._waiting:
            self._look_again()


_lateness: WeakKeyDictionary[asyncio.AbstractEventLoop, _Lateness] = WeakKeyDictionary()


class Patience:
    """As `asyncio.timeout`, but longer by the time in which the loop was late. `reschedule` may be called anew."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(None)
        self._handle: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self._loop = loop = asyncio.get_running_loop()
        lateness = _lateness.get(loop)
        if lateness is None:
            lateness = _lateness[loop] = _Lateness(loop)
        self._lateness = lateness
        lateness.begin()
        self._lost_s = lateness.lost_s
        self.reschedule(loop.time() + self._seconds)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.reschedule(None)
        self._lateness.end()
        await self._timeout.__aexit__(kind, error, trace)

    def when(self) -> float | None:
        """In the loop's time, as far as it is known; None: never."""
        return None if self._handle is None else self._handle.when()

    def reschedule(self, when: float | None) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = None if when is None else self._loop.call_at(when, self._due)

    def _due(self) -> None:
        lost_s = self._lateness.lost_s
        late_s, self._lost_s = lost_s - self._lost_s, lost_s
        if late_s > 0:
            self.reschedule(self._loop.time() + late_s)
        else:
            self._timeout.reschedule(self._loop.time())
