"""Every loop of every stream stands still once, in a process of its own, all at the same time; others must not be
taken for it: idle ones, one that was paused, and streams whose database does not answer any more."""

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
from tests.cdc.support import insert
from tests.faults.proxy import Proxy
from tests.fixtures.settings import Template, settings_for
from tests.health.observe import Observed, start, until

STALL_S = 4.0
PAUSE_S = 7.0
FROZEN = {
    "cdc.step": ("cdc", "cdc"),
    "cdc.read": ("cdc", "replication stream"),
    "cdc.heartbeat": ("cdc", "heartbeat"),
    "views.consume": ("views", "missions"),
    "views.watermarks": ("views", "watermarks"),
    "planner.claim": ("planner", "worker"),
    "planner.renew": ("planner", "leases"),
    "planner.run": ("planner", "oldest run"),
    "workflow.announcement": ("sink", "announcements"),
    "sink.sweep": ("sink", "writer"),
    "timers.due": ("timers", "due"),
    "timers.overdue": ("timers", "waiting runs"),
    "timers.block": ("timers", "event loop"),
}
SHARED = {"views.consume", "views.watermarks", "planner.claim", "planner.run", "workflow.announcement"}
"""Those that need a change stream at work."""
HEALTHY = ("cdc", "views", "timers", "planner", "sink")
CUT_OFF = HEALTHY[:3]
"""Those of them that reach their database through a network that freezes."""
ANNOUNCE = "select pg_logical_emit_message(true, 'mission.iterations', json_build_object('run_id', %s::text, 'user_id', 'u')::text)"
DUE_RUN = """
    insert into mana_ai.mission_runs (run_id, iteration_id, user_id, mission_id, agent_id, due_at)
    values (gen_random_uuid(), gen_random_uuid(), 'u', 'm', 'a', now())
"""


class Fleet:
    """All processes; `frozen` by freeze point, `healthy` by stream."""

    def __init__(self, template: Template, stack: Servers, folder: Path, resources: ExitStack) -> None:
        self._template = template
        self._stack = stack
        self._folder = folder
        self._resources = resources
        self.frozen: dict[str, Observed] = {}
        self.healthy: dict[str, Observed] = {}
        self.frozen_away: dict[str, dict[str, str]] = {}
        self.live_away: dict[str, dict[str, Any]] = {}

    def settings(self) -> Settings:
        database = self._resources.enter_context(self._template.copy())
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
                "service_key": "k",
            }
        )

    def start(self, settings: Settings, name: str, freeze_at: str = "") -> Observed:
        observed = start(settings, self._folder, name, freeze_at=freeze_at)
        self._resources.callback(observed.stream.kill)
        return observed

    async def run(self) -> None:
        shared, lone, whole = self.settings(), self.settings(), self.settings()
        through = Proxy(lambda: int(conninfo.conninfo_to_dict(whole.admin_url)["port"]))
        self._resources.callback(through.close)
        url = conninfo.make_conninfo(whole.database_url.get_secret_value(), host="127.0.0.1", port=through.port)
        cut_off = Settings(**(dict(whole) | {"database_url": url}))
        for name in HEALTHY:
            self.healthy[name] = self.start(cut_off if name in CUT_OFF else whole, name)
        publisher = self.start(shared, "cdc")
        for point, (name, _) in FROZEN.items():
            alone = point in ("cdc.step", "cdc.read")
            settings = self.settings() if alone else shared if point in SHARED else lone
            self.frozen[point] = self.start(settings, name, point)
        everybody = [*self.healthy.values(), *self.frozen.values(), publisher]
        async with following(everybody), working(shared):
            await until(lambda: all(one.ready() for one in self.healthy.values()), "healthy streams are ready")
            through.freeze()
            self.healthy["sink"].stream.send(signal.SIGSTOP)
            await asyncio.sleep(PAUSE_S)
            self.healthy["sink"].stream.send(signal.SIGCONT)
            await until(lambda: all(not self.healthy[name].ready() for name in CUT_OFF), "streams are not ready")
            self.frozen_away = {name: self.healthy[name].why_not() for name in CUT_OFF}
            self.live_away = {name: self.healthy[name].answers["/health/live"][1]["parts"] for name in CUT_OFF}
            through.thaw()
            ended = [one for one in self.frozen.values()]
            await until(lambda: all(one.stream.exit_code is not None for one in ended), "frozen streams have ended")
            await until(lambda: all(one.ready() for one in self.healthy.values()), "healthy streams are ready again")
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
def fleet(template: Template, stack: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with ExitStack() as resources:
        fleet = Fleet(template, stack, tmp_path_factory.mktemp("streams"), resources)
        asyncio.run(fleet.run())
        yield fleet


@pytest.mark.parametrize("point", FROZEN)
def test_a_loop_that_stands_still_is_told_of_and_ends_its_process(fleet: Fleet, point: str):
    observed, part = fleet.frozen[point], FROZEN[point][1]
    assert observed.stream.exit_code == StalledError.exit_status
    assert observed.not_live is not None
    assert observed.not_live["parts"][part]["state"] == "stalled"
    entries = observed.stream.entries()
    assert part in [entry["part_name"] for entry in entries if entry.get("event") == "stalled"]
    log = observed.stream.log_file.read_text()
    places = [place for entry in entries if entry.get("event") == "task" for place in entry["stack"]]  # type: ignore[attr-defined]
    if point == "timers.block":
        assert 'freeze.py", line' in log.partition("Current thread 0x")[2]
    elif point != "cdc.read":  # its callback returns: no task waits in it
        assert [place for place in places if "freeze.py" in place and place.endswith(" point")]


@pytest.mark.parametrize("name", HEALTHY)
def test_a_stream_that_is_idle_paused_or_cut_off_from_its_database_lives_and_goes_on(fleet: Fleet, name: str):
    observed = fleet.healthy[name]
    assert observed.not_live is None
    assert observed.stream.exit_code == 0
    if name in CUT_OFF:
        assert fleet.frozen_away[name]["database"].startswith("does not answer")
        waiting = {part: verdict["state"] for part, verdict in fleet.live_away[name].items()}
        assert waiting.pop("event loop") == "moving"
        assert set(waiting.values()) == {"waiting"}
