"""The stored dead letters of the views and of the change stream, for who looks at them: pages, counts, one in full."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, LiteralString, NamedTuple

import psycopg

from projector.errors import ConfigError
from projector.logging import get
from projector.sql import query

Part = Literal["views", "cdc"]
PARTS: tuple[Part, ...] = ("views", "cdc")
PAGE = 500

Connection = psycopg.AsyncConnection[Any]

log = get("dlq")


class LetterId(NamedTuple):
    """What names a letter: `17` is one of a view, `cdc-17` one of the change stream."""

    part: Part
    number: int

    def __str__(self) -> str:
        return f"cdc-{self.number}" if self.part == "cdc" else str(self.number)


def parse_id(text: str) -> LetterId:
    """Raises ConfigError for a text that names no letter."""
    digits = text.removeprefix("cdc-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 19):
        raise ConfigError(f"{text!r} is no id of a dead letter", "`projector dlq list` shows them: 17 or cdc-17")
    return LetterId("cdc" if text.startswith("cdc-") else "views", int(digits))


def parse_part(text: str) -> Part:
    """Raises ConfigError for a text that names no part."""
    for part in PARTS:
        if part == text:
            return part
    raise ConfigError(f"there is no part {text!r}", f"choose among: {', '.join(PARTS)}")


@dataclass(frozen=True, slots=True)
class Selection:
    """The letters that all of this is true of; one without any of it takes every letter."""

    ids: tuple[LetterId, ...] = ()
    part: Part | None = None
    view: str | None = None
    user: str | None = None
    reason: str | None = None

    @property
    def is_everything(self) -> bool:
        return self == Selection()

    def of(self, part: Part) -> Selection | None:
        """What it takes of one part; None when that is nothing."""
        numbers = tuple(one for one in self.ids if one.part == part)
        if (self.ids and not numbers) or self.part not in (None, part) or (part == "cdc" and self.view is not None):
            return None
        return replace(self, ids=numbers, part=part)

    def parameters(self) -> dict[str, Any]:
        return {
            "ids": [one.number for one in self.ids] or None,
            "view": self.view,
            "user": self.user,
            "reason": self.reason,
        }


class Listed(NamedTuple):
    """`view`, `cluster`, `partition` and `offset` are None for a letter of the change stream; `size` in bytes."""

    id: LetterId
    view: str | None
    cluster: str | None
    topic: str
    partition: int | None
    offset: int | None
    place: str | None
    user_id: str | None
    change_id: str | None
    reason: str
    stored_at: datetime
    age_s: float
    attempts: int
    size: int


class Whole(NamedTuple):
    """What only the letter of a view has. Headers as text; `value` as it was in the topic."""

    key: bytes | None
    timestamp_ms: int | None
    headers: dict[str, str]
    detail: str
    value: bytes | None
    retried_at: datetime | None


_PAGE: dict[Part, LiteralString] = {"views": "views/dead_letter_page", "cdc": "views/dead_letter_page_cdc"}
_TALLY: dict[Part, LiteralString] = {"views": "views/dead_letter_tally", "cdc": "views/dead_letter_tally_cdc"}
_DROP: dict[Part, LiteralString] = {"views": "views/dead_letter_drop", "cdc": "views/dead_letter_drop_cdc"}


async def pages(
    conn: Connection, selection: Selection, *, after: LetterId | None = None, size: int = PAGE
) -> AsyncIterator[list[Listed]]:
    """The selected letters above `after` that are stored now, those of the views first, each part in order of ids.

    No page is empty, and what is stored meanwhile comes into none.
    """
    row = await (await conn.execute(query("views/dead_letter_last"))).fetchone()
    assert row is not None
    for part, last in zip(PARTS, row, strict=True):
        chosen = selection.of(part)
        if chosen is None or (after is not None and PARTS.index(part) < PARTS.index(after.part)):
            continue
        place = {"after": after.number if after is not None and after.part == part else 0, "upto": last or 0}
        while True:
            cursor = await conn.execute(query(_PAGE[part]), chosen.parameters() | place | {"limit": size})
            page = [Listed(LetterId(part, number), *rest) for number, *rest in await cursor.fetchall()]
            if page:
                yield page
            if len(page) < size:
                break
            place["after"] = page[-1].id.number


async def tally(conn: Connection, selection: Selection) -> list[tuple[str, str, int]]:
    """Counts by (`cdc` or view, reason)."""
    found: list[tuple[str, str, int]] = []
    for part in PARTS:
        chosen = selection.of(part)
        if chosen is not None:
            found += await (await conn.execute(query(_TALLY[part]), chosen.parameters())).fetchall()
    return found


async def find(conn: Connection, letter: LetterId) -> Listed:
    """Raises ConfigError when there is no such letter."""
    async for page in pages(conn, Selection((letter,))):
        return page[0]
    raise ConfigError(f"there is no dead letter {letter}", "`projector dlq list` shows those there are")


async def read_whole(conn: Connection, letter: LetterId) -> Whole:
    """The rest of a view's letter; raises ConfigError when it is gone."""
    row = await (await conn.execute(query("views/dead_letter_show"), {"id": letter.number})).fetchone()
    if row is None:
        raise ConfigError(f"there is no dead letter {letter} any more", "`projector dlq list` shows those there are")
    return Whole(*row)


async def drop(conn: Connection, selection: Selection, *, by: str) -> AsyncIterator[Sequence[LetterId]]:
    """Deletes the selected letters, and says in the log who did; yields what is gone, page by page.

    Letters that a retry has in its hands stay.
    """
    async for page in pages(conn, selection):
        part = page[0].id.part
        async with conn.transaction():
            cursor = await conn.execute(query(_DROP[part]), {"ids": [letter.id.number for letter in page]})
            dropped = {LetterId(part, number): reason for number, reason in await cursor.fetchall()}
            # Before the commit: none goes without a trace.
            if dropped:
                log.warning(
                    "dead letters dropped",
                    by=by,
                    ids=[str(one) for one in dropped],
                    reasons=sorted(set(dropped.values())),
                )
        yield list(dropped)
