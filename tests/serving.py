"""HTTP services under a test's control, spoken to over a socket."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came; names of `headers` in small letters."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    raw: bytes


async def receive(reader: asyncio.StreamReader) -> Received:
    """The next request of a connection; raises IncompleteReadError when there is none."""
    head = await reader.readuntil(b"\r\n\r\n")
    request, *lines = head.decode().split("\r\n")
    method, path, _ = request.split(" ")
    pairs = (line.partition(":") for line in lines if line)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Received(method, path, headers, body, head + body)


class Serving:
    """Listens while it is entered, and then drops every connection. `serve` answers one request."""

    _server: asyncio.Server

    def __init__(self) -> None:
        self._busy: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    async def kill(self) -> None:
        """Stops listening, and drops every connection."""
        self._server.close()
        await self._drop()
        # Those that were being accepted.
        await asyncio.sleep(0.01)
        await self._drop()

    async def _drop(self) -> None:
        for task in list(self._busy):
            task.cancel()
        await asyncio.gather(*self._busy, return_exceptions=True)

    async def serve(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """False when the connection is over with it."""
        raise NotImplementedError

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def over(task: asyncio.Task[None]) -> None:
            self._busy.discard(task)
            # One that is cancelled may never have begun.
            (writer.transport.abort if task.cancelled() else writer.close)()

        task = asyncio.create_task(self._serve(reader, writer))
        self._busy.add(task)
        task.add_done_callback(over)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self.serve(await receive(reader), reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has what it wanted
