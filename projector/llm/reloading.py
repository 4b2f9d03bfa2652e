"""What has a process read its file of aliases again: a signal, and, where that is wished, a look at the file itself."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from projector.errors import AliasConfigError
from projector.llm.router import LLMRouter
from projector.logging import get

log = get("llm")


@contextmanager
def reloading(router: LLMRouter, *, look_s: float = 0.0) -> Iterator[None]:
    """SIGHUP has the file read again, and so does a change of it where it is looked at every `look_s` seconds; what is
    wrong with it is logged, and the old one stays.
    """

    running: set[asyncio.Task[None]] = set()

    async def reload() -> None:
        # Logged and counted by the router.
        with suppress(AliasConfigError):
            await router.reload()

    async def look() -> None:
        while True:
            await asyncio.sleep(look_s)
            if watched.changed():
                await reload()

    def hung_up() -> None:
        task = loop.create_task(reload(), name="llm-reload")
        running.add(task)
        task.add_done_callback(running.discard)

    watched = Watched(router.registry.path)
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGHUP, hung_up)
    except (NotImplementedError, RuntimeError, ValueError, AttributeError):
        log.info("no SIGHUP here: reload by command")
    if look_s:
        running.add(loop.create_task(look(), name="llm-look"))
    try:
        yield
    finally:
        with suppress(NotImplementedError, RuntimeError, ValueError, AttributeError):
            loop.remove_signal_handler(signal.SIGHUP)
        for task in running:
            task.cancel()


class Watched:
    """A file that is looked at again and again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._taken = self._seen = self._stamp()

    def changed(self) -> bool:
        """Whether it is another than the last that was told of, and rests: two looks in a row found it the same."""
        found = self._stamp()
        rests, self._seen = found == self._seen, found
        if not rests or found == self._taken:
            return False
        self._taken = found
        return True

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
