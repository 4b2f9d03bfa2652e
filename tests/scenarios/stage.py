"""The stage of the scenario checks: every stream a process, devices that write, a model and a research service."""

from __future__ import annotations

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psycopg
from prometheus_client.parser import text_string_to_metric_families
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from pydantic import SecretStr

from projector.cli.demo.story import mission
from projector.devices import AGENTS, MISSIONS, Collection, Replica, SyncServer
from projector.embedded import ports
from projector.embedded.pipeline import Pipeline
from projector.embedded.servers import Servers
from tests.fixtures.settings import Database, Template, settings_for
from tests.llm.double import Double, Reply
from tests.planner.research_double import ResearchDouble

APPS = ("ai", "notes", "companion")
GOALS = Collection("companion", "companionGoals", timed=False)
LIMIT_S = 30.0
SERVICE_KEY = "scenario-service-key"
AGENT = {"name": "Mana", "role": "", "state": "active", "maxConcurrentMissions": 1}
DEFAULT_AGENT = "legacy:ai-default"


class Model(Double):
    """Has replies for each mission, by its title; those asked for the same mission come in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, list[Reply]] = {}
        self.asked: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)

    def reply_to(self, request: dict[str, Any]) -> Reply:
        prompt = next(message["content"] for message in request["messages"] if message["role"] == "user")
        found = re.search(r"^# Mission: (.+)$", prompt, re.MULTILINE)
        assert found is not None
        asked = self.asked[found[1]]
        asked.append(request)
        replies = self.lines[found[1]]
        return replies[min(len(asked), len(replies)) - 1]


class Stage:
    """Each check has users of its own, so that one cannot disturb another."""

    def __init__(
        self, pipeline: Pipeline, database: Database, server: SyncServer, tick_url: str, metrics_url: str
    ) -> None:
        self.pipeline = pipeline
        self.server = server
        self.tick_url = tick_url
        self._metrics_url = metrics_url
        self.model = Model()
        self.research = ResearchDouble()
        self._sync_url = database.logins.sync
        self._admin = psycopg.connect(database.admin_url, autocommit=True, row_factory=dict_row)

    def close(self) -> None:
        self._admin.close()

    def user(self, name: str, **agent: Any) -> Replica:
        """A device of a new user, who has the default agent."""
        device = Replica(name)
        device.create(AGENTS, AGENT | agent, DEFAULT_AGENT)
        self.server.push(device)
        return device

    def mission(self, device: Replica, title: str, *replies: Reply, **fields: Any) -> str:
        """A due mission, and what the model says to it."""
        self.model.lines[title] = list(replies)
        record = mission(title, DEFAULT_AGENT, minutes_ago=1) | fields
        mission_id = device.create(MISSIONS, {name: value for name, value in record.items() if value is not None})
        self.server.push(device)
        return mission_id

    def stamped(self, device: Replica, mission_id: str, fields: dict[str, Any], stamp: Any) -> None:
        """An update of the mission as another device wrote it, all of its fields under that stamp."""
        with psycopg.connect(self._sync_url) as conn:
            conn.execute("select set_config('app.current_user_id', %s, true)", [device.user_id])
            conn.execute(
                "insert into sync_changes (app_id, table_name, record_id, user_id, op, data, field_meta, client_id)"
                " values ('ai', 'aiMissions', %s, %s, 'update', %s, %s, 'another device')",
                [mission_id, device.user_id, Jsonb(fields), Jsonb(dict.fromkeys(fields, stamp))],
            )

    def ask(self, text: Any, *parameters: object) -> list[dict[str, Any]]:
        return self._admin.execute(text, parameters or None).fetchall()

    def runs(self, device: Replica, mission_id: str) -> list[dict[str, Any]]:
        """Rows of the ledger, oldest due time first."""
        question = "select * from mana_ai.mission_runs where user_id = %s and mission_id = %s order by due_at"
        return self.ask(question, device.user_id, mission_id)

    def counted(self, name: str, **labels: str) -> float:
        """What the planner's process counted under these labels, whatever its other ones."""
        with urlopen(self._metrics_url, timeout=LIMIT_S) as answer:  # noqa: S310
            families = list(text_string_to_metric_families(answer.read().decode()))
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    async def ended(self, device: Replica, mission_id: str, state: str = "written") -> dict[str, Any]:
        """The mission's only run, once it is in that state."""
        return await self.until(lambda: next((r for r in self.runs(device, mission_id) if r["state"] == state), None))

    async def held(self, device: Replica, mission_id: str, decision: str) -> dict[str, Any]:
        """The mission's run, once it waits for that reason, which is counted."""
        run = await self.until(
            lambda: next(
                (r for r in self.runs(device, mission_id) if (r["state"], r["decision"]) == ("held", decision)), None
            )
        )
        assert self.counted("mana_ai_agent_decisions_total", decision=decision) >= 1
        return run

    async def iteration(self, device: Replica, mission_id: str) -> dict[str, Any]:
        """The one iteration of the mission, once the device has it."""

        def pulled() -> Any:
            self.server.pull(device, "ai")
            record = device.record(MISSIONS, mission_id)
            return record and record["iterations"]

        [found] = await self.until(pulled)
        return dict(found)

    async def until(self, condition: Callable[[], Any]) -> Any:
        """What `condition` returns, once it is true."""
        limit = time.monotonic() + LIMIT_S
        while not (found := condition()):
            assert not self.pipeline.exited(), f"{self.pipeline.exited()} ended"
            assert time.monotonic() < limit, f"not within {LIMIT_S} s; unfinished: {self._unfinished()}"
            await asyncio.sleep(0.03)
        return found

    def _unfinished(self) -> list[dict[str, Any]]:
        return self.ask(
            "select user_id, due_at, state, decision, reason, attempts, next_attempt_at from mana_ai.mission_runs"
            " where state <> 'written'"
        )

    async def time_passes(self, device: Replica, mission_id: str) -> None:
        """Makes the time until which the mission's run waits, once it has one, the past."""
        waiting = (
            "update mana_ai.mission_runs set next_attempt_at = now() where user_id = %s and mission_id = %s"
            " and next_attempt_at > now() returning run_id"
        )
        await self.until(lambda: self.ask(waiting, device.user_id, mission_id))


