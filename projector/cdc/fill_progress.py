"""How far a fill is, for whoever waits for it: lines in the log, and `mana_ai.cdc_fills` for `projector status`."""

from __future__ import annotations

import time
from typing import Any, Final, Literal

import psycopg

from projector.logging import get
from projector.sql import query

Step = Literal["topics", "rows", "erasures"]
"""It reads which changes the topics hold, publishes rows, and tells of those that the table has no more."""

FILL: Final = "fill"
"""The part of the process that moves with each of these steps, and waits for the database between them."""
KEEP_S: Final = 1.0
"""At most so often the table is told."""
_LOG_S: Final = 5.0
_WORDS: Final[dict[Step, tuple[str, str]]] = {
    "topics": ("reads what the topics hold, ", "records"),
    "rows": ("", "rows"),
    "erasures": ("tells of what is gone, ", "changes"),
}

log = get("cdc")


def in_words(step: Step, done: int, total: int | None) -> str:
    """`1,200 of 5,000 rows`, after the step's name where it is another."""
    doing, things = _WORDS[step]
    return f"{doing}{done:,} of {'an unknown number of' if total is None else f'{total:,}'} {things}"


class FillProgress:
    """Of one fill, through its steps."""

    def __init__(self, conn: psycopg.AsyncConnection[Any], fill: int, reason: str) -> None:
        """`conn` is the writer's session, in autocommit mode."""
        self._conn = conn
        self._fill = fill
        self._reason = reason

    async def begin(self, step: Step, total: int, *, done: int = 0) -> None:
        """A step with so much to do, `done` of it in an earlier life."""
        await self._conn.execute(query("cdc/fill_step"), [step, total, self._fill])
        self._step = step
        self._total = total
        self._first = done
        self._began = self._logged = self._kept = time.monotonic()

    async def keep(self, done: int) -> None:
        """So much of the step is done; for rows, a checkpoint of the fill says it instead."""
        self.tell(done)
        if time.monotonic() - self._kept >= KEEP_S:
            self._kept = time.monotonic()
            await self._conn.execute(query("cdc/fill_step_done"), [done, self._fill])

    def tell(self, done: int) -> None:
        """Writes it to the log, not too often."""
        now = time.monotonic()
        if now - self._logged < _LOG_S:
            return
        self._logged = now
        rate = (done - self._first) / (now - self._began)
        log.info(
            "fill",
            reason=self._reason,
            step=self._step,
            done=done,
            of=self._total,
            per_s=round(rate),
            eta_s=round(max(self._total - done, 0) / rate) if rate else None,
        )
