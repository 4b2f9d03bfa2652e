"""Asks every provider again and again whether it is there. What it finds moves circuits, and never excuses calls."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping

from projector.llm.breaker import Breaker
from projector.llm.metrics import NO_METRICS, Metrics
from projector.llm.patience import Patience
from projector.logging import get

Probe = Callable[[], Awaitable[bool]]
"""Whether the provider is there; what it raises counts as no."""

log = get("llm")


class Prober:
    """`probes` may be replaced while it runs. Times in seconds; `jitter` is a part of the interval."""

    def __init__(
        self,
        breaker: Breaker,
        probes: Mapping[str, Probe],
        *,
        interval: float = 30.0,
        timeout: float = 3.0,
        jitter: float = 0.2,
        rng: random.Random | None = None,
        metrics: Metrics = NO_METRICS,
    ) -> None:
        self._breaker = breaker
        self._metrics = metrics
        self._rng = rng or random.Random()  # noqa: S311
        self._task: asyncio.Task[None] | None = None
        self._first = asyncio.Event()
        self.configure(probes, interval=interval, timeout=timeout, jitter=jitter)

    def configure(self, probes: Mapping[str, Probe], *, interval: float, timeout: float, jitter: float) -> None:
        """From the next tick on."""
        if interval <= 0:
            raise ValueError("interval must be above 0")
        if timeout <= 0:
            raise ValueError("timeout must be above 0")
        self._probes, self._interval, self._timeout, self._jitter = dict(probes), interval, timeout, jitter

    @property
    def provider_ids(self) -> tuple[str, ...]:
        return tuple(self._probes)

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """The first tick comes at once."""
        if not self.running:
            self._task = asyncio.create_task(self._run(), name="llm-probe")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def ready(self) -> None:
        """Returns after the first tick."""
        await self._first.wait()

    async def tick_once(self, *, all_of_them: bool = True) -> None:
        """Probes at once; else only those of which no call was answered within the interval."""
        wanted = {
            name: probe
            for name, probe in self._probes.items()
            if all_of_them or not self._breaker.answered_within(name, self._interval)
        }
        if wanted:
            await asyncio.gather(*(self._probe(name, probe) for name, probe in wanted.items()))

    async def _run(self) -> None:
        while True:
            try:
                await self.tick_once(all_of_them=False)
            except Exception:
                log.exception("a round of probes failed")
            self._first.set()
            await asyncio.sleep(self._interval * (1 + self._rng.uniform(-self._jitter, self._jitter)))

    async def _probe(self, name: str, probe: Probe) -> None:
        reason = ""
        try:
            async with Patience(self._timeout):
                if not await probe():
                    reason = "probe-returned-false"
        except TimeoutError:
            reason = f"probe-timeout after {self._timeout:g} s"
        except Exception as error:
            reason = f"probe-exception: {type(error).__name__}: {getattr(error, 'message', error)}"
        if reason:
            self._breaker.probe_fail(name, reason)
        else:
            self._breaker.probe_ok(name)
        self._metrics.probe(name, "failed" if reason else "ok")
