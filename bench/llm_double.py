"""A provider that answers at once, or word by word: `python -m bench.llm_double`. It prints its port."""

from __future__ import annotations

import asyncio

import orjson

WORDS = 20

_ANSWER = orjson.dumps(
    {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "double",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello " * 50}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150},
    }
)


def _chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    made = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "double", "choices": choices}
    data = b"data: " + orjson.dumps(made) + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(_ANSWER)
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_WORD = _chunk({"content": "hello "})
_LAST = _chunk({}, "stop") + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


class _Double(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        lower = head.lower()
        _, _, length = lower.partition(b"content-length: ")
        size = int(length.partition(b"\r\n")[0] or 0)
        if len(rest) < size:
            return
        self._received = rest[size:]
        body = rest[:size]
        if b'"stream":true' in body:
            pause_s = float(body.partition(b'"pause_s":')[2].partition(b"}")[0].partition(b",")[0] or 0)
            self._transport.write(_STREAM_HEAD + _WORD)
            self._word(1, pause_s)
        else:
            self._transport.write(_HEAD + _ANSWER)

    def _word(self, said: int, pause_s: float) -> None:
        if self._transport.is_closing():
            return
        if said == WORDS:
            self._transport.write(_LAST)
        elif pause_s:
            self._transport.write(_WORD)
            asyncio.get_running_loop().call_later(pause_s, self._word, said + 1, pause_s)
        else:
            self._transport.write(_WORD * (WORDS - said))
            self._word(WORDS, 0)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(_Double, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
