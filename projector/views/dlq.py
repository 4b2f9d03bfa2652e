"""Tries dead letters again: each goes through the code of the engine, into its row, beside an engine at work."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import psycopg

from projector import crash
from projector.errors import FoldVersionError, HiddenRowsError
from projector.fold import FOLD_VERSION, Counters
from projector.sql import query
from projector.views import deadletters
from projector.views.declared import VIEWS, Identity, View
from projector.views.generations import FILLING, load_one
from projector.views.held import Held, nothing
from projector.views.inbox import DeadLetter, Erasure, Fold, Truncation, sort
from projector.views.letters import LetterId, Listed, Selection, pages
from projector.views.positions import Partition, Positions
from projector.views.reload import reload
from projector.views.store import SMALL_BATCH, Store

CHUNK_BYTES = 8 * 1024 * 1024
"""Of values that one transaction takes, unless a single one is larger."""

Outcome = Literal["folded", "reloaded", "again", "erased", "failed", "skipped", "gone"]
"""What became, or would become, of a letter.

folded    its change is in the row, the letter is deleted
reloaded  it was an erasure: the record was folded anew from the log, the letter is deleted
again     the view has its offset still before it and judges it anew there, the letter is deleted
erased    its change is no longer in the log and must not come back, the letter is deleted
failed    it cannot be folded, one attempt more
skipped   a retry cannot help it, nothing was done
gone      it is no longer there, or somebody else has it in his hands
"""
REMAINING: tuple[Outcome, ...] = ("failed", "skipped")

Connection = psycopg.AsyncConnection[Any]


@dataclass(slots=True)
class Stored:
    """A letter as the message that it was, for `inbox.sort`."""

    id: int
    reason: str
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int
    headers: Iterable[tuple[str, bytes]]


class Verdict(NamedTuple):
    """`event` is what the engine's code makes of the letter, where something is to be done with it."""

    outcome: Outcome
    reason: str
    detail: str
    event: Fold | Erasure | None = None


class Result(NamedTuple):
    """`reason` is that of the letter as it is now."""

    id: LetterId
    view: str | None
    outcome: Outcome
    reason: str | None
    detail: str


class Origin(NamedTuple):
    """Where letters come from that one transaction may take together."""

    view: str
    cluster: str
    partition: Partition


async def retry(conn: Connection, selection: Selection, *, dry_run: bool = False) -> AsyncIterator[Sequence[Result]]:
    """Tries the selected letters of views, some in each transaction; yields what became of them after its commit.

    `conn` is an autocommit one of projector_engine. With `dry_run` nothing is locked or changed. May be repeated, run
    twice at once, and killed at any moment. Raises FoldVersionError when a view's rows were folded by other rules, and
    HiddenRowsError; what is wrong with a view itself comes through as it does in the engine.
    """
    await _require_sight(conn)
    chosen = selection.of("views")
    if chosen is None:
        return
    named = {one.number for one in chosen.ids}
    async for page in pages(conn, chosen):
        for origin, letters in _chunks(page):
            yield await (_rehearse if dry_run else _retry)(conn, origin, letters)
        named -= {letter.id.number for letter in page}
    if named:
        yield [_gone(None, number) for number in sorted(named)]


async def judge_one(conn: Connection, letter: Listed) -> Result:
    """What a retry would make of a view's letter now."""
    [result] = await _rehearse(conn, next(_chunks([letter]))[0], [letter.id.number])
    return result


def _chunks(page: Iterable[Listed]) -> Iterator[tuple[Origin, list[int]]]:
    """Letters of one partition each, so few that their rows travel in one statement and their values fit in memory."""
    by_origin: dict[Origin, list[Listed]] = defaultdict(list)
    for letter in page:
        assert letter.view is not None
        assert letter.cluster is not None
        assert letter.partition is not None
        by_origin[Origin(letter.view, letter.cluster, Partition(letter.topic, letter.partition))].append(letter)
    for origin, letters in by_origin.items():
        chunk: list[int] = []
        size = 0
        for letter in letters:
            if chunk and (len(chunk) == SMALL_BATCH or size + letter.size > CHUNK_BYTES):
                yield origin, chunk
                chunk, size = [], 0
            chunk.append(letter.id.number)
            size += letter.size
        yield origin, chunk


async def _rehearse(conn: Connection, origin: Origin, ids: Sequence[int]) -> list[Result]:
    next_offset = await _next_offset(conn, origin)
    found = {letter.id: letter for letter in await _read(conn, ids)}
    verdicts = {number: await _judge(conn, origin, letter, next_offset) for number, letter in found.items()}
    return _results(origin, ids, verdicts)


async def _retry(conn: Connection, origin: Origin, ids: Sequence[int]) -> list[Result]:
    verdicts: dict[int, Verdict] = {}
    view = VIEWS.get(origin.view)
    async with conn.transaction():
        # First, because it makes the engine, a rebuild and other retries wait before they touch a row.
        generations = [] if view is None else await _hold(conn, view, origin)
        next_offset = await _next_offset(conn, origin)
        for letter in await _read(conn, ids, lock=True):
            verdict = verdicts[letter.id] = await _judge(conn, origin, letter, next_offset)
            if verdict.event is not None:
                for records in generations:
                    await records.take(letter.offset, verdict.event)
            if verdict.outcome == "failed":
                failed = {"id": letter.id, "reason": verdict.reason, "detail": verdict.detail.replace("\0", "\ufffd")}
                await conn.execute(query("views/dead_letter_failed"), failed)
        for records in generations:
            await records.write()
        settled = [number for number, verdict in verdicts.items() if verdict.outcome not in REMAINING]
        await conn.execute(query("views/dead_letter_delete"), {"ids": settled})
        crash.point("dlq.before_commit")
    crash.point("dlq.after_commit")
    return _results(origin, ids, verdicts)


