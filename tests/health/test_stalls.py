"""Loops of every stream stand still, in a process of their own, all at the same time; others must not be taken for it:
idle ones, one that was paused, and streams whose database does not answer any more.

Without a process of their own: acknowledgements and the fill of cdc, and the planner's announcements, whose loop is
that of the sink.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import conninfo

from projector.config import Settings
from projector.embedded.servers import Servers
from projector.errors import StalledError
from projector.sql import query
from tests.cdc.support import insert, publish_inserts_only
from tests.faults.proxy import Proxy
from tests.fixtures.settings import Template, settings_for
from tests.health.observe import Observed, start, until

STALL_S, PAUSE_S = 10.0, 12.0
FROZEN = {
    "cdc.step,cdc.heartbeat": ("cdc", {"cdc", "heartbeat"}),
    "cdc.read": ("cdc", {"replication stream"}),
    "cdc.acknowledged": ("cdc", {"acknowledgements"}),
    "cdc.fill": ("cdc", {"fill"}),
    "cdc.seen": ("cdc", {"fill"}),
    "cdc.vanished": ("cdc", {"fill"}),
    "views.missions": ("views", {"missions"}),
    "views.watermarks": ("views", {"watermarks"}),
    "planner.claim,planner.renew": ("planner", {"worker", "leases"}),
    "planner.run": ("planner", {"oldest run"}),
    "workflow.announcement": ("sink", {"announcements"}),
    "sink.sweep": ("sink", {"writer"}),
    "views.letters": ("views", {"dead letters"}),
    "timers.due,timers.overdue,timers.retention": ("timers", {"due", "waiting runs", "retention"}),
    "timers.block": ("timers", {"event loop"}),
}
"""By freeze points: the stream, and the parts that stand still then."""
REPUBLISHED = {"cdc.seen", "cdc.vanished"}
"""Those that are asked to fill a topic that has a change of which the table knows no more."""
ALONE = {"cdc.step,cdc.heartbeat", "cdc.read", "cdc.acknowledged", "cdc.fill"} | REPUBLISHED
"""Those that have a database of their own, and no change stream beside them."""
CALLBACKS = {"cdc.read", "cdc.acknowledged"}
"""Those that return with nothing done: no task waits in them."""
HEALTHY = ("cdc", "views", "timers", "planner", "sink")
CUT_OFF = HEALTHY[:3]
"""Those of them that reach their database through a network that freezes."""
NOBODY = 1
"""A port at which nothing listens."""
ANNOUNCE = """
    select pg_logical_emit_message(
        true, 'mission.iterations', json_build_object('run_id', %s::text, 'user_id', 'u')::text)
"""
DUE_RUN = """
    insert into mana_ai.mission_runs (run_id, iteration_id, user_id, mission_id, agent_id, due_at)
    values (gen_random_uuid(), gen_random_uuid(), 'u', 'm', 'a', now())
