"""Gathers what a partition holds of one record, message by message. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from projector.log.place import Place, from_headers
from projector.views import inbox
from projector.views.declared import Identity, View
from projector.views.explain import Entry
from projector.views.inbox import DeadLetter, Fold, Message, Truncation, sort

LETTERS = 100


class Letter(NamedTuple):
    """A dead letter: `change_id` and `place` as far as it tells. With `names_record` it is known to be the record's."""

    reason: str
    detail: str
    change_id: str | None
    place: Place | None
    offset: int | None
    names_record: bool


class Erasure(NamedTuple):
    """A record that says that rows were deleted from the log: one, or with `truncated` all that came before."""

    place: Place
    offset: int
    truncated: bool


class Erased(NamedTuple):
    """A change that is no longer in the log. `entry` is what the topic still has of it, never to be shown."""

    change_id: str
    by: Erasure
    entry: Entry | None


@dataclass(slots=True)
class Collector:
    """Takes every message of the record's partition, in any order of spans, and keeps those of the record."""

    view: View
    identity: Identity
    entries: dict[str, Entry] = field(default_factory=dict)
    letters: dict[int, Letter] = field(default_factory=dict)
    letters_more: int = 0
    repeats: int = 0
    erasures: dict[str, Erasure] = field(default_factory=dict)
    truncation: Erasure | None = None
    first: tuple[int, Place | None] | None = None
    """Offset and place of the earliest record read."""
    _key: bytes = field(init=False)
    _table: bytes = field(init=False)

    def __post_init__(self) -> None:
        user_id, _, table, _ = self.identity
        self._key = user_id.encode()
        self._table = table.encode()

    def take(self, message: Message) -> None:
        """Keeps what concerns the record; anything else costs two comparisons."""
        if self.first is None or message.offset < self.first[0]:
            self.first = (message.offset, _place(message))
        if message.key is not None:
            if message.key != self._key:
                return
            table = dict(message.headers).get("table")
            if table != self._table and (table is not None or not self.view.rest_of):
                return
        event = sort(self.view, message)
        if isinstance(event, Fold):
            if event.identity == self.identity:
                self._fold(event, message)
        elif isinstance(event, inbox.Erasure):
            if event.identity == self.identity:
                self.erasures[event.change_id] = Erasure(event.place, message.offset, truncated=False)
        elif isinstance(event, Truncation):
            if self.truncation is None or message.offset > self.truncation.offset:
                self.truncation = Erasure(event.place, message.offset, truncated=True)
        elif isinstance(event, DeadLetter):
            self._letter(event)

    def erasure_of(self, change_id: str, offset: int | None) -> Erasure | None:
        """What the topic says of the change's end, if it does: `offset` is the change's own."""
        found = self.erasures.get(change_id)
        if found is None and self.truncation is not None and offset is not None and offset < self.truncation.offset:
            return self.truncation
        return found

    def _fold(self, event: Fold, message: Message) -> None:
        known = self.entries.get(event.change.id)
        if known is not None:
            self.repeats += 1
            if known.offset is not None and known.offset < message.offset:
                return
        at_us = event.change.created_at_us if event.filled else _committed_us(message)
        self.entries[event.change.id] = Entry(event.change, at_us, event.place, message.offset, event.filled)

    def _letter(self, letter: DeadLetter) -> None:
        named = record_named(letter.message.value)
        if named is not None and named != self.identity[3]:
            return
        if len(self.letters) == LETTERS and named is None:
            self.letters_more += 1
            return
        offset = letter.message.offset
        self.letters[offset] = Letter(
            letter.reason, letter.detail, letter.change_id, letter.place, offset, named is not None
        )


def record_named(value: bytes | None) -> str | None:
    """The record that the value of a dead letter names, if it can be read so far."""
    try:
        row: Any = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return None
    named = row.get("record_id") if isinstance(row, dict) else None
    return named if isinstance(named, str) else None


def _place(message: Message) -> Place | None:
    try:
        return from_headers(dict(message.headers))
    except (KeyError, ValueError):
        return None


def _committed_us(message: Message) -> int:
    """The header tells µs, the timestamp of the record ms."""
    text = dict(message.headers).get("ts", b"")
    return int(text) if text.isdigit() else message.timestamp * 1000
