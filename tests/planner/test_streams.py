"""The workflow plane as it runs: Faust applications on a real broker, fed through the log."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import UUID

import pytest

from projector.cdc.topics import ensure_topics
from projector.config import Settings
from projector.errors import BrokerUnavailableError, ConfigError, NotMigratedError
from projector.health.judge import Seen
from projector.health.servers import Connections
from projector.log.topics import Topics
from streams import cdc, planner, sink, timers, views
from streams.app import make_app, on_announcement, serve
from tests.llm.double import Double, calls, text
from tests.planner.test_tracing import Collector, value
from tests.planner.world import World

Stream = Callable[[Settings, asyncio.Event], Awaitable[None]]
TASK = ("create_task", {"title": "Gießen"})


@asynccontextmanager
async def running(settings: Settings, *streams: Stream) -> AsyncIterator[None]:
    stop = asyncio.Event()
    tasks = [asyncio.create_task(stream(settings, stop)) for stream in streams]
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 20)


async def until(condition: Callable[[], object], *, within_s: float = 40) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.05)


async def test_a_due_mission_comes_back_as_an_iteration_through_the_whole_loop(world: World):
    shown = "select 1 from mana_ai.mission_snapshots where next_run_at > now() and record -> 'iterations' <> '[]'"
    slot = "select 1 from pg_replication_slots where slot_name = current_database() and active"
    async with Double(calls(TASK), text("fertig")) as double, Collector() as collector:
        told = {"llm_base_url": double.url, "due_interval_s": 0.2, "otlp_endpoint": collector.url}
        settings = world.settings.model_copy(update=told)
        async with running(settings, cdc.run, views.run, timers.run, planner.run, sink.run):
            await until(lambda: world.admin.execute(slot).fetchone())
            await world.agent(seen=False)
            await world.mission(seen=False)
            await until(lambda: world.admin.execute(shown).fetchone())
        run = world.run()
        assert run["state"] == "written"
        assert [row["id"] for row in world.ours()] == [run["change_id"]]
        assert double.run_ids == [str(run["run_id"])] * 2
        assert {span.trace_id for span in collector.spans()} == {run["run_id"].bytes}
        assert [span.name for span in collector.spans()][-1] == "write_back"
    assert not [thread for thread in threading.enumerate() if "Consumer" in thread.name]


async def test_a_planner_exports_the_run_that_it_cancels(world: World):
    await world.agent()
    await world.mission()
    await world.open()
    await world.edit(state="paused")
    async with Double(text("nie")) as double, Collector() as collector:
        told = {"llm_base_url": double.url, "otlp_endpoint": collector.url}
        async with running(world.settings.model_copy(update=told), cdc.run, planner.run):
            await until(lambda: world.runs(state="cancelled"))
        [root] = collector.spans()
    assert (root.trace_id, value(root, "projector.run.state")) == (world.run()["run_id"].bytes, "cancelled")
    assert double.requests == []


async def test_timers_go_on_without_a_broker(world: World):
    await world.mission()
    settings = world.settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1", "due_interval_s": 0.1})
    async with running(settings, timers.run):
        await until(lambda: world.runs(state="due"))


async def test_a_stream_without_its_broker_says_so(world: World):
    settings = world.settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    with pytest.raises(BrokerUnavailableError):
        await sink.run(settings, asyncio.Event())


async def test_a_planner_without_a_model_names_the_setting(world: World):
    with pytest.raises(ConfigError, match="PROJECTOR_LLM_BASE_URL"):
        await planner.run(world.settings, asyncio.Event())


async def test_a_database_without_the_ledger_names_the_remedy(world: World):
    world.admin.execute("alter schema mana_ai rename to elsewhere")
    with pytest.raises(NotMigratedError):
        await timers.run(world.settings, asyncio.Event())


async def test_a_stream_that_is_still_joining_its_group_stops_when_told_to(world: World):
    await ensure_topics(world.settings)
    stop = asyncio.Event()
    joining = asyncio.create_task(sink.run(world.settings, stop))
    await asyncio.sleep(0.5)  # Faust waits a second before it joins
    stop.set()
    await asyncio.wait_for(joining, 5)


async def test_a_member_of_a_group_is_idle_without_partitions_and_not_while_it_waits_for_them(world: World):
    settings = world.settings.model_copy(update={"topic_partitions": 1})
    await ensure_topics(settings)
    stop = asyncio.Event()

    async def handle(run_id: UUID, user_id: str) -> None:
        raise AssertionError("nothing is announced")

    members = [make_app(settings, "members") for _ in range(2)]
    for member in members:
        on_announcement(member, Topics(settings.topic_prefix).due, handle)
    servers = Connections(settings, None, broker=True)
    serving = [asyncio.create_task(serve(member, stop)) for member in members]
    try:
        await until(lambda: all(member.rebalancing_count and not member.rebalancing for member in members))
        await until(lambda: sorted(len(member.consumer.assignment()) for member in members) == [0, 1])
        for member in members:
            seen = await member.seen(servers)
            assert seen is not None
            assert not seen.ahead
            member.on_rebalance_start()
            assert await member.seen(servers) == Seen(("rebalance", member.rebalancing_count), ahead=True)
            member.on_rebalance_end()
    finally:
        stop.set()
        await asyncio.gather(*serving)
        await servers.close()
