"""A kept connection holds the next caller's answer and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from projector.errors import ModelTimeoutError, UnreachableError
from projector.llm.config import Limits
from projector.llm.providers.wire import Call
from projector.llm.transport import HTTPTransport
from tests.llm.upstream import Upstream, answer, full

LIMITS = Limits(5, 5, 5, 5)


def reply(text: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(text), text)


@pytest.mark.parametrize("late", [False, True], ids=["in the same segment", "while nobody asks"])
async def test_an_answer_that_comes_twice_is_never_read_as_the_next_callers(late: bool):
    sent, more = 0, asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(2)
                sent += 1
                writer.write(reply(b"%d" % sent) + (b"" if late else reply(b"stray")))
                await more.wait()
                if late:
                    writer.write(reply(b"stray"))
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    transport = HTTPTransport()
    got = []
    for _ in range(3):
        more.clear()
        got.append((await transport.ask(Call(f"http://{host}:{port}/", {}, b"{}"), LIMITS)).body)
        more.set()
        await asyncio.sleep(0.05)  # what is on its way arrives
    await transport.close()
    server.close()
    assert got == [b"1", b"2", b"3"]


async def test_a_connection_on_which_all_is_well_is_used_again():
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(2)
                writer.write(reply(b"ok"))
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    transport = HTTPTransport()
    for _ in range(3):
        await transport.ask(Call(f"http://{host}:{port}/", {}, b"{}"), LIMITS)
    await transport.close()
    server.close()
    assert connections == 1


async def test_a_proxy_sees_what_goes_out_and_nothing_that_stays_on_this_machine(monkeypatch: pytest.MonkeyPatch):
    async with Upstream(answer("through")) as proxy, Upstream(answer("here")) as local:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        for name in ("NO_PROXY", "no_proxy", "http_proxy"):
            monkeypatch.delenv(name, raising=False)
        transport = HTTPTransport()
        for url in (f"http://127.0.0.1:{local.port}/v1", f"http://localhost:{local.port}/v1", "http://model.test/v1"):
            await transport.ask(Call(url, {}, b"{}"), LIMITS)
        await transport.close()
    assert (local.calls, [request.path for request in proxy.requests]) == (2, ["http://model.test/v1"])


async def test_5_8_a_connection_that_does_not_come_about_is_late_or_impossible():
    transport = HTTPTransport()
    with full() as url, pytest.raises(ModelTimeoutError, match=r"no connection within 0\.2 s"):
        await transport.ask(Call(url, {}, b"{}"), Limits(0.2, 5, 5, 5))

    async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 No TLS\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    with pytest.raises(UnreachableError):
        await transport.ask(Call(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/", {}, b"{}"), LIMITS)
    await transport.close()
    server.close()