@asynccontextmanager
async def staged(stack: Servers, template: Template, log_dir: Path) -> AsyncIterator[Stage]:
    """A stage whose streams are at work."""
    with template.copy() as database, SyncServer(database.logins.sync) as server:
        port, metrics_port = ports.free_port(), ports.free_port()
        settings = settings_for(stack, database, APPS).model_copy(
            update={"due_interval_s": 0.2, "reannounce_interval_s": 0.3, "planner_workers": 20}
        )
        pipeline = Pipeline(settings, log_dir)
        tick_url, metrics_url = f"http://127.0.0.1:{port}/internal/tick", f"http://127.0.0.1:{metrics_port}/metrics"
        stage = Stage(pipeline, database, server, tick_url, metrics_url)
        try:
            async with stage.model, stage.research:
                common = settings.model_copy(update={"llm_base_url": stage.model.url} | stage.research.settings)
                timers = common.model_copy(update={"api_port": port, "service_key": SecretStr(SERVICE_KEY)})
                planner = common.model_copy(update={"metrics_port": metrics_port})
                names = {"cdc": common, "views": common, "planner": planner, "sink": common, "timers": timers}
                for name, pipeline.settings in names.items():
                    pipeline.start(name)
                for name in names:
                    await asyncio.to_thread(pipeline.wait_ready, name)
                try:
                    yield stage
                finally:
                    await asyncio.to_thread(pipeline.stop_all)
        finally:
            pipeline.stop_all()
            stage.close()
