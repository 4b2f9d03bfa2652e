"""/health/live: is it of use to start this process again? /health/ready: does the stream do its work, and in time?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from aiohttp import web

from projector.config import Settings
from projector.health.parts import Part, parts
from projector.health.servers import Connections
from projector.health.watch import LOOP, Watch
from projector.logging import get

Stopping = Callable[[], bool]

log = get("health")


class Health:
    """`stopping` says whether the stream was told to end."""

    def __init__(self, settings: Settings, stream: str, watch: Watch, servers: Connections, stopping: Stopping) -> None:
        self._stream = stream
        self._ready_lag_s = settings.ready_lag_s
        self._watch = watch
        self._servers = servers
        self._stopping = stopping

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/health/live", self._live), web.get("/health/ready", self._ready)]

    async def _live(self, _request: web.Request) -> web.Response:
        verdicts = self._watch.verdicts
        live = self._watch.looks and all(v.state != "stalled" for v in verdicts.values())
        states = {
            name: {"state": verdict.state, "standing_s": round(verdict.standing_s, 1)}
            for name, verdict in sorted(verdicts.items())
        }
        return _answer(live, {"live": live, "stream": self._stream, "parts": states})

    async def _ready(self, _request: web.Request) -> web.Response:
        answers = await self._servers.away()
        checks = {name: _check(None if why is None else f"does not answer: {why}") for name, why in answers.items()}
        for part in parts():
            if part.name != LOOP and part.needed:
                checks[part.name] = self._of_part(part)
        ready = not self._stopping() and all(check["ready"] for check in checks.values())
        body: dict[str, Any] = {"ready": ready, "stream": self._stream, "parts": checks}
        if self._stopping():
            body["reason"] = "stopping"
        return _answer(ready, body)

    def _of_part(self, part: Part) -> dict[str, Any]:
        if part.failure is not None:
            return _check(f"stopped: {part.failure}")
        if not part.at_work:
            return _check("not at work")
        verdict = self._watch.verdicts.get(part.name)
        if verdict is not None and verdict.state == "stalled":
            return _check("stands still")
        if part.lag_s is None:
            return _check(None)
        lag_s = part.lag_s()
        if math.isnan(lag_s):
            return _check("lag not known yet")
        reason = None if lag_s <= self._ready_lag_s else f"behind by more than {self._ready_lag_s:g} s"
        return _check(reason) | {"lag_s": round(lag_s, 1)}


def _check(reason: str | None) -> dict[str, Any]:
    return {"ready": True} if reason is None else {"ready": False, "reason": reason}


def _answer(good: bool, body: dict[str, Any]) -> web.Response:
    return web.json_response(body, status=200 if good else 503, headers={"Cache-Control": "no-store"})