"""


class Fleet:
    """All processes: `frozen` by freeze points, `healthy` by stream.

    `reasons` and `verdicts` of those that were cut off, at that time, by stream.
    """

    def __init__(
        self,
        wanted: set[str],
        template: Template,
        stack: Servers,
        folder: Path,
        databases: ExitStack,
        resources: ExitStack,
    ) -> None:
        self._wanted = wanted
        self._template = template
        self._stack = stack
        self._folder = folder
        self._databases = databases
        self._resources = resources
        self.frozen: dict[str, Observed] = {}
        self.healthy: dict[str, Observed] = {}
        self.reasons: dict[str, dict[str, str]] = {}
        self.verdicts: dict[str, dict[str, Any]] = {}

    def settings(self) -> Settings:
        database = self._databases.enter_context(self._template.copy())
        settings = settings_for(self._stack, database)
        return settings.model_copy(
            update={
                "stall_after_s": STALL_S,
                "llm_base_url": "http://127.0.0.1:1",
                "llm_timeout_s": 0.5,
                "planner_max_rounds": 1,
                "lease_s": 1.0,
                "due_interval_s": 0.2,
                "reannounce_interval_s": 0.2,
                "retention_interval_s": 0.2,
                "service_key": "k",
            }
        )

    def start(self, settings: Settings, name: str, freeze_at: str = "") -> Observed:
        observed = start(settings, self._folder, name, freeze_at=freeze_at)
        self._resources.callback(observed.stream.kill)
        return observed

    async def run(self) -> None:
        shared, whole, alone = self.settings(), self.settings(), dict[str, Settings]()
        upstream = {"port": int(conninfo.conninfo_to_dict(whole.admin_url)["port"])}
        through = Proxy(lambda: upstream["port"])
        self._resources.callback(through.close)
        url = conninfo.make_conninfo(whole.database_url.get_secret_value(), host="127.0.0.1", port=through.port)
        cut_off = Settings(**(dict(whole) | {"database_url": url}))
        healthy = self.healthy
        publisher = self.start(shared, "cdc")
        for name in HEALTHY:
            healthy[name] = self.start(cut_off if name in CUT_OFF else whole, name)
        async with following([publisher, *healthy.values()]), working(shared):
            await until(lambda: all(one.ready() for one in (publisher, *healthy.values())), "healthy streams are ready")
            for points in self._wanted:
                settings = alone.setdefault(points, self.settings()) if points in ALONE else shared
                if points in {"cdc.fill"} | REPUBLISHED:
                    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
                        insert(conn)
                self.frozen[points] = self.start(settings, FROZEN[points][0], points)
            async with following([*self.frozen.values()]):
                if (deaf := self.frozen.get("cdc.acknowledged")) is not None:
                    await until(deaf.ready, "nothing is to be acknowledged yet")
                    with psycopg.connect(alone["cdc.acknowledged"].admin_url, autocommit=True) as conn:
                        insert(conn)
                for points in REPUBLISHED & self.frozen.keys():
                    await until(self.frozen[points].ready, "the first fill is over")
                    with psycopg.connect(alone[points].admin_url, autocommit=True) as conn:
                        publish_inserts_only(conn, alone[points])
                        conn.execute("delete from sync_changes")
                        conn.execute(query("cdc/ask_republish"), {"apps": list(alone[points].apps)})
                # Old connections are silent, and new ones are not to be had.
                port, upstream["port"] = upstream["port"], NOBODY
                through.freeze()
                healthy["sink"].stream.send(signal.SIGSTOP)
                await asyncio.sleep(PAUSE_S)
                healthy["sink"].stream.send(signal.SIGCONT)
                await until(lambda: all(healthy[name].waits() for name in CUT_OFF), "streams wait for their database")
                self.reasons = {name: healthy[name].why_not() for name in CUT_OFF}
                self.verdicts = {name: healthy[name].answers["/health/live"][1]["parts"] for name in CUT_OFF}
                upstream["port"] = port
                through.thaw()
                frozen = list(self.frozen.values())
                await until(lambda: None not in [one.stream.exit_code for one in frozen], "frozen streams have ended")
            await until(lambda: all(one.ready() for one in healthy.values()), "healthy streams are ready again")
        for one in self.healthy.values():
            await asyncio.to_thread(one.stream.stop)


@asynccontextmanager
async def following(everybody: list[Observed]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one.follow()) for one in everybody]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[None]:
    """A database in which something happens all the time."""

    async def work() -> None:
        with psycopg.connect(settings.admin_url, autocommit=True) as conn:
            conn.execute(DUE_RUN)
            while True:
                for user in range(8):
                    insert(conn, user_id=f"u{user}", record_id=f"m{user}")
                conn.execute(ANNOUNCE, [str(uuid4())])
                await asyncio.sleep(0.5)

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(scope="module")
def fleet(
    request: pytest.FixtureRequest, template: Template, stack: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    chosen = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    # No database can be dropped before whoever stands still in a COPY has ended, in whichever database.
    with ExitStack() as databases, ExitStack() as resources:
        fleet = Fleet(
            {points for points in FROZEN if {"points": points} in chosen},  # other tests have points of their own
            template,
            stack,
            tmp_path_factory.mktemp("streams"),
            databases,
            resources,
        )
        asyncio.run(fleet.run())
        yield fleet


@pytest.mark.parametrize("points", FROZEN)
def test_loops_that_stand_still_are_told_of_and_end_their_process(fleet: Fleet, points: str):
    observed, parts = fleet.frozen[points], FROZEN[points][1]
    assert observed.stream.exit_code == StalledError.exit_status
    entries = observed.stream.entries()
    told = {entry["part_name"] for entry in entries if entry.get("event") == "stalled"}
    # A busy machine holds up the loop, or the other views of a process.
    assert parts <= told <= parts | {"event loop", "records", "iterations", "agents"}
    assert observed.not_live is not None
    assert parts & {name for name, part in observed.not_live["parts"].items() if part["state"] == "stalled"}
    stacks = [" ".join(entry["places"]) for entry in entries if entry.get("event") == "task"]  # type: ignore[arg-type]
    threads = observed.stream.log_file.read_text().partition("Current thread 0x")[2]
    if points == "timers.block":
        assert 'freeze.py", line' in threads
    elif points not in CALLBACKS:
        assert [stack for stack in stacks if "projector/freeze.py" in stack]
    assert "Thread 0x" in threads


@pytest.mark.parametrize("name", HEALTHY)
def test_a_stream_that_is_idle_paused_or_cut_off_from_its_database_lives_and_goes_on(fleet: Fleet, name: str):
    observed = fleet.healthy[name]
    assert observed.not_live is None
    assert observed.stream.exit_code == 0
    if name in CUT_OFF:
        assert fleet.reasons[name]["database"].startswith("does not answer")
        assert {p for p, verdict in fleet.verdicts[name].items() if verdict["state"] != "waiting"} == {"event loop"}
