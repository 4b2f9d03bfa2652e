"""A finished run as a collector of traces gets it: whole, without content, and in nobody's way."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client import REGISTRY
from psycopg.types.json import Jsonb

from projector.config import Settings
from projector.errors import ConfigError
from projector.planner import tracing
from projector.planner.runs import find, read_whole
from projector.planner.spans import Span, spans_of
from projector.planner.tracing import exporter_of, exporting
from projector.planner.writer import Writer
from projector.sql.connection import pool
from tests.llm.double import Double, calls, text
from tests.planner.test_worker import TASK, settled, working
from tests.planner.world import World
from tests.serving import Received, Serving

USER = "bertha@example.org"
SECRET = "bertha is afraid of ferns"


class Collector(Serving):
    """An OTLP/HTTP collector. `status` is its answer; 0: none at all."""

    def __init__(self, status: int = 200) -> None:
        super().__init__()
        self.status = status
        self.requests: list[Received] = []
        self.asked = asyncio.Event()

    async def serve(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        self.requests.append(request)
        self.asked.set()
        if not self.status:
            await reader.read()
            return False
        writer.write(b"HTTP/1.1 %d Told\r\ncontent-length: 0\r\n\r\n" % self.status)
        await writer.drain()
        return True

    def spans(self) -> list[Any]:
        found = []
        for request in self.requests:
            assert (request.method, request.path) == ("POST", "/v1/traces")
            told = ExportTraceServiceRequest.FromString(request.body)
            found += [span for r in told.resource_spans for scope in r.scope_spans for span in scope.spans]
        return found


def value(span: Any, name: str) -> Any:
    for attribute in span.attributes:
        if attribute.key == name:
            kind = attribute.value.WhichOneof("value")
            found = getattr(attribute.value, kind)
            return [one.string_value for one in found.values] if kind == "array_value" else found
    return None


def results() -> dict[str, float]:
    names = ("exported", "failed", "dropped")
    return {name: REGISTRY.get_sample_value("mana_ai_traces_total", {"result": name}) or 0 for name in names}


async def planned(world: World) -> dict[str, Any]:
    """A run with a plan that waits for the sink; what its user and its model wrote holds SECRET."""
    await world.agent(USER, "agent of bertha", name=SECRET, maxConcurrentMissions=5)
    await world.record("notes", "notes", "n1", user=USER, title=SECRET, content=SECRET)
    link = {"module": "notes", "table": "notes", "id": "n1"}
    await world.mission(USER, "m of bertha", agentId="agent of bertha", title=SECRET, objective=SECRET, inputs=[link])
    await world.open()
    replies = (calls(("create_task", {"title": SECRET}), (SECRET, {})), calls(TASK), text(SECRET))
    async with Double(*replies) as double, working(world, double):
        await settled(world, "planned")
    return world.run()


@asynccontextmanager
async def sink(world: World, collector: Collector, *, stop_s: float = 5.0) -> AsyncIterator[Writer]:
    settings = world.settings.model_copy(update={"otlp_endpoint": f"{collector.url}/"})
    async with (
        pool(settings, "projector_sink", size=2) as connections,
        exporting(exporter_of(settings), world.pool, stop_s=stop_s) as finished,
    ):
        yield Writer(settings, connections, world.pool, finished=finished)


async def test_a_run_is_one_trace_from_due_to_done_with_each_step_and_no_word_of_its_user(world: World):
    run = await planned(world)
    before = results()
    async with Collector() as collector, sink(world, collector) as writer:
        await writer.write(run["run_id"], USER)
        await asyncio.wait_for(collector.asked.wait(), 10)
    assert results() == before | {"exported": before["exported"] + 1}
    written = world.run()
    spans = collector.spans()
    assert {span.trace_id for span in spans} == {run["run_id"].bytes}
    assert [span.name for span in spans] == [
        *("invoke_agent", "input", "chat mana/reasoning", "execute_tool create_task", "execute_tool unknown"),
        *("chat mana/reasoning", "execute_tool create_task", "chat mana/reasoning", "write_back"),
    ]
    root, gathered, first, right, wrong, *_, last, write_back = spans
    assert {span.parent_span_id for span in spans[1:]} == {root.span_id}
    assert (root.parent_span_id, len({span.span_id for span in spans})) == (b"", len(spans))
    assert root.start_time_unix_nano == run["due_at"].timestamp() * 10**9
    assert root.end_time_unix_nano >= max(span.end_time_unix_nano for span in spans)
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for span in spans)
    used = ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens")
    assert [value(root, name) for name in used] == [written["prompt_tokens"], written["completion_tokens"]]
    assert [sum(value(span, name) or 0 for span in spans[1:]) for name in used] == [value(root, n) for n in used]
    assert value(root, "projector.run.decision") == "ran"
    assert (value(gathered, "projector.inputs.told"), value(gathered, "projector.inputs.gaps")) == (1, 0)
    assert value(first, "gen_ai.response.finish_reasons") == ["tool_calls"]
    assert (value(first, "gen_ai.provider.name"), value(first, "gen_ai.operation.name")) == ("openai", "chat")
    assert value(last, "projector.llm.calls") == 0
    assert (right.status.code, wrong.status.code, value(wrong, "error.type")) == (0, 2, "rejected")
    assert value(write_back, "projector.change.id") == str(written["change_id"])
    assert value(write_back, "projector.change.lsn") == written["written_lsn"]
    sent = b"".join(request.body for request in collector.requests)
    assert b"bertha" not in sent


async def test_a_call_that_went_along_a_chain_names_who_served_it_at_what_price_and_who_did_not(world: World):
    run = await planned(world)
    world.admin.execute(
        "update mana_ai.run_steps set evidence = evidence || "
        '\'{"route": ["a/big=timeout 504", "b/small=ok"], "cost": 0.25, "ms": 1500}\' where seq = 1'
    )
    spans = await told(world, run)
    served = spans[2].attributes
    assert (served["gen_ai.provider.name"], served["projector.llm.cost_usd"]) == ("b", 0.25)
    assert served["projector.llm.route"] == ("a/big=timeout 504", "b/small=ok")
    assert (spans[2].end - spans[2].start).total_seconds() == 1.5
    world.admin.execute("update mana_ai.run_steps set response = null")
    world.admin.execute(
        "update mana_ai.mission_runs set brief = brief - array['system', 'user', 'inputs']"
        ' || \'{"systemSha256": "s", "userSha256": "u"}\''
    )
    pruned = await told(world, run)
    assert [span.span_id for span in pruned] == [span.span_id for span in spans]
    assert pruned[1].attributes["projector.prompt.system.sha256"] == "s"


async def test_a_run_that_failed_is_an_error_of_its_class_and_research_a_part_of_its_inputs(world: World):
    run = await planned(world)
    world.admin.execute(
        "update mana_ai.mission_runs set plan = plan || %s, brief = jsonb_set(brief, '{inputs,told,0,module}', %s)",
        [Jsonb({"error": {"name": "NoPlan", "message": SECRET}}), Jsonb("news-research")],
    )
    root, gathered, research, *_ = await told(world, run)
    assert (root.error, root.name) == ("NoPlan", "invoke_agent")
    assert (research.name, research.parent) == ("research", gathered.span_id)
    size = research.attributes["projector.research.bytes"]
    assert size == gathered.attributes["projector.inputs.bytes"] >= len(SECRET)


async def told(world: World, run: dict[str, Any]) -> list[Span]:
    async with world.pool.connection() as conn:
        return spans_of(await find(conn, run["run_id"]), *await read_whole(conn, run["run_id"]))


@pytest.mark.parametrize("status", [0, 400, 503])
async def test_a_collector_that_refuses_or_hangs_costs_a_trace_and_holds_up_neither_run_nor_end(world: World, status):
    run = await planned(world)
    before = Counter(results())
    async with Collector(status) as collector:
        async with sink(world, collector, stop_s=0.5) as writer:
            await writer.write(run["run_id"], USER)
            assert world.run()["state"] == "written"
            await asyncio.wait_for(collector.asked.wait(), 10)
            ending = time.monotonic()
        assert time.monotonic() - ending < 3
    lost = Counter(results()) - before
    assert lost in ({"failed": 1}, {"dropped": 1})


async def test_more_than_can_wait_is_dropped_the_oldest_first_and_counted(world: World, monkeypatch):
    monkeypatch.setattr(tracing, "WAITING", 1)
    run = await planned(world)
    before = Counter(results())
    async with Collector() as collector:
        settings = world.settings.model_copy(update={"otlp_endpoint": collector.url})
        async with exporting(exporter_of(settings), world.pool) as finished:
            finished(run["iteration_id"])
            finished(run["run_id"])
    assert Counter(results()) - before == {"dropped": 1, "exported": 1}
    assert {span.trace_id for span in collector.spans()} == {run["run_id"].bytes}


def test_a_collector_without_the_packages_is_told_with_the_extra_that_brings_them(settings: Settings, monkeypatch):
    assert exporter_of(settings) is None
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert exporter_of(settings) is None
    with pytest.raises(ConfigError, match=r"projector\[otel\]"):
        exporter_of(settings.model_copy(update={"otlp_endpoint": "http://127.0.0.1:4318"}))
