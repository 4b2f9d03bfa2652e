"""Looks at every part again and again, and ends the process when one stands still although the servers answer."""

from __future__ import annotations

import asyncio
import faulthandler
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable

from projector import metrics
from projector.errors import StalledError
from projector.health import dump
from projector.health.judge import Judge, Seen, Verdict
from projector.health.parts import Part, parts
from projector.health.parts import part as part_of
from projector.health.servers import ANSWER_S, AWAY, Connections
from projector.logging import get

LONGEST_REST_S = 5.0
LONGEST_LOOK_S = 3 * ANSWER_S
LOOKS_PER_STALL = 6
END_AFTER = 1.5
"""A part that is stalled makes the process not live at once, and end it after so many times its patience: time for
an orchestrator to see the one, or for the part to go on after all."""
LOOP = "event loop"
"""The part that stands for the loop in which all the others run; it waits for no server."""

log = get("health")


class Watch:
    """`verdicts` holds the last one of each part. `end(error, blocked)` is called once, when the process must end;
    `blocked` when its event loop cannot take part in that.

    `stall_after_s` 0: nothing is ever called stalled.
    """

    def __init__(
        self,
        stall_after_s: float,
        servers: Connections,
        loop: asyncio.AbstractEventLoop,
        end: Callable[[StalledError, bool], None],
    ) -> None:
        self._stall_after_s = stall_after_s or math.inf
        self._rest_s = min(LONGEST_REST_S, self._stall_after_s / LOOKS_PER_STALL)
        # Never so long that one look alone, after a pause of the process, makes a part stalled.
        longest_s = min(self._rest_s + LONGEST_LOOK_S, self._stall_after_s / 2)
        self._servers = servers
        self._loop = loop
        self._end = end
        self._judges = defaultdict[str, Judge](lambda: Judge(longest_s))
        self.verdicts: dict[str, Verdict] = {}
        self._looked_at = time.monotonic()

    @property
    def looks(self) -> bool:
        """Whether the last look was not too long ago."""
        return time.monotonic() - self._looked_at < self._rest_s + LONGEST_LOOK_S

    async def run(self) -> None:
        """Looks until the process is to end, or this task is cancelled."""
        while True:
            await self._look()
            for part in parts():
                verdict = self.verdicts.get(part.name)
                if verdict is not None and verdict.standing_s >= END_AFTER * (self._stall_after_s + part.patience_s):
                    error = StalledError(f"{part.name} stood still for {verdict.standing_s:.0f} s")
                    self._end(error, part.name == LOOP)
                    return
            await asyncio.sleep(self._rest_s)

    async def _look(self) -> None:
        # First: while it is blocked none of the others can move, and that is not their fault.
        loop = part_of(LOOP)
        self._judge(loop, await loop.seen(self._servers))
        others = [part for part in parts() if part is not loop]
        if self.verdicts[LOOP].standing_s:
            for part in others:
                self._judges[part.name].skip(time.monotonic())
        else:
            away = [name for name, why in (await self._servers.away()).items() if why is not None]
            positions = await asyncio.gather(*(self._seen(part, away) for part in others))
            for part, seen in zip(others, positions, strict=True):
                self._judge(part, seen)
        self._looked_at = time.monotonic()

    async def _seen(self, part: Part, away: list[str]) -> Seen | None:
        """None as well when a server is away: then everybody waits for it, some of them without a sign."""
        if away:
            return None
        try:
            return await part.seen(self._servers)
        except AWAY as error:
            log.info("cannot be judged", part_name=part.name, error=type(error).__name__)
            return None

    def _judge(self, part: Part, seen: Seen | None) -> None:
        judge = self._judges[part.name]
        verdict = judge.look(time.monotonic(), seen, self._stall_after_s + part.patience_s)
        before = self.verdicts.get(part.name, verdict)
        self.verdicts[part.name] = verdict
        metrics.PART_STANDING_SECONDS.labels(part.name).set(verdict.standing_s)
        if verdict.state == "stalled" and (before is verdict or before.state != "stalled"):
            self._tell(part.name, verdict)
        elif verdict.state != "stalled" and before.state == "stalled":
            log.warning("moves again", part_name=part.name)

    def _tell(self, name: str, verdict: Verdict) -> None:
        metrics.STALLS.labels(name).inc()
        log.error("stalled", part_name=name, standing_s=round(verdict.standing_s, 1))
        for task in dump.tasks(self._loop):
            log.error("task", **task)
        faulthandler.dump_traceback(file=sys.stderr)
