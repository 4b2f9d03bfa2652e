"""A chat endpoint that can be slow, fail, answer rubbish and answer twice, and remembers what it was paid for.

Beside it a service of deep research, whose jobs take a few polls.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from hashlib import sha256

import orjson

from tests.plan_faults.load import DEEP
from tests.plan_faults.modes import Mode, Reply, answer
from tests.planner.research_double import ANSWER, ResearchDouble
from tests.serving import Received, Serving

NUMBER = re.compile(r"Mission (\d+)")


@dataclass(slots=True)
class Ask:
    """One request that arrived. `serial` is in no other answer: it is what the answer says of its model.

    `tokens` is what its usage adds up to, 0 without one; `usable`: it can be stored as a step.
    """

    run: str
    body: bytes
    asked_at: float
    serial: int
    answered_at: float | None = None
    tokens: int = 0
    usable: bool = False
    refused: bool = False
    kind: str = ""
    uninformed: bool = False
    """It wants deep research, and does not say what that found."""


class Double(Serving):
    """Runs in a thread of its own. `mode` may be changed at any time; answers follow from `seed` and the request."""

    def __init__(self, seed: str) -> None:
        super().__init__()
        self.seed = seed
        self.mode: Mode = "normal"
        self.asks: defaultdict[str, list[Ask]] = defaultdict(list)
        """By run, in order of arrival."""
        self.research = ResearchDouble(statuses=["queued", "running", "completed"])
        self._serial = 1000
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),), daemon=True)
        self._thread.start()
        self._started.wait()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _run(self) -> None:
        async with self, self.research:
            self._started.set()
            await self._stop.wait()

    async def serve(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        self._serial += 1
        ask = Ask(request.headers["x-run-id"], sha256(request.body).digest(), time.time(), self._serial)
        asks = self.asks[ask.run]
        asks.append(ask)
        body = orjson.loads(request.body)
        prompt = body["messages"][1]["content"]
        ask.uninformed = DEEP in prompt and str(ANSWER["answer"]) not in prompt
        number = NUMBER.search(prompt)
        assert number is not None
        numbers = random.Random(f"{self.seed}:{number[1]}:{len(asks)}")
        reply = answer(self.mode, body, ask.serial, numbers)
        ask.tokens, ask.usable, ask.refused, ask.kind = reply.tokens, reply.usable, reply.refused, reply.kind
        await asyncio.sleep(reply.pause_s)
        # From here on it counts: who pays by the answer does not ask whether it arrived.
        ask.answered_at = time.time()
        await _send(writer, reply)
        return reply.kept_open


async def _send(writer: asyncio.StreamWriter, reply: Reply) -> None:
    lines = [f"HTTP/1.1 {reply.status} Answer", f"content-length: {len(reply.body)}"]
    lines += [f"{name}: {value}" for name, value in reply.headers.items()]
    whole = "\r\n".join(lines).encode() + b"\r\n\r\n" + reply.body
    writer.write((whole * reply.times)[: reply.cut_at])
    await writer.drain()
