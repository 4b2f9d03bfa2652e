"""The service on its port, and the signal that has it read its file again."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from aiohttp import web

from projector.config import Settings
from projector.errors import AliasConfigError, ConfigError
from projector.llm.router import LLMRouter
from projector.llm.service.app import Service
from projector.logging import get

DRAIN_S = 20.0
"""Calls that are under way get so long to end when the service does."""

log = get("llm")


@asynccontextmanager
async def serving(router: LLMRouter, settings: Settings, key: str) -> AsyncIterator[int]:
    """Serves for so long; gives the port. Raises ConfigError when it cannot be had."""
    runner = web.AppRunner(
        Service(router, settings, key).app(),
        access_log=None,
        # Whoever leaves ends what is done for them, at the provider too.
        handler_cancellation=True,
        shutdown_timeout=DRAIN_S,
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, settings.llm_address, settings.llm_port, backlog=1024).start()
        except OSError as error:
            raise ConfigError(
                f"PROJECTOR_LLM_ADDRESS={settings.llm_address}, PROJECTOR_LLM_PORT={settings.llm_port}:"
                f" {error.strerror or error}"
            ) from None
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


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
