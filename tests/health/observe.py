"""Streams as processes with an HTTP port, and what somebody sees who asks them all again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from projector.config import Settings
from tests.faults.stream import Stream

ASK_S = 0.4


@dataclass
class Observed:
    """One process, and the newest answers: (status, body) by path; `not_live` is the last 503 of /health/live."""

    stream: Stream
    answers: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)
    not_live: dict[str, Any] | None = None

    @property
    def port(self) -> int | None:
        return next((int(e["port"]) for e in self.stream.entries() if e.get("event") == "api listening"), None)  # type: ignore[call-overload]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ready(self) -> bool:
        return self.answers.get("/health/ready", (0, {}))[0] == 200

    def waits(self) -> bool:
        """Whether it is not ready, and all but its event loop waits for a server."""
        states = [part["state"] for name, part in self.answers["/health/live"][1]["parts"].items()]
        return not self.ready() and states.count("waiting") == len(states) - 1

    def why_not(self) -> dict[str, str]:
        """The reasons of /health/ready by part."""
        parts = self.answers["/health/ready"][1]["parts"]
        return {name: part["reason"] for name, part in parts.items() if not part["ready"]}

    async def follow(self) -> None:
        """Asks until the process ends, or this is cancelled."""
        while (port := self.port) is None:
            if self.stream.exit_code is not None:
                return
            await asyncio.sleep(0.1)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            while self.stream.exit_code is None:
                for path in "/health/live", "/health/ready":
                    try:
                        async with session.get(path) as answer:
                            self.answers[path] = (answer.status, await answer.json())
                    except aiohttp.ClientError:
                        continue  # it has just ended
                    if path == "/health/live" and answer.status == 503:
                        self.not_live = self.answers[path][1]
                await asyncio.sleep(ASK_S)


def start(settings: Settings, folder: Path, name: str, *, freeze_at: str = "") -> Observed:
    log_file = folder / f"{name}-{settings.topic_prefix}-{freeze_at}.log"
    return Observed(Stream(settings.model_copy(update={"api_port": 0}), log_file, name=name, freeze_at=freeze_at))


async def until(condition: Callable[[], object], what: str, *, within_s: float = 120) -> None:
    try:
        async with asyncio.timeout(within_s):
            while not condition():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not within {within_s:g} s: {what}") from None
