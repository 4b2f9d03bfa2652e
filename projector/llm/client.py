"""An OpenAI-compatible chat endpoint over HTTP.

One request a call: no streaming and no retries, which belong to the caller, who knows what was stored already.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import httpx2
import orjson

from projector.config import Settings
from projector.errors import ChatAnswerError, ChatRefusedError, ChatUnavailableError, ConfigError
from projector.llm.answer import completion_of
from projector.llm.chat import Completion, Message
from projector.llm.counted import TEMPERATURE, counted

MAX_BODY_BYTES = 2 * 1024 * 1024
CONNECT_TIMEOUT_S = 10.0
# Too early, or too many at once: the same request may succeed later. Other 4xx never do.
TRANSIENT_STATUS = {408, 409, 425, 429}


class OpenAIChat:
    """Use as an async context manager. `timeout_s` covers a whole call, the last byte of the body included."""

    def __init__(self, base_url: str, *, api_key: str = "", timeout_s: float = 120.0, connections: int = 100) -> None:
        self._url = base_url.rstrip("/") + "/v1/chat/completions"
        self._timeout_s = timeout_s
        self._headers = {"content-type": "application/json"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._tls = httpx2.create_ssl_context()
        self._places = asyncio.Semaphore(connections)
        # One client for each call at the same time: a shared one looks at all of its connections with every call, and
        # with 200 of them that is most of what a call costs.
        self._idle: list[httpx2.AsyncClient] = []

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Raises ConfigError when no endpoint is set."""
        if not settings.llm_base_url:
            raise ConfigError("PROJECTOR_LLM_BASE_URL is not set", "set it to an OpenAI-compatible endpoint")
        return cls(
            settings.llm_base_url,
            api_key=settings.llm_api_key.get_secret_value(),
            timeout_s=settings.llm_timeout_s,
            connections=settings.planner_workers,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._idle:
            await client.aclose()

    async def complete(
        self, alias: str, messages: Sequence[Message], tools: Sequence[dict[str, Any]], *, run_id: str
    ) -> Completion:
        """Asks once. `run_id` goes along as a header, so that the endpoint's log can be matched with the ledger."""
        request: dict[str, Any] = {
            "model": alias,
            "messages": list(messages),
            "temperature": TEMPERATURE,
            "stream": False,
        }
        if tools:
            request |= {"tools": list(tools), "tool_choice": "auto"}
        return await counted(self._ask(orjson.dumps(request), run_id))

    async def _ask(self, body: bytes, run_id: str) -> Completion:
        try:
            async with asyncio.timeout(self._timeout_s):
                status, headers, answer = await self._post(body, run_id)
        except TimeoutError:
            raise ChatUnavailableError(f"the endpoint did not answer within {self._timeout_s:g} s") from None
        except httpx2.TimeoutException as error:
            raise ChatUnavailableError(f"the endpoint did not answer in time: {type(error).__name__}") from error
        except httpx2.TransportError as error:
            raise ChatUnavailableError(f"the endpoint is unreachable: {type(error).__name__}: {error}") from error
        except httpx2.DecodingError as error:
            raise ChatAnswerError(f"the endpoint's answer is wrongly compressed: {error}") from error
        if status != 200:
            raise _refusal(status, headers, answer)
        return completion_of(answer)

    async def _post(self, body: bytes, run_id: str) -> tuple[int, httpx2.Headers, bytes]:
        received = bytearray()
        async with (
            self._client() as client,
            client.stream("POST", self._url, content=body, headers={"x-run-id": run_id}) as response,
        ):
            async for chunk in response.aiter_bytes():
                received += chunk
                if len(received) > MAX_BODY_BYTES:
                    raise ChatAnswerError(f"the endpoint's answer is longer than {MAX_BODY_BYTES} bytes")
            return response.status_code, response.headers, bytes(received)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx2.AsyncClient]:
        """A client that nobody else uses; waits while as many as there may be connections are in use."""
        async with self._places:
            client = self._idle.pop() if self._idle else self._new()
            try:
                yield client
            finally:
                self._idle.append(client)

    def _new(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            headers=self._headers,
            timeout=httpx2.Timeout(self._timeout_s, connect=min(CONNECT_TIMEOUT_S, self._timeout_s)),
            # A connection for each call: whatever an endpoint sends beyond an answer would be read as the next one's,
            # and be another user's.
            limits=httpx2.Limits(max_connections=1, max_keepalive_connections=0),
            verify=self._tls,
            follow_redirects=False,
        )


def _refusal(status: int, headers: httpx2.Headers, body: bytes) -> ChatUnavailableError | ChatRefusedError:
    message = f"the endpoint answered {status}{_detail(body)}"
    if status >= 500 or status in TRANSIENT_STATUS:
        return ChatUnavailableError(message, retry_after_s=_seconds(headers.get("retry-after")))
    return ChatRefusedError(message)


def _detail(body: bytes) -> str:
    """The endpoint's own words, short: `detail` or `error`, as a text or as {kind, message}; else the text."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        text = " ".join(body[:300].decode("utf-8", "replace").split())
        return f": {text}" if text else ""
    found = answer.get("detail") or answer.get("error") if isinstance(answer, dict) else None
    if isinstance(found, dict):
        kind = found.get("kind") or found.get("type") or "unknown"
        return f" ({str(kind)[:40]}): {str(found.get('message', ''))[:300]}"
    return f": {str(found)[:300]}" if found else ""


def _seconds(header: str | None) -> float | None:
    # Retry-After may also be a date, which endpoints of this kind do not send.
    try:
        value = float(header) if header else None
    except ValueError:
        return None
    return value if value is not None and 0 <= value <= 3600 else None
