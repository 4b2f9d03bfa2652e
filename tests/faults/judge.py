"""Whether the topics hold what was committed: everything, once, in order, and before it was confirmed."""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from typing import NamedTuple

from aiokafka import TopicPartition

from projector.log.place import lsn_text
from projector.log.watermark import Watermark
from tests.faults.ledger import Event, Lane, Ledger
from tests.faults.reader import Record

SHOWN = 6


class Violation(AssertionError):
    """Something was lost, doubled, reordered, or confirmed too early; the text says what."""


class Allowed(NamedTuple):
    """What a fault excuses."""

    repeats: bool = False
    """Two writers overlapped: a record may come again, with the id and the place that it had."""
    gap: bool = False
    """WAL was lost or came too late. Its messages are gone, rows that were deleted in it never come, and those deleted
    in it that had come before are told of at another time than they were deleted; again by the stream, if it brings
    the delete too."""


NOTHING = Allowed()


class Claim(NamedTuple):
    """Somebody says that everything committed below `lsn` lies below `ends`."""

    lsn: int
    ends: dict[TopicPartition, int]
    who: str


def claim_of(mark: Watermark) -> Claim:
    ends = {TopicPartition(topic, p): end for topic, ends in mark.ends.items() for p, end in enumerate(ends)}
    return Claim(mark.lsn, ends, "a watermark")


class Judge:
    """Remembers of every partition how far it was judged, and nothing of what was found right."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.judged = 0
        """Records found to be what was committed."""
        self.repeated = 0
        """Records that came again and were allowed to."""
        self._last: dict[TopicPartition, tuple[int, int, int]] = {}
        self._claims: defaultdict[TopicPartition, list[tuple[int, int, str]]] = defaultdict(list)
        self._bound: defaultdict[TopicPartition, tuple[int, str]] = defaultdict(lambda: (0, ""))
        self._published: defaultdict[Lane, deque[Record]] = defaultdict(deque)
        self._matched: defaultdict[Lane, int] = defaultdict(int)
        self._recent: dict[tuple[str, str], Record] = {}
        self._never: set[str] = set()
        self._told: set[str] = set()

    def judge(self, records: list[Record], claims: list[Claim], owed: dict[Lane, int], allowed: Allowed) -> None:
        """`records` go on where the last call's ended; `owed` says how much of each lane must have come by now.

        Raises Violation.
        """
        for claim in claims:
            for tp, end in claim.ends.items():
                heapq.heappush(self._claims[tp], (end, claim.lsn, claim.who))
        seen: dict[tuple[str, str], Record] = {}
        for record in records:
            key = record.event.op, record.event.id
            before = seen.get(key) or self._recent.get(key)
            if before is not None:
                self._repeat(before, record, allowed)
                continue
            seen[key] = record
            self._place(record)
            self._confirmed(record)
            self._published[record.lane].append(record)
        self._recent = seen
        for lane in {*self._published, *owed}:
            self._match(lane, owed.get(lane, 0), allowed)

    def finish(self) -> None:
        """When nothing is written any more: what is left was never committed."""
        for lane, left in self._published.items():
            if left:
                raise Violation(f"{_lane(lane)} holds what was never committed: {left[0]}")

    def _repeat(self, before: Record, record: Record, allowed: Allowed) -> None:
        if allowed.gap and record.event.op == "erased" and before.filled and not record.filled:
            self._place(record)
            self.repeated += 1
            return
        if not allowed.repeats:
            raise Violation(f"published twice: {before}, again {record}")
        if (record.place, record.partition) != (before.place, before.partition):
            raise Violation(f"published again under another place: {before}, again {record}")
        self.repeated += 1

    def _place(self, record: Record) -> None:
        place = record.place.source, record.place.lsn, -1 if record.filled else record.place.ord
        last = self._last.get(record.partition, (0, 0, 0))
        # All records of a fill have one place.
        if place < last or (place == last and not record.filled):
            raise Violation(f"places do not grow: {record} stands behind {last[0]}:{lsn_text(last[1])}:{last[2]}")
        self._last[record.partition] = place

    def _confirmed(self, record: Record) -> None:
        claims = self._claims[record.partition]
        bound = self._bound[record.partition]
        while claims and claims[0][0] <= record.offset:
            _, lsn, who = heapq.heappop(claims)
            bound = max(bound, (lsn, who))
        self._bound[record.partition] = bound
        lsn, who = bound
        if record.place.lsn < lsn:
            raise Violation(f"{who} said that all below {lsn_text(lsn)} is in Kafka before this was: {record}")

    def _match(self, lane: Lane, owed: int, allowed: Allowed) -> None:
        published = self._published[lane]
        with self.ledger.lock:
            committed = self.ledger.committed[lane]
            if allowed.gap:
                self._take_out_erased(committed, published)
            while committed and (published or self._matched[lane] < owed):
                event = committed[0]
                if event.op == "erased" and event.id in self._told:
                    self.judged += 1
                elif published and published[0].event == event:
                    published.popleft()
                    self.judged += 1
                elif allowed.gap and self._may_be_missing(event):
                    self._never.add(event.id)
                else:
                    raise Violation(self._difference(lane, list(committed), list(published)))
                committed.popleft()
                self._matched[lane] += 1

    def _take_out_erased(self, committed: deque[Event], published: deque[Record]) -> None:
        """Deletes that were told of count as such, wherever they stand."""
        owing = {event for event in committed if event.op == "erased"}
        self._told |= {record.event.id for record in published if record.event in owing}
        left = [record for record in published if record.event not in owing]
        published.clear()
        published.extend(left)

    def _may_be_missing(self, event: Event) -> bool:
        if event.op == "erased":
            return event.id in self._never
        return event.op == "message" or event.id in self.ledger.erased

    def _difference(self, lane: Lane, committed: list[Event], published: list[Record]) -> str:
        ids = {record.event for record in published}
        expected = committed[0]
        what = "comes too late" if expected in ids else "is missing"
        if published and published[0].event not in committed:
            what += ", and what stands in its place was never committed or came before"
        return "\n".join(
            [
                f"{_lane(lane)}: {expected.op} {expected.id} (row {expected.n}) {what}",
                f"  committed, in order ({len(committed)}):",
                *(f"    {event.op} {event.id} (row {event.n})" for event in committed[:SHOWN]),
                f"  published, in order ({len(published)}):",
                *(f"    {record}" for record in published[:SHOWN]),
            ]
        )


def _lane(lane: Lane) -> str:
    return f"{lane[1]} in {lane[0]}"
