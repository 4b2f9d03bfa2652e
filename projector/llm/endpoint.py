"""One provider, asked over HTTP: what its wire says and what the transport brings, put together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from projector.errors import (
    AnswerFormatError,
    BadRequestError,
    ModelTimeoutError,
    RouteError,
    UpstreamError,
)
from projector.llm.config import Limits, Provider
from projector.llm.metrics import NO_METRICS, Metrics
from projector.llm.patience import Patience
from projector.llm.providers.status import LONGEST_DETAIL, status_error
from projector.llm.providers.wire import SHAPE, Body, Call, Reader, Wire, reading
from projector.llm.sse import Events

if TYPE_CHECKING:
    from projector.llm.transport import Incoming, Transport

LONGEST_BODY = 16 * 1024 * 1024
LONGEST_REFUSAL = 256 * 1024
LONGEST_REFUSAL_S = 2.0


def wire_of(kind: str) -> Wire:
    """Imports only what is used."""
    if kind == "anthropic":
        from projector.llm.providers.anthropic import AnthropicWire

        return AnthropicWire()
    if kind == "google":
        from projector.llm.providers.google import GoogleWire

        return GoogleWire()
    from projector.llm.providers.openai import OpenAIWire

    return OpenAIWire()


class Endpoint:
    """One provider with its key. Errors name provider and model, and never hold the key."""

    def __init__(
        self, provider: Provider, key: str, transport: Callable[[], Transport], metrics: Metrics = NO_METRICS
    ) -> None:
        self.provider = provider
        self.metrics = metrics
        self.wire = wire_of(provider.kind)
        self._key = key
        self._transport = transport

    async def complete(self, model: str, body: Body, limits: Limits, call_id: str = "") -> Body:
        """A `chat.completion`; raises a RouteError."""
        with self._named(model):
            reply = await self._transport().ask(self._call(model, body, call_id, stream=False), limits)
            if reply.status != 200:
                raise self._refusal(reply.status, reply.headers, reply.body)
            with reading():
                return self.wire.answer(reply.body)

    async def stream(self, model: str, body: Body, limits: Limits, call_id: str = "") -> ModelStream:
        """A stream whose first chunk is there; raises a RouteError. To be closed."""
        with self._named(model):
            call = self._call(model, body, call_id, stream=True)
            incoming: Incoming | None = None
            stream: ModelStream | None = None
            try:
                try:
                    async with Patience(limits.first_byte_s) as timeout:
                        incoming = await self._transport().open(call, limits)
                        if incoming.status != 200:
                            answer = await refusal_body(incoming, timeout)
                            raise self._refusal(incoming.status, incoming.headers, answer)
                        if "json" in incoming.headers.get("content-type", ""):
                            raise await self._no_stream(incoming)
                        stream = ModelStream(self, model, body, incoming, limits.idle_s)
                        await stream.begin()
                except TimeoutError:
                    raise ModelTimeoutError(f"no first byte within {limits.first_byte_s:.3g} s") from None
            except BaseException as error:
                if incoming is not None:
                    incoming.close()
                if isinstance(error, RouteError) and stream is not None:
                    error.usage = stream.usage
                raise
            return stream

    async def models(self, limits: Limits) -> frozenset[str]:
        """The names that the provider lists; raises a RouteError."""
        with self._named(""):
            reply = await self._transport().ask(self.wire.inventory(self.provider, self._key), limits)
            if reply.status != 200:
                raise self._refusal(reply.status, reply.headers, reply.body)
            with reading():
                return self.wire.models(reply.body)

    async def inventory_status(self, timeout_s: float) -> int:
        """The status of an answer to the question for models; raises a RouteError when there is none."""
        call = self.wire.inventory(self.provider, self._key)
        with self._named(""):
            limits = Limits(timeout_s, timeout_s, timeout_s, timeout_s)
            return (await self._transport().ask(call, limits)).status

    def lacks(self, body: Body) -> bool:
        """Whether this kind of provider has no word for something in the request."""
        try:
            return self.wire.lacks(body)
        except SHAPE:
            # Its form is judged when it is sent.
            return False

    def _call(self, model: str, body: Body, call_id: str, *, stream: bool) -> Call:
        try:
            call = self.wire.chat(self.provider, self._key, model, body, stream=stream)
        except SHAPE as error:
            if isinstance(error, RouteError):
                raise
            raise BadRequestError(f"the request has not the form of a chat completion: {error!r:.80}") from error
        if header := self.provider.call_id_header:
            return replace(call, headers={**call.headers, header: call_id})
        return call

    def _refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> RouteError:
        try:
            return self.wire.refusal(status, headers, body)
        except SHAPE:
            # The status is known, whatever form its reasons have.
            return status_error(status, headers=headers)

    async def _no_stream(self, incoming: Incoming) -> RouteError:
        """What a JSON body in place of a stream means."""
        answer = await incoming.rest(LONGEST_BODY)
        with reading():
            whole = self.wire.answer(answer)
        error = AnswerFormatError("a whole answer came where a stream was asked for", status=200)
        error.usage = whole.get("usage")
        return error

    @contextmanager
    def _named(self, model: str) -> Iterator[None]:
        try:
            yield
        except RouteError as error:
            self.name(error, model)
            raise

    def name(self, error: RouteError, model: str) -> None:
        """Says in the error who it was."""
        if error.provider:
            return
        error.provider, error.model = self.provider.name, model
        error.message = f"{self.provider.name}{'/' if model else ''}{model}: {self._masked(error.message)}"
        error.args = (error.message,)
        # Masked as a whole: a part of a key would not be known for one.
        error.detail = self._masked(error.detail)[:LONGEST_DETAIL]
        error.upstream_code, error.request_id = self._masked(error.upstream_code), self._masked(error.request_id)

    def _masked(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


async def refusal_body(incoming: Incoming, timeout: Patience) -> bytes:
    """What can be had soon of an answer whose status says all that matters. `timeout`, which it is read under, is over
    with it.
    """
    due = timeout.when()
    timeout.reschedule(None)
    left_s = LONGEST_REFUSAL_S if due is None else min(due - asyncio.get_running_loop().time(), LONGEST_REFUSAL_S)
    read = bytearray()
    try:
        async with asyncio.timeout(left_s), aclosing(incoming.pieces()) as pieces:
            async for piece in pieces:
                read += piece
                if len(read) > LONGEST_REFUSAL:
                    break
    except (TimeoutError, UpstreamError):
        pass  # so much must do
    return bytes(read)


class ModelStream:
    """The chunks of one answer, as `chat.completion.chunk`s."""

    def __init__(self, endpoint: Endpoint, model: str, body: Body, incoming: Incoming, idle_s: float) -> None:
        self._endpoint = endpoint
        self._model = model
        self._name = f"{endpoint.provider.name}/{model}"
        self._incoming = incoming
        self._idle_s = idle_s
        self._reader: Reader = endpoint.wire.reader()
        options = body.get("stream_options")
        self._tell_usage = bool(isinstance(options, dict) and options.get("include_usage"))
        self._events = Events()
        self._pieces = incoming.pieces()
        self._ready: deque[Body] = deque()
        self._begun = False
        self._ended = False
        self._failure: RouteError | None = None

    @property
    def usage(self) -> Body | None:
        """What the provider has told of the cost until now."""
        return self._reader.usage

    def __aiter__(self) -> ModelStream:
        return self

    async def begin(self) -> None:
        """Waits for the first chunk; an answer may also have none, and then be complete."""
        while not self._ready and not self._ended and self._failure is None:
            try:
                await self._read()
            except RouteError as error:
                # What came before it is an answer still.
                self._failure = error
        if not self._ready and self._failure is not None:
            raise self._failure

    async def __anext__(self) -> Body:
        if not self._ready:
            try:
                async with Patience(self._idle_s):
                    await self.begin()
            except TimeoutError:
                if not self._reader.complete:
                    raise self._error(
                        ModelTimeoutError(f"nothing for {self._idle_s:.3g} s in the middle of an answer")
                    ) from None
                self._ended = True
            except RouteError as error:
                raise self._error(error) from error.__cause__
        if not self._ready:
            raise StopAsyncIteration
        return self._ready.popleft()

    def ready(self) -> list[Body]:
        """The chunks that have come already, and are then taken."""
        chunks = list(self._ready)
        self._ready.clear()
        return chunks

    async def aclose(self) -> None:
        """Ends the connection to the provider, if it is not at its end."""
        self._incoming.close()
        await self._pieces.aclose()

    async def _read(self) -> None:
        try:
            piece = await anext(self._pieces)
        except StopAsyncIteration:
            self._take(self._events.end())
            self._ended = True
        except UpstreamError:
            if not self._reader.complete:
                raise
            self._ended = True
        else:
            self._take(self._events.feed(piece))
            self._ended = self._reader.done
        if self._ended and not self._reader.complete:
            if not self._begun and not self._ready:
                raise AnswerFormatError("what came was no stream of events", status=200)
            raise UpstreamError("the stream ended before the answer did", status=200)

    def _error(self, error: RouteError) -> RouteError:
        self._endpoint.name(error, self._model)
        return error

    def _take(self, events: list[bytes]) -> None:
        for data in events:
            before = self._reader.skipped
            with reading():
                chunks = self._reader.event(data)
            if self._reader.skipped != before:
                self._endpoint.metrics.skipped_event(self._endpoint.provider.name)
            for chunk in chunks:
                chunk["model"] = self._name
                if chunk.get("usage") and not self._tell_usage:
                    del chunk["usage"]
                    if not chunk.get("choices"):
                        continue
                self._begun = True
                self._ready.append(chunk)
