"""The signal that has a process read its file of aliases again."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from projector.errors import AliasConfigError
from projector.llm.router import LLMRouter
from projector.logging import get

log = get("llm")


@contextmanager
def reloading_on_hangup(router: LLMRouter) -> Iterator[None]:
    """SIGHUP has the file read again; what is wrong with it is logged, and the old one stays."""

    running: set[asyncio.Task[None]] = set()

    async def reload() -> None:
        # Logged and counted by the router.
        with suppress(AliasConfigError):
            await router.reload()

    def hung_up() -> None:
        task = loop.create_task(reload(), name="llm-reload")
        running.add(task)
        task.add_done_callback(running.discard)

    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGHUP, hung_up)
    except (NotImplementedError, RuntimeError, ValueError, AttributeError):
        log.info("no SIGHUP here: reload by command")
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        for task in running:
            task.cancel()
