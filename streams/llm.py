"""The router of language models as a service: OpenAI's wire format in front, chains of providers behind."""

from __future__ import annotations

import asyncio

from projector.config import Settings
from projector.health.parts import at_work, expect, never
from projector.llm.prometheus import PrometheusMetrics
from projector.llm.reloading import reloading
from projector.llm.router import LLMRouter
from projector.llm.service.server import serving
from projector.logging import get

PART = "llm"

log = get("llm")


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serves until `stop`; calls that are under way are let end. Needs neither database nor broker."""
    expect(PART)
    key = settings.require_service_key("`run llm` spends money for whoever knows it")
    async with LLMRouter.from_config(settings.require_llm_config(), metrics=PrometheusMetrics()) as router:
        prober = await router.start_probes()
        await prober.ready()
        async with serving(router, settings, key) as port:
            with reloading(router, look_s=settings.llm_config_look_s), at_work(PART, never):
                log.info("llm listening", address=settings.llm_address, port=port, providers=router.providers)
                await stop.wait()
