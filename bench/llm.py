"""What the router of language models adds to a call, against a provider that answers at once.

`direct`, `bare` (a proxy that does nothing) and `through` take turns, so that noise falls on all alike, and `litellm`
with them where BENCH_LITELLM names the command of that proxy. The router is one process with one thread that serves. At
the higher rate its queue is measured too, and that of those beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median

import aiohttp
import orjson

from bench.llm_double import WORDS
from bench.report import Report, percentile
from bench.usage import cpu_s, peak_mb
from projector.embedded.ports import free_port

KEY = "bench"
RATES_PER_S = (20, 200)
SECONDS = 2
WARM_UP = 20
STREAMS = 1000
STREAMS_BEGUN_PER_S = 100
LITELLM = "BENCH_LITELLM"
LITELLM_STARTS_S = 120
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
    async with AsyncExitStack() as running:
        _, double = await running.enter_async_context(_printing_its_port("bench.llm_double"))
        pids, urls = {}, {"direct": double}
        proxies = {"bare": _printing_its_port("bench.llm_proxy", f"{double}/v1"), "through": _router(f"{double}/v1")}
        if command := os.environ.get(LITELLM):
            proxies["litellm"] = _litellm(command, f"{double}/v1")
        for way, proxy in proxies.items():
            pids[way], urls[way] = await running.enter_async_context(proxy)
        http = await running.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        calls = Client(http, **urls)
        for rate in RATES_PER_S:
            await _compare(report, "overhead", calls.answer, rate, rounds, pids)
            await _compare(report, "first_byte", calls.first_byte, rate, rounds, pids)
        await _crowd(report, calls, streams, pids["through"])


async def _compare(
    report: Report, name: str, ask: Callable[[str], Ask], rate: int, rounds: int, pids: Mapping[str, int]
) -> None:
    times: dict[str, list[float]] = {"direct": [], **{way: [] for way in pids}}
    cpu: dict[str, list[float]] = {way: [] for way in pids}
    count = rate * SECONDS
    for way in tuple(times) * rounds:
        await _load(ask(way), rate, WARM_UP)
        before = {name: cpu_s(pid) for name, pid in pids.items()}
        times[way] += await _load(ask(way), rate, count)
        if way in pids:
            cpu[way].append((cpu_s(pids[way]) - before[way]) / count * 1000)
    for percent in (50, 99):
        took = {way: percentile(sorted(found), percent) * 1000 for way, found in times.items()}
        direct, through = took.pop("direct"), took.pop("through")
        others = {f"{way}_overhead": round(other - direct, 2) for way, other in took.items()}
        report.add(
            f"{name}_p{percent}_ms", through - direct, "ms", requests_per_s=rate, direct=round(direct, 2), **others
        )
    per_call = {way: round(median(found), 2) for way, found in cpu.items()}
    report.add(f"{name}_cpu_ms", per_call.pop("through"), "ms", requests_per_s=rate, **per_call)


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


@asynccontextmanager
async def _litellm(command: str, upstream: str) -> AsyncIterator[tuple[int, str]]:
    with tempfile.TemporaryDirectory(prefix="projector-bench-") as folder:
        file = Path(folder) / "litellm.yaml"
        file.write_text(
            "model_list:\n"
            f"- {{model_name: mana/x, litellm_params: {{model: openai/m, api_base: '{upstream}', api_key: bench}}}}\n"
        )
        port = free_port()
        process = await asyncio.create_subprocess_exec(
            *(command, "--config", str(file), "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"),
            env={
                **os.environ,
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                "LITELLM_LOG": "ERROR",
                "LITELLM_MASTER_KEY": KEY,
                "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # on loopback, with nothing behind it
            },
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            async with asyncio.timeout(LITELLM_STARTS_S), aiohttp.ClientSession() as http:
                while process.returncode is None:
                    with contextlib.suppress(aiohttp.ClientError):
                        async with http.get(f"{url}/health/liveliness") as answer:
                            if answer.status == 200:
                                break
                    await asyncio.sleep(0.2)
            yield process.pid, url
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _port(log: Path) -> int:
    async with asyncio.timeout(30):
        while True:
            for line in log.read_bytes().splitlines():  # noqa: ASYNC240
                if b"llm listening" in line:
                    return int(orjson.loads(line)["port"])
            await asyncio.sleep(0.05)
