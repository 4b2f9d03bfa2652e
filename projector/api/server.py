"""The HTTP server of one stream."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from projector.api import tick
from projector.api.health import Health, Stopping
from projector.config import Settings
from projector.errors import ConfigError
from projector.health.servers import Connections
from projector.health.watch import Watch
from projector.logging import get
from projector.metrics import HTTP_REQUESTS, HTTP_SECONDS

LONGEST_BODY = 16 * 1024
STOP_S = 1.0
WITH_TICK = "timers"

log = get("api")


@asynccontextmanager
async def serving(
    settings: Settings, stream: str, stopping: Stopping, watch: Watch, servers: Connections
) -> AsyncIterator[None]:
    """Serves when a port is set; raises ConfigError when it cannot be had, or when the service key must not be used."""
    if settings.api_port is None:
        yield
        return
    with_tick = stream == WITH_TICK
    key = settings.require_service_key() if with_tick else None
    app = web.Application(middlewares=[_guarded(key)], client_max_size=LONGEST_BODY)
    app.add_routes(Health(settings, stream, watch, servers, stopping).routes())
    if with_tick:
        app.add_routes(tick.routes())
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=STOP_S,
        lingering_time=STOP_S,
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, settings.api_address, settings.api_port).start()
        except OSError as error:
            raise ConfigError(
                f"PROJECTOR_API_ADDRESS={settings.api_address}, PROJECTOR_API_PORT={settings.api_port}:"
                f" {error.strerror or error}"
            ) from None
        log.info("api listening", address=settings.api_address, port=runner.addresses[0][1])
        yield
    finally:
        await runner.cleanup()


def _guarded(key: str | None) -> Middleware:
    """Counts each request under a label of which there are few, keeps strangers out, and tells them nothing."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.monotonic()
        status = 500
        try:
            response = await _answer(request, handler, key)
            status = response.status
            return response
        finally:
            labels = (_method(request.method), _path(request), str(status))
            HTTP_REQUESTS.labels(*labels).inc()
            HTTP_SECONDS.labels(*labels).observe(time.monotonic() - started)

    return guarded


async def _answer(request: web.Request, handler: Handler, key: str | None) -> web.StreamResponse:
    refused = request.match_info.http_exception
    guarded = request.path.startswith(tick.PREFIX) and (refused is None or refused.status != 405)
    if key is not None and guarded and not tick.is_allowed(request, key):
        return web.json_response({"error": "invalid or missing service key"}, status=401)
    try:
        return await handler(request)
    except web.HTTPException as error:
        headers = {hdrs.ALLOW: error.headers[hdrs.ALLOW]} if hdrs.ALLOW in error.headers else None
        return web.json_response({"error": error.reason.lower()}, status=error.status, headers=headers)
    except Exception:
        log.exception("request broke", path=_path(request))
        return web.json_response({"error": "internal error"}, status=500)


def _method(name: str) -> str:
    return name if name in hdrs.METH_ALL else "other"


def _path(request: web.Request) -> str:
    resource = request.match_info.route.resource
    if resource is not None:
        return resource.canonical
    return "/internal/*" if request.path.startswith(tick.PREFIX) else "/*"
