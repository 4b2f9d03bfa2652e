"""/internal/tick: a pass of the timers now, for whoever knows the service key."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

PREFIX = "/internal/"
HEADER = "X-Service-Key"

Tick = Callable[[], Awaitable[dict[str, Any]]]

_offered: list[tuple[Tick, asyncio.AbstractEventLoop]] = []


@contextmanager
def offered(tick: Tick) -> Iterator[None]:
    """Requests call `tick`, in the loop that runs here, for so long; what it returns is the answer."""
    entry = (tick, asyncio.get_running_loop())
    _offered.append(entry)
    try:
        yield
    finally:
        _offered.remove(entry)


def routes() -> list[web.RouteDef]:
    return [web.post("/internal/tick", _tick)]


def is_allowed(request: web.Request, key: str) -> bool:
    """Whether the request carries the service key; takes as long whatever it carries."""
    given = request.headers.get(HEADER, "")
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), key.encode())


async def _tick(request: web.Request) -> web.Response:
    await request.read()
    if not _offered:
        return web.json_response({"error": "not at work"}, status=503)
    tick, loop = _offered[-1]

    async def called() -> dict[str, Any]:
        return await tick()

    return web.json_response(await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(called(), loop)))
