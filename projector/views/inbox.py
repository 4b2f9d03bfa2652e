"""From a record of a topic to what a view does with it: fold a change, reload a record, or lay it aside."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import orjson

from projector.log.change import ERASED, FILL_HEADER, TRUNCATED, BadChange, Change, decode
from projector.log.order import PartitionOrder
from projector.log.place import Place, from_headers
from projector.views.declared import Identity, View

_ERASED = ERASED.encode()
_TRUNCATED = TRUNCATED.encode()


class Message(Protocol):
    """A record of a topic. `timestamp` in milliseconds since 1970."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Iterable[tuple[str, bytes]]: ...
    @property
    def timestamp(self) -> int: ...


@dataclass(slots=True)  # not frozen, which would take longer to make than all that is in it to read
class Fold:
    """A change for the record `identity`; `filled` when it came out of the table, long after its commit perhaps."""

    identity: Identity
    place: Place
    change: Change
    filled: bool


@dataclass(frozen=True, slots=True)
class Reload:
    """The record must be folded anew from the log: a change of it came again, and may have been erased meanwhile."""

    identity: Identity
    place: Place
    filled: bool


@dataclass(frozen=True, slots=True)
class Erasure(Reload):
    """A row of this record was erased from the log, and cannot be subtracted from a fold."""

    change_id: str


@dataclass(frozen=True, slots=True)
class Truncation:
    """Every row of the log that came before was deleted: nothing that this partition brought may be kept."""

    place: Place
    offset: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that cannot be folded, with the cause. `again`: it came before, and may have been erased meanwhile."""

    message: Message
    place: Place | None
    user_id: str | None
    change_id: str | None
    reason: str
    detail: str
    filled: bool
    again: bool = False


Event = Fold | Reload | Truncation | DeadLetter


def sort(view: View, message: Message) -> Fold | Erasure | Truncation | DeadLetter | None:
    """What `view` does with `message`; None for records of other views, which are not decoded.

    A record that does not name its table is the affair of the view that takes the rest.
    """
    headers = dict(message.headers)
    # Changes have a key, so a row whose own `op` has this name is not taken for a truncation.
    truncated = message.key is None and headers.get("op") == _TRUNCATED
    if not truncated and not is_of(view, message.topic, headers.get("table")):
        return None
    place = None
    try:
        place = place_of(headers)
        if truncated:
            return Truncation(place, message.offset)
        return _sort(view, headers, message, place)
    except BadChange as error:
        user_id, change_id = _owner(message, headers)
        return DeadLetter(message, place, user_id, change_id, error.code, error.detail, FILL_HEADER in headers)


def in_order(order: PartitionOrder, event: Event) -> Event:
    """The event, or what is to be done instead when its record came before, and others of the partition after it."""
    if event.place is None:
        return event
    if order.grows(event.place, filled=not isinstance(event, Truncation) and event.filled):
        return event
    if isinstance(event, Fold | Reload):
        return Reload(event.identity, event.place, event.filled)
    return replace(event, again=True) if isinstance(event, DeadLetter) else event


@lru_cache(maxsize=4096)
def is_of(view: View, topic: str, table: bytes | None) -> bool:
    """Whether the header `table` of a record with a key makes it the view's."""
    if table is None:
        return bool(view.rest_of)
    return view.takes(app_of(topic), table.decode("utf-8", "replace"))


def _sort(view: View, headers: dict[str, bytes], message: Message, place: Place) -> Fold | Erasure:
    value, filled = message.value or b"", FILL_HEADER in headers
    if headers.get("op") == _ERASED:
        identity, change_id = _erasure(value)
        _check(view, message, identity)
        return Erasure(identity, place, filled, change_id)
    change = decode(value)
    identity = (change.user_id, change.app_id, change.table, change.record_id)
    _check(view, message, identity)
    return Fold(identity, place, change, filled)


@lru_cache(maxsize=1024)
def app_of(topic: str) -> str:
    """The app whose changes the topic holds."""
    # Topics are <prefix>.sync_changes.<app>, and both ends may hold dots.
    return topic.rpartition(".sync_changes.")[2]


def place_of(headers: dict[str, bytes]) -> Place:
    """The place that a record's headers tell; raises BadChange."""
    try:
        return from_headers(headers)
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # a header may be null, or bytes of any kind
        raise BadChange("no-place", f"headers source, lsn, ord: {error!r}") from None


def _check(view: View, message: Message, identity: Identity) -> None:
    user_id, app_id, table, _ = identity
    # The key chose the partition, and two partitions must never write one row.
    if message.key != user_id.encode():
        raise BadChange("wrong-key", "the key is not the user of the value")
    if app_id != app_of(message.topic) or not view.takes(app_id, table):
        raise BadChange("wrong-topic", f"the value is of table {table!r} of app {app_id!r}")


def _erasure(value: bytes) -> tuple[Identity, str]:
    try:
        row = orjson.loads(value)
        identity = (row["user_id"], row["app_id"], row["table_name"], row["record_id"])
        change_id = row["id"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise BadChange("not-json", f"erasure: {type(error).__name__}: {error}") from None
    if not all(isinstance(part, str) and part for part in (*identity, change_id)):
        raise BadChange("missing-column", "erasure: an identity column is empty or no text")
    return identity, change_id


def _owner(message: Message, headers: dict[str, bytes]) -> tuple[str | None, str | None]:
    """Whose record it is and its change id, as far as key and headers tell: the value may be unreadable."""
    return _storable(message.key), _storable(headers.get("id"))


def _storable(raw: bytes | None) -> str | None:
    text = (raw or b"").decode("utf-8", "replace").replace("\0", "\ufffd")
    return text or None