async def _hold(conn: Connection, view: View, origin: Origin) -> list[Records]:
    """Both generations, as far as each is. A spare one that is not past a letter will come by its record itself, and
    one that is being folded from the log by its change."""
    bumped = {
        spare: await Positions(view.name, origin.cluster, spare=spare).bump(conn, [origin.partition])
        for spare in (False, True)
    }
    found = await load_one(conn, view)
    return [
        Records(conn, Store(view, found.spare if spare else found.serving), at[origin.partition])
        for spare, at in bumped.items()
        if at and not (spare and found.state == FILLING and found.source == "log")
    ]


class Records:
    """The rows of one generation that one transaction alters, folded between one read and one write."""

    def __init__(self, conn: Connection, store: Store, next_offset: int) -> None:
        self._conn = conn
        self._store = store
        self._next_offset = next_offset
        self._held: dict[Identity, Held | None] = {}

    async def take(self, offset: int, event: Fold | Erasure) -> None:
        """As the engine does it, if this generation is past `offset`."""
        if offset >= self._next_offset:
            return
        identity = event.identity
        if identity not in self._held:
            self._held[identity] = (await self._store.load(self._conn, [identity])).get(identity)
        held = self._held[identity]
        if isinstance(event, Erasure):
            self._held[identity] = await reload(self._conn, self._store.view.fold, identity, held, event.place)
            await deadletters.erase(self._conn, self._store.view.name, [event.change_id])
        else:
            held = self._held[identity] = nothing(self._store.view.fold) if held is None else held
            held.take(event.change, event.place, Counters())

    async def write(self) -> None:
        """At most SMALL_BATCH rows."""
        view = self._store.view
        rows = [held.row(view, identity) for identity, held in self._held.items() if held is not None]
        await self._store.write(self._conn, rows, len(rows))
        await self._store.delete(self._conn, [identity for identity, held in self._held.items() if held is None])


async def _judge(conn: Connection, origin: Origin, letter: Stored, next_offset: int | None) -> Verdict:
    view = VIEWS.get(origin.view)
    if view is None:
        return Verdict("skipped", letter.reason, f"there is no view {origin.view} any more: drop the letter")
    at = f"{letter.topic}-{letter.partition}"
    if next_offset is None:
        return Verdict(
            "skipped", letter.reason, f"view {view.name} does not read {at} of Kafka cluster {origin.cluster}"
        )
    if letter.offset >= next_offset:
        return Verdict("again", letter.reason, f"view {view.name} goes on at offset {next_offset} of {at}")
    event = sort(view, letter)
    if event is None:
        return Verdict("skipped", letter.reason, f"view {view.name} no longer takes this table: rebuild the views")
    if isinstance(event, DeadLetter):
        return Verdict("failed", event.reason, event.detail)
    if isinstance(event, Truncation):
        return Verdict("skipped", letter.reason, f"it says that the log was truncated: rebuild view {view.name}")
    if isinstance(event, Erasure):
        return Verdict("reloaded", letter.reason, f"change {event.change_id} was erased", event)
    if not await deadletters.change_exists(conn, event.change.id):
        return Verdict("erased", letter.reason, f"change {event.change.id} is no longer in sync_changes")
    return Verdict("folded", letter.reason, f"change {event.change.id}", event)


async def _next_offset(conn: Connection, origin: Origin) -> int | None:
    parameters = {"view": origin.view, "cluster": origin.cluster} | origin.partition._asdict()
    row = await (await conn.execute(query("views/dead_letter_position"), parameters)).fetchone()
    if row is None:
        return None
    next_offset, fold_version = row
    if fold_version != FOLD_VERSION:
        raise FoldVersionError(
            f"view {origin.view} was folded by rules {fold_version}, this program follows {FOLD_VERSION}"
        )
    return int(next_offset)


async def _read(conn: Connection, ids: Sequence[int], *, lock: bool = False) -> list[Stored]:
    statement = query("views/dead_letter_read") + ("for update skip locked" if lock else "")
    rows = await (await conn.execute(statement, {"ids": list(ids)})).fetchall()
    return [
        Stored(*fields, [(name, text.encode()) for name, text in headers.items()])  # type: ignore[call-arg]
        for *fields, headers in rows
    ]


async def _require_sight(conn: Connection) -> None:
    row = await (await conn.execute("select row_security_active('sync_changes')")).fetchone()
    if row is None or row[0]:
        raise HiddenRowsError(
            "projector_engine does not see every row of sync_changes: changes that are there would count as erased",
            "run `alter role projector_engine bypassrls` as a superuser",
        )


def _results(origin: Origin, ids: Sequence[int], verdicts: dict[int, Verdict]) -> list[Result]:
    return [
        _gone(origin.view, number)
        if (verdict := verdicts.get(number)) is None
        else Result(LetterId("views", number), origin.view, verdict.outcome, verdict.reason, verdict.detail)
        for number in ids
    ]


def _gone(view: str | None, number: int) -> Result:
    return Result(LetterId("views", number), view, "gone", None, "it is no longer there, or in another's hands")
