"""The HTTP service of the chains: an aiohttp application around a router."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from projector import __version__, metrics
from projector.config import Settings
from projector.errors import AliasConfigError, RouteError
from projector.llm.breaker import ProviderState
from projector.llm.patience import Patience
from projector.llm.router import LLMRouter, Stream
from projector.llm.service.answers import json_response, refusal, route_error, route_error_response, served
from projector.llm.service.door import Key, Rate
from projector.llm.service.request import WrongRequest, read_request
from projector.llm.sse import DONE, event
from projector.logging import get

PUBLIC = {"/health", "/metrics"}
LONGEST_WRITE_S = 60.0
"""A reader that takes nothing for so long is gone."""
LONGEST_READ_S = 30.0
"""A caller whose request has not come by then holds its place no longer."""
_CALL_ID = re.compile(r"[A-Za-z0-9_.:-]{1,100}")

log = get("llm")


class Service:
    """`settings` limit what comes in; who may come in knows `key`."""

    def __init__(self, router: LLMRouter, settings: Settings, key: str) -> None:
        self._router = router
        self._key = Key(key)
        self._rate = Rate(settings.llm_rate_per_s)
        self._most_calls = settings.llm_max_calls
        self._longest_body = settings.llm_max_request_bytes
        self._calls = 0

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guarded], client_max_size=self._longest_body)
        app.add_routes(
            [
                web.post("/v1/chat/completions", self._chat),
                web.get("/v1/models", self._models),
                web.get("/v1/models/{id:.+}", self._model),
                web.get("/v1/aliases", self._aliases),
                web.post("/v1/aliases/reload", self._reload),
                web.get("/v1/health", self._health),
                web.post("/v1/health/reset", self._reset),
                web.get("/health", self._public_health),
                web.get("/metrics", self._metrics),
            ]
        )
        return app

    # The door

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.monotonic()
        status = 499
        try:
            response = await self._let_in(request, handler)
            status = response.status
            return response
        finally:
            resource = request.match_info.route.resource
            method = request.method if request.method in ("GET", "POST") else "other"
            count, seconds = _answered(method, resource.canonical if resource is not None else "/*", status)
            count.inc()
            seconds.observe(time.monotonic() - started)

    async def _let_in(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in PUBLIC:
            if not self._key.opens(request.headers):
                return _refused(401, "key", "invalid_api_key", "the service key is missing or wrong")
            if wait_s := self._rate.wait_s(request.remote or ""):
                return _refused(429, "rate", "rate_limit", "too many requests", retry_after=wait_s)
        try:
            return await handler(request)
        except WrongRequest as wrong:
            where = f"{wrong.param}: " if wrong.param else ""
            return _refused(400, "form", "bad_request", f"{where}{wrong}", param=wrong.param)
        except web.HTTPRequestEntityTooLarge:
            return _refused(413, "size", "too_large", f"the body is longer than {self._longest_body} bytes")
        except web.HTTPException as error:
            return refusal(error.status, "not_found" if error.status == 404 else "bad_request", error.reason.lower())
        except Exception:
            log.exception("request broke", path=request.path[:100])
            return refusal(500, "internal", "internal error")

    # Calls

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        given = request.headers.get("X-Request-ID", "")
        call_id = given if _CALL_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
        if self._calls >= self._most_calls:
            return _refused(429, "busy", "rate_limit", "too many calls at once", retry_after=1.0)
        with self._counted():
            try:
                async with Patience(LONGEST_READ_S):
                    data = await request.read()
            except TimeoutError:
                return _refused(408, "slow", "bad_request", f"the body did not come within {LONGEST_READ_S:g} s")
            body = read_request(data)
            try:
                if body.get("stream"):
                    return await self._streamed(request, body, call_id)
                answer = await self._router.complete(body, call_id=call_id)
            except RouteError as error:
                return route_error_response(error, call_id)
            headers = served(answer.requested, answer.resolved, answer.attempts, call_id)
            return json_response(answer.body, headers=headers)

    async def _streamed(self, request: web.Request, body: dict[str, Any], call_id: str) -> web.StreamResponse:
        async with self._router.stream(body, call_id=call_id) as stream:
            headers = served(stream.requested, stream.resolved, stream.attempts, call_id)
            response = web.StreamResponse(headers={**headers, "Cache-Control": "no-store", "X-Accel-Buffering": "no"})
            response.content_type = "text/event-stream"
            metrics.LLM_STREAMS.inc()
            try:
                await response.prepare(request)
                await _pass_on(stream, response)
            except (ConnectionError, TimeoutError):
                log.info("reader left", call_id=call_id)
                _cut(request)
            except Exception:
                log.exception("stream broke", call_id=call_id)
                _cut(request)
            finally:
                metrics.LLM_STREAMS.dec()
            return response

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    # What there is

    async def _models(self, _request: web.Request) -> web.Response:
        return json_response({"object": "list", "data": list(self._listed().values())})

    async def _model(self, request: web.Request) -> web.Response:
        found = self._listed().get(request.match_info["id"])
        return refusal(404, "not_found", "there is no such model") if found is None else json_response(found)

    def _listed(self) -> dict[str, dict[str, Any]]:
        """Aliases, and the entries of their chains that can be asked."""
        snapshot = self._router.registry.snapshot
        owners = dict.fromkeys(sorted(snapshot.config.aliases), "projector")
        for entry in sorted(snapshot.entries):
            if entry.partition("/")[0] in snapshot.keys:
                owners[entry] = entry.partition("/")[0]
        created = int(snapshot.loaded_at)
        return {
            name: {"id": name, "object": "model", "created": created, "owned_by": owner}
            for name, owner in owners.items()
        }

    async def _aliases(self, _request: web.Request) -> web.Response:
        snapshot = self._router.registry.snapshot
        aliases = [
            {
                "name": alias.name,
                "description": alias.description,
                "chain": alias.chain,
                "entries": [{"entry": e.name, "configured": e.provider in snapshot.keys} for e in alias.entries],
            }
            for alias in self._router.registry.list_aliases()
        ]
        told = {"default": snapshot.default, "generation": snapshot.generation, "loaded_at": snapshot.loaded_at}
        return json_response({**told, "warnings": snapshot.config.warnings, "aliases": aliases})

    async def _reload(self, _request: web.Request) -> web.Response:
        before = self._router.registry.snapshot.generation
        try:
            return json_response({"old": before, "new": (await self._router.reload()).generation})
        except AliasConfigError as error:
            return refusal(422, "alias_config", error.message)

    # Health

    async def _health(self, request: web.Request) -> web.Response:
        if request.query.get("probe") == "1":
            await self._router.probe_now()
        return json_response(self._state())

    async def _public_health(self, _request: web.Request) -> web.Response:
        state = self._state()
        # To strangers without the words of errors.
        providers = {name: {"status": told["status"]} for name, told in state["providers"].items()}
        told = {"status": state["status"], "service": "projector-llm", "version": __version__}
        return json_response({**told, "providers": providers})

    async def _reset(self, _request: web.Request) -> web.Response:
        self._router.breaker.reset()
        return json_response(self._state())

    def _state(self) -> dict[str, Any]:
        states = self._router.health()
        healthy = sum(state.healthy for state in states.values())
        status = "healthy" if healthy == len(states) else "degraded" if healthy else "unhealthy"
        return {
            "status": status,
            "providers": {name: _told(state) for name, state in states.items()},
            "models": {name: _told(state) for name, state in self._router.breaker.models().items()},
            "calls": self._calls,
        }

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})


@lru_cache(maxsize=1024)
def _answered(method: str, path: str, status: int) -> tuple[metrics.Counter, metrics.Histogram]:
    labels = (method, path, str(status))
    return metrics.HTTP_REQUESTS.labels(*labels), metrics.HTTP_SECONDS.labels(*labels)


async def _pass_on(stream: Stream, response: web.StreamResponse) -> None:
    end = DONE
    try:
        async for chunk in stream:
            together = [chunk, *stream.ready()]
            await _write(response, b"".join([event(orjson.dumps(part)) for part in together]))
    except RouteError as error:
        # Without [DONE]: who reads must see that this is not all.
        end = event(orjson.dumps(route_error(error)))
    await _write(response, end)
    await response.write_eof()


def _cut(request: web.Request) -> None:
    """The head is sent, so that nothing but the end of the connection can say that this is not all."""
    if request.transport is not None:
        request.transport.abort()


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with Patience(LONGEST_WRITE_S):
        await response.write(data)


def _refused(status: int, reason: str, kind: str, message: str, **told: Any) -> web.Response:
    metrics.LLM_REFUSED.labels(reason).inc()
    return refusal(status, kind, message, **told)


def _told(state: ProviderState) -> dict[str, Any]:
    told = asdict(state)
    return {
        "status": "healthy" if told.pop("healthy") else "unhealthy",
        **told,
        "last_check_unix": told.pop("last_check") or None,
        "unhealthy_until_unix": told.pop("unhealthy_until") or None,
    }
