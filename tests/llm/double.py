"""A chat endpoint under a test's control: it answers what it was told to, and keeps every byte it was sent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from tests.serving import Received, Serving


@dataclass(frozen=True)
class Reply:
    """`pause_s` comes before the answer; with `drip_s` its body comes byte by byte, that long apart."""

    status: int = 200
    body: bytes = b""
    pause_s: float = 0.0
    drip_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)


def text(content: str | None, *, finish: str = "stop", prompt: int = 100, completion: int = 20) -> Reply:
    """A closing answer."""
    return _completion({"role": "assistant", "content": content}, finish, prompt, completion)


def calls(*wanted: tuple[str, Any], ids: Sequence[str] | None = None) -> Reply:
    """An answer that calls tools: (name, arguments), arguments as an object or as the raw text."""
    tool_calls = [
        {
            "id": ids[index] if ids is not None else f"c{index}",
            "type": "function",
            "function": {
                "name": name,
                "arguments": arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode(),
            },
        }
        for index, (name, arguments) in enumerate(wanted)
    ]
    return _completion({"role": "assistant", "content": None, "tool_calls": tool_calls}, "tool_calls", 100, 20)


def error(status: int, body: Any = None, **headers: str) -> Reply:
    """A refusal; `body` is sent as JSON unless it is bytes."""
    content = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
    return Reply(
        status=status, body=content, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


def _completion(message: dict[str, Any], finish: str, prompt: int, completion: int) -> Reply:
    return Reply(
        body=orjson.dumps(
            {
                "model": "double/1",
                "choices": [{"message": message, "finish_reason": finish}],
                "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": 999},
            }
        )
    )


class Double(Serving):
    """Answers the n-th request with the n-th reply, and any further one with the last."""

    def __init__(self, *replies: Reply) -> None:
        super().__init__()
        self.replies = list(replies)
        self.requests: list[dict[str, Any]] = []
        self.run_ids: list[str] = []
        self.raw = bytearray()

    def reply_to(self, request: dict[str, Any]) -> Reply:
        """That to the request which came last."""
        return self.replies[min(len(self.requests), len(self.replies)) - 1]

    async def serve(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        self.raw += request.raw
        self.run_ids.append(request.headers.get("x-run-id", ""))
        self.requests.append(orjson.loads(request.body))
        reply = self.reply_to(self.requests[-1])
        await asyncio.sleep(reply.pause_s)
        lines = [f"HTTP/1.1 {reply.status} Answer", f"content-length: {len(reply.body)}", "connection: close"]
        lines += [f"{name}: {value}" for name, value in reply.headers.items()]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        if not reply.drip_s:
            writer.write(reply.body)
        else:
            for byte in reply.body:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(reply.drip_s)
        await writer.drain()
        return False
