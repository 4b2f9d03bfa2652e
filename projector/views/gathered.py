"""What a fill has read and not folded yet, by record and undecoded. Pure.

All changes of a record are decoded and folded together, and its row is made then: nothing but bytes waits, and what
a fold works on stays in the processor's cache. A value is put with others by what its bytes claim, and held against
that when it is decoded. What cannot be decoded, or claimed wrongly, is rare: it is named in `again`, to be read once
more and sorted as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from projector.fold import Counters
from projector.log.change import ERASED, FILL_HEADER, BadChange, decode
from projector.log.order import PartitionOrder
from projector.log.place import Place
from projector.views.declared import Identity, View
from projector.views.held import Held, Row, nothing
from projector.views.inbox import DeadLetter, Fold, Message, Reload, Truncation, app_of, in_order, is_of, place_of, sort
from projector.views.positions import Partition

ENTRY_OCTETS = 400
"""What a record of a topic takes in memory beside its value."""
_ERASED = ERASED.encode()
_BEFORE_ID = b'"record_id":"'


class Entry(NamedTuple):
    """A change that waits."""

    place: Place
    offset: int
    value: bytes


Waiting = tuple[Identity, Sequence[Entry]]
"""What claims to be changes of one record."""

_new = tuple.__new__


class Gathered:
    """What was read of one partition for one view. `octets`: about what it takes in memory."""

    def __init__(self, view: View, partition: Partition, order: PartitionOrder) -> None:
        """`order` is the partition's, as far as it was read before."""
        self._view = view
        self.order = order
        self._partition = partition
        self._app = app_of(partition.topic)
        self._waiting: dict[tuple[str, str, str], list[Entry]] = {}
        self._noticed = Counters()
        self.octets = 0
        self.changes = 0
        """Those that were folded so far."""
        self.letters: list[DeadLetter] = []
        self.truncation: Truncation | None = None
        self.later: dict[Identity, list[tuple[int, Fold | Reload]]] = {}
        """By offset, what is to be done when all rows are written: reloads, and changes that were read again. A reload
        finds in the log what came after it, so it may come last."""
        self.again: set[int] = set()
        """The offsets of what is to be read again, and given to `sort_again`, when all rows are written."""

    @property
    def count(self) -> int:
        """How many `records` are to come."""
        return len(self._waiting)

    def add(self, messages: Iterable[Message]) -> None:
        """Takes records in, in the order of their offsets; one of another view costs next to nothing."""
        view, topic, order, waiting = self._view, self._partition.topic, self.order, self._waiting
        for message in messages:
            headers = dict(message.headers)
            key, table = message.key, headers.get("table")
            if key is not None and not is_of(view, topic, table):
                continue
            value = message.value or b""
            self.octets += len(value) + ENTRY_OCTETS
            try:
                if key is None or table is None or headers.get("op") == _ERASED:
                    raise ValueError("no change that tells what it is of")
                claimed = (key.decode(), table.decode(), _claimed_id(value))
                place = place_of(headers)
            except (BadChange, ValueError):
                self._sort(message)
                continue
            found = waiting.get(claimed)
            # The database cannot be asked for a text with NUL; what came before is the log's to decide about.
            unasked = found is None and "\0" in "".join(claimed)
            if unasked or not order.grows(place, filled=FILL_HEADER in headers):
                self._sort(message)
            elif found is None:
                waiting[claimed] = [_new(Entry, (place, message.offset, value))]
            else:
                found.append(_new(Entry, (place, message.offset, value)))

    def records(self) -> Iterator[Waiting]:
        """Hands out what waits, in the order of its keys, which is about that of the rows' index."""
        for claimed in sorted(self._waiting):
            user_id, table, record_id = claimed
            yield (user_id, self._app, table, record_id), self._waiting.pop(claimed)

    def rows(self, records: Iterable[Waiting], held: Mapping[Identity, Held]) -> Iterator[Row]:
        """The rows of `records`, each folded when it is asked for; `held` are those that have a row so far."""
        for identity, entries in records:
            try:
                one, folded = self._fold(identity, entries, held.get(identity))
                row = one.row(self._view, identity) if folded else None
            except Exception as error:
                topic, number = self._partition
                error.add_note(f"in {'/'.join(identity)}, of {topic}-{number} at or after offset {entries[0].offset}")
                raise
            self.changes += folded
            if row is not None:
                yield row

    def _fold(self, identity: Identity, entries: Sequence[Entry], held: Held | None) -> tuple[Held, int]:
        """The record, and how many of the changes went into it."""
        one = nothing(self._view.fold) if held is None else held
        folded = 0
        for place, offset, value in reversed(entries) if self._view.fold.newest_first else entries:
            try:
                change = decode(value)
            except BadChange:
                self.again.add(offset)
                continue
            if (change.user_id, change.app_id, change.table, change.record_id) == identity:
                one.take(change, place, self._noticed)
                folded += 1
            else:
                self.again.add(offset)
        return one, folded

    def sort_again(self, messages: Iterable[Message]) -> None:
        """Takes in what `again` names."""
        for message in messages:
            if message.offset in self.again:
                event = sort(self._view, message)
                if isinstance(event, Fold):
                    self.changes += 1
                    self._put_off(message, event)
                elif isinstance(event, DeadLetter):
                    self.letters.append(event)

    def _sort(self, message: Message) -> None:
        """For what does not plainly tell its record, is no change, or came before."""
        sorted_out = sort(self._view, message)
        event = None if sorted_out is None else in_order(self.order, sorted_out)
        if isinstance(event, Fold):
            user_id, _, table, record_id = event.identity
            entry = Entry(event.place, message.offset, message.value or b"")
            self._waiting.setdefault((user_id, table, record_id), []).append(entry)
        elif isinstance(event, Reload):
            self._put_off(message, event)
        elif isinstance(event, Truncation):
            self.truncation = event
        elif isinstance(event, DeadLetter):
            self.letters.append(event)

    def _put_off(self, message: Message, event: Fold | Reload) -> None:
        self.later.setdefault(event.identity, []).append((message.offset, event))


def _claimed_id(value: bytes) -> str:
    """The first thing that looks like the record's id; raises ValueError unless it is written without escapes."""
    begin = value.index(_BEFORE_ID) + len(_BEFORE_ID)
    found = value[begin : value.index(b'"', begin)]
    if b"\\" in found:
        raise ValueError("a text with escapes")
    return found.decode()
