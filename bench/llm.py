"""What the router of language models adds to a call, against a provider that answers at once.

`direct`, `bare` (a proxy that does nothing) and `through` take turns, so that noise falls on all alike. The router is
one process with one thread that serves. At the higher rate its queue is measured too, and that of those beside it.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import aiohttp
import orjson

from bench.llm_double import WORDS
from bench.report import Report, percentile
from bench.usage import cpu_s, peak_mb

KEY = "bench"
RATES_PER_S = (20, 200)
SECONDS = 2
WARM_UP = 20
STREAMS = 1000
STREAMS_BEGUN_PER_S = 100
PAUSE_S = 1.0
MESSAGES = [{"role": "user", "content": "hello " * 100}]
_IMPORT = """
import time, {dependencies}
began = time.process_time()
import {modules}
print((time.process_time() - began) * 1000)
"""
DEPENDENCIES = "asyncio, aiohttp, orjson, yaml, structlog, prometheus_client, pydantic_settings, random, uuid"

Ask = Callable[[], Awaitable[float]]
"""Asks once; gives the seconds until the answer, or the first byte of a stream."""


def run(report: Report, *, quick: bool) -> None:
    for modules in ("projector.llm", "projector.llm.router", "projector.llm.router, projector.llm.transport"):
        report.add("import_ms", _import_ms(modules, 3 if quick else 7), "ms", modules=modules.replace(", ", "+"))
    asyncio.run(_measure(report, rounds=2 if quick else 10, streams=100 if quick else STREAMS))


def _import_ms(modules: str, times: int) -> float:
    code = _IMPORT.format(dependencies=DEPENDENCIES, modules=modules)
    return median(float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(times))


async def _measure(report: Report, *, rounds: int, streams: int) -> None:
    async with (
        _printing_its_port("bench.llm_double") as (_, double),
        _printing_its_port("bench.llm_proxy", f"{double}/v1") as (proxy_pid, proxy),
        _router(f"{double}/v1") as (pid, router),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
    ):
        calls = Client(http, direct=double, bare=proxy, through=router)
        for rate in RATES_PER_S:
            await _compare(report, "overhead", calls.answer, rate, rounds, {"bare": proxy_pid, "through": pid})
            await _compare(report, "first_byte", calls.first_byte, rate, rounds, {"bare": proxy_pid, "through": pid})
        await _crowd(report, calls, streams, pid)


async def _compare(
    report: Report, name: str, ask: Callable[[str], Ask], rate: int, rounds: int, pids: Mapping[str, int]
) -> None:
    times: dict[str, list[float]] = {"direct": [], "bare": [], "through": []}
    cpu: dict[str, list[float]] = {way: [] for way in pids}
    count = rate * SECONDS
    for way in tuple(times) * rounds:
        await _load(ask(way), rate, WARM_UP)
        before = {name: cpu_s(pid) for name, pid in pids.items()}
        times[way] += await _load(ask(way), rate, count)
        if way in pids:
            cpu[way].append((cpu_s(pids[way]) - before[way]) / count * 1000)
    for percent in (50, 99):
        direct, bare, through = (percentile(sorted(found), percent) * 1000 for found in times.values())
        told = {"requests_per_s": rate, "direct": round(direct, 2), "bare_overhead": round(bare - direct, 2)}
        report.add(f"{name}_p{percent}_ms", through - direct, "ms", **told)
    report.add(f"{name}_cpu_ms", median(cpu["through"]), "ms", requests_per_s=rate, bare=round(median(cpu["bare"]), 2))


async def _load(ask: Ask, rate: int, count: int) -> list[float]:
    """`count` calls at the rate, each begun when it is due, however long the ones before take."""
    rng = random.Random(1)
    tasks = []
    due = time.perf_counter()
    for _ in range(count):
        due += rng.expovariate(rate)
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        tasks.append(asyncio.create_task(_as_task(ask)))
    return await asyncio.gather(*tasks)


async def _as_task(ask: Ask) -> float:
    return await ask()


async def _crowd(report: Report, calls: Client, count: int, pid: int) -> None:
    before = peak_mb(pid)
    began = time.perf_counter()
    streams = []
    for _ in range(count):
        streams.append(asyncio.create_task(calls.whole_stream(pause_s=PAUSE_S)))
        await asyncio.sleep(1 / STREAMS_BEGUN_PER_S)
    open_at_once = count - sum(stream.done() for stream in streams)
    whole = sum(words == WORDS for words in await asyncio.gather(*streams))
    seconds = time.perf_counter() - began
    report.add(
        "streams_peak_mb",
        peak_mb(pid),
        "MB",
        streams=count,
        open_at_once=open_at_once,
        whole=whole,
        before=round(before),
    )
    report.add("streams_s", seconds, "s", streams=count, ideal=PAUSE_S * (WORDS - 1) + count / STREAMS_BEGUN_PER_S)


class Client:
    """`ways` are base URLs, without /v1."""

    def __init__(self, http: aiohttp.ClientSession, **ways: str) -> None:
        self._http = http
        self._headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        self._urls = {way: f"{url}/v1/chat/completions" for way, url in ways.items()}

    def answer(self, way: str) -> Ask:
        url, data = self._urls[way], orjson.dumps({"model": "mana/x", "messages": MESSAGES})

        async def ask() -> float:
            began = time.perf_counter()
            async with self._http.post(url, data=data, headers=self._headers) as response:
                await response.read()
                assert response.status == 200
            return time.perf_counter() - began

        return ask

    def first_byte(self, way: str) -> Ask:
        url, data = self._urls[way], orjson.dumps({"model": "mana/x", "messages": MESSAGES, "stream": True})

        async def ask() -> float:
            began = time.perf_counter()
            async with self._http.post(url, data=data, headers=self._headers) as response:
                await response.content.readany()
                took = time.perf_counter() - began
                await response.read()
            return took

        return ask

    async def whole_stream(self, *, pause_s: float) -> int:
        """How many words came."""
        body = {"model": "mana/x", "messages": MESSAGES, "stream": True, "pause_s": pause_s}
        async with self._http.post(self._urls["through"], data=orjson.dumps(body), headers=self._headers) as response:
            received = await response.read()
        return received.count(b'"content"') if received.endswith(b"data: [DONE]\n\n") else 0


@asynccontextmanager
async def _printing_its_port(module: str, *words: str) -> AsyncIterator[tuple[int, str]]:
    """A process, and the base URL that it serves."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, *words, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield process.pid, f"http://127.0.0.1:{int(await process.stdout.readline())}"
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def _router(upstream: str) -> AsyncIterator[tuple[int, str]]:
    with tempfile.TemporaryDirectory(prefix="projector-bench-") as folder:
        file = Path(folder) / "llm.yaml"
        file.write_text(
            f"providers: {{p: {{base_url: '{upstream}', probe: {{kind: none}}}}}}\n"
            "aliases: {mana/x: {chain: [p/m]}}\n"
        )
        environment = {
            **os.environ,
            "PROJECTOR_LLM_CONFIG": str(file),
            "PROJECTOR_LLM_PORT": "0",
            "PROJECTOR_SERVICE_KEY": KEY,
            "PROJECTOR_LOG_FORMAT": "json",
        }
        log = (Path(folder) / "log").open("wb")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "projector", "run", "llm", env=environment, stderr=log
        )
        try:
            yield process.pid, f"http://127.0.0.1:{await _port(Path(folder) / 'log')}"
        finally:
            process.send_signal(signal.SIGTERM)
            await process.wait()
            log.close()


async def _port(log: Path) -> int:
    async with asyncio.timeout(30):
        while True:
            for line in log.read_bytes().splitlines():  # noqa: ASYNC240
                if b"llm listening" in line:
                    return int(orjson.loads(line)["port"])
            await asyncio.sleep(0.05)
