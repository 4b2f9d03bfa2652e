"""The service on its port."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from projector.config import Settings
from projector.errors import ConfigError
from projector.llm.router import LLMRouter
from projector.llm.service.app import Service

DRAIN_S = 20.0
"""Calls that are under way get so long to end when the service does."""


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
