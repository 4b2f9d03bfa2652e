"""The replica that a device keeps: local records, a stamp for each key, and an outbox."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple
from uuid import uuid4

from projector.devices.clock import DeviceClock
from projector.devices.collection import Collection
from projector.devices.difference import difference, write_through
from projector.devices.outbox import Pending
from projector.fold.values import copy_json
from projector.log import actor as actors
from projector.log.change import Change

PUSH_BATCH = 200

# Set once by the creating device; edits of them are not tracked.
_IMMUTABLE = frozenset({"id", "userId", "spaceId", "authorId"})
_UNSTAMPED = frozenset({"id", "__fieldMeta", "_updatedAtIndex"})


class Key(NamedTuple):
    """Names a record among those of one user."""

    app_id: str
    table: str
    record_id: str


class Replica:
    """One device of one user.

    Incoming rows merge key by key: a write applies when its stamp, compared as text, is not below the stored stamp
    of exactly that key. `policy` and `policy.tools` have a stamp each and do not order each other. Own edits apply
    without comparison, also when the clock stands behind.
    """

    def __init__(
        self,
        user_id: str,
        *,
        client_id: str | None = None,
        clock: DeviceClock | None = None,
        space_id: str | None = None,
        actor: actors.Actor | None = None,
    ) -> None:
        self.user_id = user_id
        self.client_id = client_id or str(uuid4())
        self.clock = clock or DeviceClock()
        self.space_id = space_id or f"_personal:{user_id}"
        self.actor = actor or actors.user(user_id)
        self.cursors: dict[str, tuple[int, str]] = {}
        """For each app, `(created_at µs, change id)` of the last row pulled."""
        self._records: dict[Key, dict[str, Any]] = {}
        self._stamps: dict[Key, dict[str, str]] = {}
        self._pending: list[Pending] = []

    # Reading

    def record(self, collection: Collection, record_id: str) -> dict[str, Any] | None:
        """A copy of the record as stored, soft-deleted ones included; None when there is none."""
        record = self._records.get(_key(collection, record_id))
        return None if record is None else copy_json(record)

    def records(self) -> dict[Key, dict[str, Any]]:
        """Copies of all records."""
        return {key: copy_json(record) for key, record in self._records.items()}

    def stamp(self, collection: Collection, record_id: str, key: str) -> str:
        """The stored stamp of one key; empty when it has none."""
        return self._stamps.get(_key(collection, record_id), {}).get(key, "")

    # Editing

    def create(self, collection: Collection, fields: Mapping[str, Any], record_id: str | None = None) -> str:
        """Creates a record and stages its insert; returns its id."""
        record_id = record_id or str(uuid4())
        now = self.clock.text()
        record = {"id": record_id, **copy_json(dict(fields))}
        if collection.timed:
            record.setdefault("createdAt", now)
            record.setdefault("updatedAt", now)
        for name, value in (("spaceId", self.space_id), ("authorId", self.user_id), ("visibility", "space")):
            if record.get(name) is None:
                record[name] = value
        key = _key(collection, record_id)
        self._records[key] = record
        self._stamps[key] = {name: now for name in record if name not in _UNSTAMPED}
        self._stage(collection, record_id, "insert", now, data=copy_json(record))
        return record_id

    def edit(self, collection: Collection, record_id: str, changes: Mapping[str, Any]) -> None:
        """Writes `changes` (names or dotted keys → values or REMOVED) and stages the difference they make.

        No difference is staged too, as an empty update. Raises KeyError when the record is not here.
        """
        key = _key(collection, record_id)
        before = self._records[key]
        after = copy_json(before)
        for name, value in changes.items():
            write_through(after, name, copy_json(value))
        fields = {
            name: value for name, value in difference(before, after).items() if name.partition(".")[0] not in _IMMUTABLE
        }
        now = self.clock.text()
        self._records[key] = after
        self._stamps[key].update(dict.fromkeys(fields, now))
        deleted_at = fields.get("deletedAt")
        if isinstance(deleted_at, str) and deleted_at:
            self._stage(collection, record_id, "delete", now, fields=copy_json(fields), deleted_at=deleted_at)
        else:
            self._stage(collection, record_id, "update", now, fields=copy_json(fields))

    def delete(self, collection: Collection, record_id: str) -> None:
        """Deletes as people do: the record stays, marked, and can be restored."""
        self.edit(collection, record_id, {"deletedAt": self.clock.text()})

    def restore(self, collection: Collection, record_id: str) -> None:
        self.edit(collection, record_id, {"deletedAt": None})

    # Pushing

    def outbox(self) -> list[Pending]:
        """The next batch to push: oldest first by the device's own clock, which may have been set back."""
        return sorted(self._pending, key=lambda pending: pending.at)[:PUSH_BATCH]

    def acknowledge(self, pushed: Iterable[Pending]) -> None:
        """Forgets what the server has answered for. Without it the next push repeats the batch."""
        done = {id(pending) for pending in pushed}
        self._pending = [pending for pending in self._pending if id(pending) not in done]

    # Pulling

    def apply(self, change: Change) -> None:
        """Merges one row of another writer as a client does when it pulls it.

        An insert without data makes a record without fields; real clients store the envelope's own keys as its fields.
        """
        key = Key(change.app_id, change.table, change.record_id)
        if change.op == "delete":
            self._apply_delete(key, change.data.get("deletedAt"))
        elif change.op == "insert":
            self._apply_insert(key, change.data)
        else:
            fields = {
                name: (value, _slot_text(change.field_meta[name]))
                for name, value in change.data.items()
                if name in change.field_meta
            }
            if fields:
                self._apply_update(key, fields)

    def _apply_delete(self, key: Key, deleted_at: object) -> None:
        record = self._records.get(key)
        if record is None:
            return
        if not isinstance(deleted_at, str) or not deleted_at:
            del self._records[key], self._stamps[key]
            return
        stamps = self._stamps[key]
        known = stamps.get("deletedAt") or record.get("deletedAt") or ""
        if not isinstance(known, str) or deleted_at >= known:
            record["deletedAt"] = stamps["deletedAt"] = deleted_at

    def _apply_insert(self, key: Key, data: dict[str, Any]) -> None:
        time = _text(data.get("updatedAt")) or _text(data.get("createdAt")) or self.clock.text()
        record = self._records.get(key)
        if record is None:
            self._records[key] = {**copy_json(data), "id": key.record_id}
            self._stamps[key] = {name: time for name in data if name not in _UNSTAMPED}
            return
        for name, value in data.items():
            if name not in _UNSTAMPED:
                self._merge(record, self._stamps[key], name, value, time)

    def _apply_update(self, key: Key, fields: dict[str, tuple[Any, str]]) -> None:
        record = self._records.get(key)
        if record is None:
            # Created from the update alone: the names are taken literally, dots and all.
            self._records[key] = {
                **{name: copy_json(value) for name, (value, _) in fields.items()},
                "id": key.record_id,
            }
            self._stamps[key] = {name: at for name, (_, at) in fields.items()}
            return
        for name, (value, at) in sorted(fields.items()):
            self._merge(record, self._stamps[key], name, value, at)

    @staticmethod
    def _merge(record: dict[str, Any], stamps: dict[str, str], name: str, value: Any, at: str) -> None:
        if at >= stamps.get(name, ""):
            write_through(record, name, copy_json(value))
            stamps[name] = at

    def _stage(
        self,
        collection: Collection,
        record_id: str,
        op: Literal["insert", "update", "delete"],
        at: str,
        *,
        data: dict[str, Any] | None = None,
        fields: dict[str, Any] | None = None,
        deleted_at: str | None = None,
    ) -> None:
        self._pending.append(
            Pending(
                collection=collection,
                record_id=record_id,
                op=op,
                at=at,
                data=data,
                fields=fields or {},
                deleted_at=deleted_at,
                actor=self.actor.to_json(),
                space_id=self.space_id,
            )
        )


def _key(collection: Collection, record_id: str) -> Key:
    return Key(collection.app_id, collection.table, record_id)


def _slot_text(slot: object) -> str:
    return _text(slot.get("at")) if isinstance(slot, dict) else _text(slot)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
