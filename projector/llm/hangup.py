"""The signal that has a process read its file of aliases again."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from projector.errors import AliasConfigError
from projector.llm.router import LLMRouter
from projector.logging import get

log = get("llm")


@contextmanager
def reloading_on_hangup(router: LLMRouter) -> Iterator[None]:
    """SIGHUP has the file read again; what is wrong with it is logged, and the old one stays."""

    def reload() -> None:
        try:
            router.reload()
        except AliasConfigError:
            # Logged and counted by the router.
            return

    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGHUP, reload)
    except (NotImplementedError, RuntimeError, ValueError, AttributeError):
        log.info("no SIGHUP here: reload by command")
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
