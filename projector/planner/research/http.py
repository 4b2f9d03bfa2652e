"""Requests to the research services: bounded in time and size, never tried again here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from projector.errors import ResearchRefusedError, ResearchUnavailableError, RouteError
from projector.llm.answer import json_object
from projector.llm.config import Limits
from projector.llm.providers.wire import Call

if TYPE_CHECKING:
    # Who only plans or replays loads no HTTP client.
    from projector.llm.transport import HTTPTransport

APP_ID = "mana-ai"
MAX_BODY_BYTES = 2 * 1024 * 1024
CONNECT_TIMEOUT_S = 10.0
# The same request may succeed later.
_TRANSIENT = {401, 403, 408, 409, 425, 429}


def http_client() -> HTTPTransport:
    """To be closed by whoever opens it."""
    from projector.llm.transport import HTTPTransport

    # A connection for each request: whatever a service sends beyond an answer would be read as another user's.
    return HTTPTransport(longest_body=MAX_BODY_BYTES, keep_alive=False)


class Service:
    """One service at `base_url`, which knows us by `key` and is told on whose behalf we ask."""

    def __init__(self, http: HTTPTransport, base_url: str, key: str) -> None:
        self._http = http
        self._base = base_url.rstrip("/")
        self._headers = {"x-app-id": APP_ID} | ({"x-service-key": key} if key else {})

    async def post(
        self, path: str, body: dict[str, Any], *, user_id: str, timeout_s: float, idempotency_key: str = ""
    ) -> dict[str, Any]:
        """The JSON object answered. Raises ResearchUnavailableError or ResearchRefusedError."""
        headers = {"content-type": "application/json"}
        if idempotency_key:
            headers["idempotency-key"] = idempotency_key
        return await self._ask(path, orjson.dumps(body), headers, user_id, timeout_s)

    async def get(self, path: str, *, user_id: str, timeout_s: float) -> dict[str, Any]:
        """The same without a body."""
        return await self._ask(path, None, {}, user_id, timeout_s)

    async def _ask(
        self, path: str, body: bytes | None, headers: dict[str, str], user_id: str, timeout_s: float
    ) -> dict[str, Any]:
        call = Call(self._base + path, self._headers | headers | {"x-user-id": user_id}, body)
        limits = Limits(min(CONNECT_TIMEOUT_S, timeout_s), timeout_s, timeout_s, timeout_s)
        try:
            reply = await self._http.ask(call, limits)
        except RouteError as error:
            raise ResearchUnavailableError(error.message) from error
        status = reply.status
        if not 200 <= status < 300:
            transient = status >= 500 or status in _TRANSIENT
            # Never its text, which may repeat what was asked.
            raise (ResearchUnavailableError if transient else ResearchRefusedError)(f"answered {status}")
        answer = json_object(reply.body)
        if answer is None:
            raise ResearchUnavailableError("the answer is no JSON object")
        return answer
