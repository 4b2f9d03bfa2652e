"""A provider under a test's control, over a real socket: it answers as told, one script for each request."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from projector.llm.registry import Registry
from tests.serving import Received, Serving

SSE = {"content-type": "text/event-stream"}


@dataclass(frozen=True)
class Script:
    """`pieces` of a body, `pause_s` before each but the first, `wait_s` before the head. `ending`: "cut" closes the
    connection in the middle of the body, "hang" waits until the client goes, "abort" closes it without an answer.
    """

    status: int = 200
    pieces: Sequence[bytes] = (b"",)
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    wait_s: float = 0.0
    pause_s: float = 0.0
    ending: Literal["end", "cut", "hang", "abort", "silent"] = "end"


SILENT = Script(ending="silent")
ABORT = Script(ending="abort")


def answer(content: str | None = "hello", **message: Any) -> Script:
    finish = message.pop("finish", "stop")
    usage = message.pop("usage", {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15})
    body = {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "upstream-name",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
        ],
        "usage": usage,
    }
    return Script(pieces=(orjson.dumps(body),))


def failure(status: int, body: Any = None, **headers: str) -> Script:
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    content = body if isinstance(body, bytes) else orjson.dumps(body if body is not None else {})
    return Script(status, (content,), {"content-type": "application/json", **told})


def error(status: int, code: str | None = None, message: str = "told by the provider", **headers: str) -> Script:
    return failure(status, {"error": {"message": message, "type": "error", "code": code}}, **headers)


def chunk(content: str | None = None, finish: str | None = None, **delta: Any) -> bytes:
    made: dict[str, Any] = {**delta} if content is None else {"content": content, **delta}
    choices = [{"index": 0, "delta": made, "finish_reason": finish}]
    return event({"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices})


def event(data: Any, name: str = "") -> bytes:
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + (data if isinstance(data, bytes) else orjson.dumps(data)) + b"\n\n"


DONE = event(b"[DONE]")
USAGE = event(
    {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }
)


def streamed(*pieces: bytes, **options: Any) -> Script:
    return Script(pieces=pieces, headers=SSE, **options)


def words(*texts: str, **options: Any) -> Script:
    """A whole stream of these words."""
    return streamed(*(chunk(text) for text in texts), chunk(finish="stop"), USAGE, DONE, **options)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class Upstream(Serving):
    """Answers the n-th request for chat with the n-th script, and any further one with the last. A GET gets 200."""

    def __init__(self, *scripts: Script | Callable[[Request], Script]) -> None:
        super().__init__()
        self.scripts = list(scripts)
        self.requests: list[Request] = []
        self.inventory = Script(pieces=(orjson.dumps({"data": [{"id": "m1"}, {"id": "m2"}]}),))
        self.probes = 0
        self.gone = asyncio.Event()
        """Set when a client leaves in the middle of an answer."""

    @property
    def url(self) -> str:
        return f"{super().url}/v1"

    @property
    def calls(self) -> int:
        return len(self.requests)

    async def serve(self, received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if received.method == "GET":
            self.probes += 1
            script = self.inventory
        else:
            request = Request(received.method, received.path, received.headers, orjson.loads(received.body))
            self.requests.append(request)
            found = self.scripts[min(len(self.requests), len(self.scripts)) - 1]
            script = found(request) if callable(found) else found
        return await self._play(script, reader, writer)

    async def _play(self, script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if script.ending == "abort":
            return False
        if script.ending == "silent":
            await self._until_gone(reader)
            return False
        await asyncio.sleep(script.wait_s)
        streamed = script.headers.get("content-type") == "text/event-stream"
        size = sum(len(piece) for piece in script.pieces) + (100 if script.ending != "end" else 0)
        framing = "transfer-encoding: chunked" if streamed else f"content-length: {size}"
        lines = [f"HTTP/1.1 {script.status} Told", framing, *(f"{n}: {v}" for n, v in script.headers.items())]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        for index, piece in enumerate(script.pieces):
            if index:
                await asyncio.sleep(script.pause_s)
            if piece:
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if streamed else piece)
                await writer.drain()
        if script.ending == "hang":
            await self._until_gone(reader)
        if script.ending != "end":
            return False
        if streamed:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _until_gone(self, reader: asyncio.StreamReader) -> None:
        try:
            while await reader.read(1024):
                pass
        finally:
            self.gone.set()


@contextmanager
def full() -> Iterator[str]:
    """The address of a server that accepts no connection any more."""
    with ExitStack() as held:
        server = held.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(3):
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"


def registry(folder: Path, aliases: str = "", *, more: str = "", **upstreams: Upstream | str) -> Registry:
    """A file whose providers are these; without `aliases`, `mana/x` is a chain of `m1` of each, in order.

    A provider given as a string is `{url: ..., ...}` of a YAML flow mapping.
    """
    lines = ["providers:"]
    for name, upstream in upstreams.items():
        told = upstream if isinstance(upstream, str) else f"base_url: '{upstream.url}'"
        lines.append(f"  {name}: {{{told}}}")
    chain = ", ".join(f"{name}/m1" for name in upstreams)
    lines += ["aliases:", aliases or f"  mana/x: {{chain: [{chain}]}}", more]
    path = folder / "llm.yaml"
    path.write_text("\n".join(lines))
    return Registry(path, environment={"KEY_OF_P1": "secret-key-of-p1", "KEY_OF_P2": "secret-key-of-p2"})


BODY: dict[str, Any] = {"model": "mana/x", "messages": [{"role": "user", "content": "what I ask"}]}
