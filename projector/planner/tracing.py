"""Exports runs as OpenTelemetry traces once they are finished, to the collector that PROJECTOR_OTLP_ENDPOINT names.

The ledger is the evidence, and read again for it. So nothing is gathered while a run is at work, and a collector that
is away costs traces and nothing else: they are counted, and never held up for longer than `STOP_S`.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from projector import __version__, metrics
from projector.config import Settings
from projector.errors import ConfigError
from projector.logging import get
from projector.planner.ledger import Pool
from projector.planner.runs import find, read_whole
from projector.planner.spans import Span, spans_of, trace_id_of

if TYPE_CHECKING:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan

BATCH = 32
"""Runs of one request."""
WAITING = 1000
"""Runs that wait for the collector; of more, the oldest are dropped."""
EXPORT_S = 5.0
"""Of one request, with all its repetitions."""
STOP_S = 5.0
"""How long a process that stops waits for what is not exported yet."""

Finished = Callable[[UUID], None]
"""Told of each run that has come to its end; returns at once."""
Result = TypeVar("Result")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

log = get("traces")


def nobody(_run_id: UUID) -> None:
    """Exports nothing."""


def exporter_of(settings: Settings) -> OTLPSpanExporter | None:
    """None when no collector is set. Raises ConfigError when what it takes is not installed."""
    if not settings.otlp_endpoint:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise ConfigError(
            f"PROJECTOR_OTLP_ENDPOINT is set, and {error.name} is not installed",
            "install the extra: pip install 'projector[otel]'; or unset PROJECTOR_OTLP_ENDPOINT",
        ) from error
    return OTLPSpanExporter(f"{settings.otlp_endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_S)


@asynccontextmanager
async def exporting(
    exporter: OTLPSpanExporter | None, ledger: Pool, *, stop_s: float = STOP_S
) -> AsyncIterator[Finished]:
    """Whom to tell of finished runs. `ledger` holds connections of projector_planner."""
    if exporter is None:
        yield nobody
        return
    traces = Traces(exporter, ledger)
    task = asyncio.create_task(traces.export_for_ever())
    try:
        yield traces.finished
    finally:
        traces.stop()
        await asyncio.wait({task}, timeout=stop_s)
        task.cancel()
        exporter.shutdown()  # type: ignore[no-untyped-call]
        await asyncio.gather(task, return_exceptions=True)
        traces.give_up()


class Traces:
    """The runs that wait to be exported, and the task that exports them."""

    def __init__(self, exporter: OTLPSpanExporter, ledger: Pool) -> None:
        self._exporter = exporter
        self._ledger = ledger
        self._waiting: deque[UUID] = deque()
        self._under_way: list[UUID] = []
        self._changed = asyncio.Event()
        self._stopping = False

    def finished(self, run_id: UUID) -> None:
        if len(self._waiting) == WAITING:
            self._waiting.popleft()
            metrics.TRACES.labels(result="dropped").inc()
        self._waiting.append(run_id)
        self._changed.set()

    def stop(self) -> None:
        """Lets `export_for_ever` return when nothing waits any more."""
        self._stopping = True
        self._changed.set()

    def give_up(self) -> None:
        """Counts what is left."""
        left = len(self._waiting) + len(self._under_way)
        if left:
            metrics.TRACES.labels(result="dropped").inc(left)
            log.warning("traces not exported before the end", runs=left)

    async def export_for_ever(self) -> None:
        while self._waiting or not self._stopping:
            if not self._waiting:
                self._changed.clear()
                await self._changed.wait()
                continue
            self._under_way = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            await self._export(self._under_way)
            self._under_way = []

    async def _export(self, run_ids: Sequence[UUID]) -> None:
        spans: list[ReadableSpan] = []
        told = 0
        for run_id in run_ids:
            try:
                spans += await self._read(run_id)
                told += 1
            except Exception as error:
                # A run is none the worse for it. Never the error's text, which may hold what users wrote.
                metrics.TRACES.labels(result="failed").inc()
                log.warning("run cannot be traced", run=str(run_id), error=type(error).__name__)
        if not spans:
            return
        from opentelemetry.sdk.trace.export import SpanExportResult

        try:
            done = await _in_thread(lambda: self._exporter.export(spans)) is SpanExportResult.SUCCESS
        except Exception:
            log.exception("the exporter broke")
            done = False
        metrics.TRACES.labels(result="exported" if done else "failed").inc(told)
        if not done:
            log.warning("the collector did not take traces", runs=told)

    async def _read(self, run_id: UUID) -> list[ReadableSpan]:
        async with self._ledger.connection() as conn:
            run = await find(conn, run_id)
            whole, steps = await read_whole(conn, run_id)
        return [_readable(run_id, span) for span in spans_of(run, whole, steps)]


@cache
def _resource() -> Resource:
    """This process, asked once: what describes it is looked for among all packages."""
    from opentelemetry.sdk.resources import Resource

    return Resource.create({"service.name": "projector", "service.version": __version__})


def _readable(run_id: UUID, span: Span) -> ReadableSpan:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    def context(span_id: int) -> SpanContext:
        return SpanContext(trace_id_of(run_id), span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))

    return ReadableSpan(
        span.name,
        context(span.span_id),
        None if span.parent is None else context(span.parent),
        _resource(),
        {**span.attributes, **({"error.type": span.error} if span.error else {})},
        kind=SpanKind.CLIENT if span.calls_out else SpanKind.INTERNAL,
        status=Status(StatusCode.ERROR if span.error else StatusCode.UNSET),
        start_time=_nanoseconds(span.start),
        end_time=_nanoseconds(span.end),
        instrumentation_scope=InstrumentationScope("projector.planner", __version__),
    )


def _nanoseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


async def _in_thread(call: Callable[[], Result]) -> Result:
    """In a thread that ends with the process: one of a pool would hold up its end."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, error: Exception | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = call()
        except Exception as raised:
            error = raised
        with suppress(RuntimeError):  # the loop has ended, and nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="traces", daemon=True).start()
    return await done
