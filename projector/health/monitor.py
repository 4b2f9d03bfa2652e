"""The thread beside the streams' event loop: what it serves and judges goes on when that loop does not."""

from __future__ import annotations

import asyncio
import contextvars
import faulthandler
import os
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Self

from projector.config import WITHOUT_SERVERS, Settings
from projector.errors import StalledError
from projector.health.parts import at_work
from projector.health.servers import Connections
from projector.health.watch import LOOP, Watch
from projector.logging import get
from projector.sql.connection import Role

BEATS_PER_STALL = 8
LONGEST_BEAT_S = 1.0
LEAVE_S = 5.0
"""A process that is to end gets so long to do it in order."""
HARD_LIMIT = 3
"""After so many times `stall_after_s` of a blocked loop even a process of which no thread can run is ended."""
ROLES: dict[str, Role] = {"cdc": "projector_cdc", "views": "projector_engine"}
WITHOUT_BROKER = WITHOUT_SERVERS | {"timers"}

log = get("health")

Serve = Callable[[Watch, Connections], AbstractAsyncContextManager[None]]


class Monitor:
    """`async with` it, in the loop of the streams. `stalled` has the StalledError as its exception when it is time
    to end; who does not end within `LEAVE_S` is ended.

    `serve` is entered in the thread's own loop; what it raises is raised here.
    """

    def __init__(self, settings: Settings, stream: str, serve: Serve) -> None:
        self._settings = settings
        self._stream = stream
        self._serve = serve
        self._loop = asyncio.get_running_loop()
        self.stalled: asyncio.Future[None] = self._loop.create_future()
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._beating = at_work(LOOP)
        # In the context of the caller, whose log lines name the stream.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="health", daemon=True)
        self._own_loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        self._part = self._beating.__enter__()
        self._beat()
        self._thread.start()
        await self._started
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._own_loop is not None and self._closing is not None and not self.stalled.done():
            self._own_loop.call_soon_threadsafe(self._closing.set)
            await asyncio.to_thread(self._thread.join, LEAVE_S)
        if self._timer is not None:
            self._timer.cancel()
        faulthandler.cancel_dump_traceback_later()
        self._beating.__exit__(None, None, None)

    def _beat(self) -> None:
        self._part.moved()
        every_s = LONGEST_BEAT_S
        if limit_s := self._settings.stall_after_s:
            every_s = min(every_s, limit_s / BEATS_PER_STALL)
            faulthandler.dump_traceback_later(HARD_LIMIT * limit_s, exit=True, file=sys.stderr)
        self._timer = self._loop.call_later(every_s, self._beat)

    # In the thread

    def _run(self) -> None:
        asyncio.run(self._watch_and_serve())

    async def _watch_and_serve(self) -> None:
        self._own_loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        settings = self._settings
        role = None if self._stream in WITHOUT_SERVERS else ROLES.get(self._stream, "projector_planner")
        servers = Connections(settings, role, broker=self._stream not in WITHOUT_BROKER)
        watch = Watch(settings.stall_after_s, servers, self._loop, self._end)
        watching = asyncio.create_task(watch.run())
        watching.add_done_callback(self._watched)
        try:
            async with self._serve(watch, servers):
                self._loop.call_soon_threadsafe(self._started.set_result, None)
                await self._closing.wait()
        except Exception as error:
            self._loop.call_soon_threadsafe(self._failed, error)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await servers.close()

    def _watched(self, watching: asyncio.Task[None]) -> None:
        if not watching.cancelled() and (error := watching.exception()) is not None:
            # Nobody would look any more, and nobody would know.
            self._loop.call_soon_threadsafe(self._failed, error)

    def _failed(self, error: BaseException) -> None:
        future = self.stalled if self._started.done() else self._started
        if not future.done():
            future.set_exception(error)

    def _end(self, error: StalledError, blocked: bool) -> None:
        """Asks the other loop to end, and ends the process when it does not."""
        log.error("ending", error=error.message)
        self._loop.call_soon_threadsafe(self._failed, error)
        last = threading.Timer(0 if blocked else LEAVE_S, _exit)
        last.daemon = True
        last.start()


def _exit() -> None:
    sys.stderr.flush()
    os._exit(StalledError.exit_status)
