"""Requests to the research services: bounded in time and size, never tried again here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson

from projector.errors import ResearchRefusedError, ResearchUnavailableError

if TYPE_CHECKING:
    # Who only plans or replays loads no HTTP client.
    import httpx2

APP_ID = "mana-ai"
MAX_BODY_BYTES = 2 * 1024 * 1024
CONNECT_TIMEOUT_S = 10.0
CONNECTIONS = 100
# The same request may succeed later.
_TRANSIENT = {401, 403, 408, 409, 425, 429}


def http_client() -> httpx2.AsyncClient:
    """To be closed by whoever opens it."""
    import httpx2

    return httpx2.AsyncClient(
        timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S),
        # A connection for each request: whatever a service sends beyond an answer would be read as another user's.
        limits=httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=0),
        follow_redirects=False,
    )


class Service:
    """One service at `base_url`, which knows us by `key` and is told on whose behalf we ask."""

    def __init__(self, http: httpx2.AsyncClient, base_url: str, key: str) -> None:
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
        return await self._ask("POST", path, orjson.dumps(body), headers, user_id, timeout_s)

    async def get(self, path: str, *, user_id: str, timeout_s: float) -> dict[str, Any]:
        """The same without a body."""
        return await self._ask("GET", path, b"", {}, user_id, timeout_s)

    async def _ask(
        self, method: str, path: str, body: bytes, headers: dict[str, str], user_id: str, timeout_s: float
    ) -> dict[str, Any]:
        import httpx2

        named = self._headers | headers | {"x-user-id": user_id}
        # As bytes: an id may have characters that a header's text has not.
        sent = {name.encode(): value.encode() for name, value in named.items()}
        received = bytearray()
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._http.stream(method, self._base + path, content=body or None, headers=sent) as response,
            ):
                async for chunk in response.aiter_bytes():
                    received += chunk
                    if len(received) > MAX_BODY_BYTES:
                        raise ResearchUnavailableError(f"the answer is longer than {MAX_BODY_BYTES} bytes")
        except TimeoutError:
            raise ResearchUnavailableError(f"no answer within {timeout_s:g} s") from None
        except httpx2.HTTPError as error:
            raise ResearchUnavailableError(f"unreachable: {type(error).__name__}") from error
        status = response.status_code
        if not 200 <= status < 300:
            transient = status >= 500 or status in _TRANSIENT
            # Never its text, which may repeat what was asked.
            raise (ResearchUnavailableError if transient else ResearchRefusedError)(f"answered {status}")
        return _json_object(bytes(received))


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ResearchUnavailableError("the answer is no JSON") from None
    if not isinstance(answer, dict):
        raise ResearchUnavailableError("the answer is no JSON object")
    return answer
