"""What a stream answers over HTTP, asked of real processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from projector.config import DEVELOPMENT_SERVICE_KEY, Settings
from projector.errors import ConfigError
from tests.faults.stream import Stream
from tests.health.observe import Observed, start, until
from tests.planner.world import World

KEY = "a key of our own"


@contextmanager
def running(settings: Settings, folder: Path, name: str) -> Iterator[Observed]:
    observed = start(settings, folder, name)
    try:
        yield observed
    finally:
        observed.stream.kill()


@pytest.fixture
def timers(settings: Settings, world: World, tmp_path: Path) -> Iterator[Observed]:
    """Its own passes are so rare that none comes into a test, and no row of a view asks for one."""
    world.admin.execute("alter table mana_ai.mission_snapshots_1 disable trigger user")
    rare = {"due_interval_s": 600, "reannounce_interval_s": 600, "service_key": KEY, "metrics_port": 0}
    with running(settings.model_copy(update=rare), tmp_path, "timers") as observed:
        observed.stream.wait_for("ready", 60)
        yield observed


@asynccontextmanager
async def session(observed: Observed) -> AsyncIterator[aiohttp.ClientSession]:
    await until(lambda: observed.port, "an HTTP port")
    async with aiohttp.ClientSession(observed.url, timeout=aiohttp.ClientTimeout(20)) as client:
        yield client


async def asked(client: aiohttp.ClientSession, method: str, path: str, **options: Any) -> tuple[int, Any]:
    async with client.request(method, path, **options) as answer:
        return answer.status, await answer.json()


async def test_a_tick_is_a_pass_of_the_scheduler_for_who_knows_the_key(timers: Observed, world: World):
    await world.mission()
    await world.mission(mission="m2")
    good = {"X-Service-Key": KEY}
    async with session(timers) as client:
        for wrong in ({}, {"X-Service-Key": ""}, {"X-Service-Key": KEY[:-1]}, {"X-Service-Key": "ä"}):
            status, body = await asked(client, "POST", "/internal/tick", headers=wrong)
            assert (status, body) == (401, {"error": "invalid or missing service key"})
        assert (await asked(client, "POST", "/internal/other"))[0] == 401
        assert world.runs() == []
        status, body = await asked(client, "POST", "/internal/tick", headers=good)
        assert status == 200
        assert body.pop("scannedAt").endswith("Z")
        assert body == {"dueMissionCount": 2, "runsWoken": 0, "runsAnnouncedAgain": 0, "errors": []}
        assert len(world.runs(state="due")) == 2
        assert (await asked(client, "POST", "/internal/tick", headers=good))[1]["dueMissionCount"] == 0
        held, late = await world.ledger().claim(2, per_user=2)
        await world.ledger().settle(held, "held", decision="skipped-paused", reason="r", wait_s=900, counts=False)
        await world.edit(mission=held.mission_id, title="anders")
        world.shift_clock_past(late.run_id)
        body = (await asked(client, "POST", "/internal/tick", headers=good))[1]
        assert {name: body[name] for name in ("dueMissionCount", "runsWoken", "runsAnnouncedAgain", "errors")} == {
            "dueMissionCount": 0,
            "runsWoken": 1,
            "runsAnnouncedAgain": 1,
            "errors": [],
        }
        assert [
            run["mission_id"] for run in world.runs(state="held") if run["next_attempt_at"] <= run["updated_at"]
        ] == [held.mission_id]


async def test_ticks_at_once_are_one_pass_and_the_others_are_told_so(timers: Observed, world: World):
    await world.mission()
    good = {"X-Service-Key": KEY}
    async with session(timers) as client:
        with world.admin.transaction():
            world.admin.execute("lock table mana_ai.mission_runs in access exclusive mode")
            first = asyncio.create_task(asked(client, "POST", "/internal/tick", headers=good))
            held = "select 1 from pg_locks where not granted and relation = 'mana_ai.mission_runs'::regclass"
            await until(lambda: world.admin.execute(held).fetchone(), "a pass that waits")
            assert (await asked(client, "POST", "/internal/tick", headers=good))[1]["errors"] == ["overlap-skipped"]
            assert not first.done()
        status, body = await first
    assert (status, body["dueMissionCount"], body["errors"]) == (200, 1, [])


async def test_what_is_not_served_gets_no_detail_and_few_labels(timers: Observed):
    async with session(timers) as client:
        for path in ("/", "/health", "/health/live/x", "/secret-1", "/secret-2"):
            assert await asked(client, "GET", path) == (404, {"error": "not found"})
        good = {"X-Service-Key": KEY}
        assert await asked(client, "GET", "/internal/x", headers=good) == (404, {"error": "not found"})
        assert await asked(client, "GET", "/internal/tick") == (405, {"error": "method not allowed"})
        assert (await asked(client, "POST", "/health/live"))[0] == 405
        big = await asked(client, "POST", "/internal/tick", headers=good, data=b"x" * 100_000)
        assert big[0] == 413
        async with client.request("PROPFIND", "/coffee") as answer:
            assert answer.status == 404
    (port,) = [entry["port"] for entry in timers.stream.entries() if entry["event"] == "metrics listening"]
    async with aiohttp.ClientSession() as client, client.get(f"http://127.0.0.1:{port}/metrics") as answer:
        families = {family.name: family for family in text_string_to_metric_families(await answer.text())}
    requests = [sample.labels for sample in families["mana_ai_http_requests"].samples if sample.name.endswith("_total")]
    assert {labels["path"] for labels in requests} == {"/*", "/internal/*", "/internal/tick"}
    assert {labels["method"] for labels in requests} == {"GET", "POST", "other"}
    assert {"path": "/internal/tick", "method": "POST", "status": "413"} in requests
    assert families["mana_ai_http_request_duration_seconds"].samples


async def test_readiness_names_each_part_and_what_is_wrong_with_it(settings: Settings, tmp_path: Path):
    # No change stream: the topics are missing, which the sink waits for.
    with running(settings.model_copy(update={"stall_after_s": 0}), tmp_path, "sink") as sink:
        async with session(sink) as client:
            status, body = await asked(client, "GET", "/health/ready")
            assert (await asked(client, "GET", "/health/live"))[0] == 200
            assert (await asked(client, "POST", "/internal/tick"))[0] == 404
    missing = {"ready": False, "reason": "not at work"}
    assert status == 503
    assert body == {
        "ready": False,
        "stream": "sink",
        "parts": {
            "database": {"ready": True},
            "broker": {"ready": True},
            "writer": missing,
            "announcements": missing,
        },
    }


async def test_a_stream_that_lags_is_not_ready(settings: Settings, tmp_path: Path):
    late = settings.model_copy(update={"ready_lag_s": 0.3, "heartbeat_s": 5.0, "service_key": KEY})
    with running(late, tmp_path, "cdc") as cdc:
        async with session(cdc) as client:

            async def is_late() -> bool:
                status, body = await asked(client, "GET", "/health/ready")
                return status == 503 and body["parts"]["cdc"].get("reason") == "behind by more than 0.3 s"

            async with asyncio.timeout(40):
                while not await is_late():
                    await asyncio.sleep(0.05)


@pytest.mark.parametrize(("key", "words"), [("", "not set"), (DEVELOPMENT_SERVICE_KEY, "the known default")])
def test_the_timers_do_not_start_with_a_service_key_that_everybody_knows(
    settings: Settings, tmp_path: Path, key, words
):
    with running(settings.model_copy(update={"service_key": key}), tmp_path, "timers") as timers:
        assert timers.stream.joined(60) == ConfigError.exit_status
        assert f"PROJECTOR_SERVICE_KEY is {words}" in timers.stream.tail()


def test_a_machine_of_ones_own_may_use_the_default_key():
    assert Settings(development=True).require_service_key() == DEVELOPMENT_SERVICE_KEY


def test_a_port_that_is_taken_is_named(settings: Settings, timers: Observed, tmp_path: Path):
    taken = settings.model_copy(update={"api_port": timers.port, "service_key": KEY})
    stream = Stream(taken, tmp_path / "second.log", name="timers")
    try:
        assert stream.joined(60) == ConfigError.exit_status
        assert f"PROJECTOR_API_PORT={timers.port}" in stream.tail()
    finally:
        stream.kill()
