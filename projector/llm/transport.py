"""HTTP to the providers. What goes wrong on the way has one of few kinds; whoever uses this never sees the library."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp
from aiohttp.client_reqrep import ClientRequest, ConnectionKey
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from projector.errors import AnswerFormatError, ModelTimeoutError, RouteError, UnreachableError, UpstreamError
from projector.llm.config import Limits
from projector.llm.endpoint import LONGEST_BODY, refusal_body
from projector.llm.patience import Patience
from projector.llm.providers.wire import Call

KEEP_ALIVE_S = 15.0
"""Shorter than what servers keep a connection open for: one that the server closes meanwhile costs an attempt."""


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Incoming(Protocol):
    """An answer whose head is there. Headers are looked up in any case."""

    status: int
    headers: Mapping[str, str]

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes, without any limit of time. Raises UpstreamError when it is cut off."""
        ...

    async def rest(self, longest: int) -> bytes:
        """The whole body. Raises AnswerFormatError when it is longer, UpstreamError when it is cut off."""
        ...

    def close(self) -> None:
        """Ends the connection, unless the body was read to its end."""
        ...


class Transport(Protocol):
    async def ask(self, call: Call, limits: Limits) -> Reply:
        """The whole answer; of one with a status from 300 on what can be had of its body.

        Raises UnreachableError, ModelTimeoutError, UpstreamError or AnswerFormatError.
        """
        ...

    async def open(self, call: Call, limits: Limits) -> Incoming:
        """The head of the answer; the time until the first byte is the caller's to limit."""
        ...

    async def close(self) -> None: ...


class _Connector(aiohttp.TCPConnector):
    """Hands out no connection on which something came while nobody had asked: it would be read as the next answer, and
    be another caller's.
    """

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout) -> Connection:
        assert timeout.connect is not None
        async with Patience(timeout.connect):
            return await super().connect(req, traces, aiohttp.ClientTimeout(total=None))

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        while (connection := await super()._get(key, traces)) is not None:
            if connection.protocol is not None and not connection.protocol.should_close:
                break
            connection.close()
        return connection


class HTTPTransport:
    """One pool of connections for all providers; belongs to the event loop that first uses it. Without `keep_alive`
    each request has a connection of its own.
    """

    def __init__(self, *, longest_body: int = LONGEST_BODY, keep_alive: bool = True) -> None:
        self._longest_body = longest_body
        self._keep_alive = keep_alive
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        # Looked up for every request, so only where there is one.
        self._proxied = any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in os.environ)

    async def ask(self, call: Call, limits: Limits) -> Reply:
        first_byte_s = min(limits.first_byte_s, limits.total_s)
        incoming: Incoming | None = None
        try:
            async with Patience(first_byte_s) as timeout:
                due = (timeout.when() or 0.0) - first_byte_s + limits.total_s
                incoming = await self.open(call, limits)
                timeout.reschedule(due)
                is_refusal = incoming.status >= 300
                body = await (refusal_body(incoming, timeout) if is_refusal else incoming.rest(self._longest_body))
                return Reply(incoming.status, incoming.headers, body)
        except TimeoutError:
            what = "no first byte" if incoming is None else "no whole answer"
            seconds = first_byte_s if incoming is None else limits.total_s
            raise ModelTimeoutError(f"{what} within {seconds:.3g} s") from None
        finally:
            if incoming is not None:
                incoming.close()

    async def open(self, call: Call, limits: Limits) -> Incoming:
        through_proxy = self._proxied and not _is_here(call.url)
        session = self._sessions.get(through_proxy) or self._open_session(through_proxy)
        timeout = aiohttp.ClientTimeout(total=None, connect=limits.connect_s)
        try:
            response = await session.request(
                "GET" if call.body is None else "POST",
                call.url,
                data=call.body,
                headers=call.headers,
                timeout=timeout,
                allow_redirects=False,
            )
        except aiohttp.ServerTimeoutError:
            raise ModelTimeoutError(f"no connection within {limits.connect_s:.3g} s") from None
        except (aiohttp.ClientPayloadError, aiohttp.ClientResponseError) as error:
            raise AnswerFormatError(f"the answer is no HTTP: {type(error).__name__}") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: a header that nothing can carry
            raise UnreachableError(f"unreachable: {_reason(error)}") from error
        return _Incoming(response)

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()

    def _open_session(self, through_proxy: bool) -> aiohttp.ClientSession:
        if self._keep_alive:
            connector = _Connector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
        else:
            connector = _Connector(limit=0, force_close=True)
        session = self._sessions[through_proxy] = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"accept-encoding": "identity", "user-agent": "projector"},
            trust_env=through_proxy,
        )
        return session


@lru_cache(maxsize=256)
def _is_here(url: str) -> bool:
    """Whether it is a server on this machine, whose conversations no proxy needs to see."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class _Incoming:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        content = self._response.content
        try:
            while piece := await content.readany():
                yield piece
        except (aiohttp.ClientError, OSError) as error:
            raise _cut_off(error) from error

    async def rest(self, longest: int) -> bytes:
        content = self._response.content
        size, pieces = 0, []
        try:
            while piece := await content.readany():
                size += len(piece)
                if size > longest:
                    raise AnswerFormatError(f"the answer is longer than {longest} bytes", status=self.status)
                pieces.append(piece)
        except (aiohttp.ClientError, OSError) as error:
            raise _cut_off(error) from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        # After the end of the body the connection is in the pool already, and stays there.
        if self._response.connection is not None:
            self._response.close()


def _cut_off(error: Exception) -> RouteError:
    return UpstreamError(f"the answer was cut off: {type(error).__name__}", status=200)


def _reason(error: Exception) -> str:
    # The operating system's words alone: the library's name addresses and the whole URL.
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number is not None and number > 0 else type(error).__name__
