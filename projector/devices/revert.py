"""A reversal carried out on a device, as its user."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from projector.devices.collection import Collection
from projector.devices.replica import Key, Replica
from projector.devices.reversal import Undo, reversal
from projector.devices.review import Review
from projector.fold import Path
from projector.fold.items import canonical
from projector.fold.paths import DELETED_AT
from projector.log.change import Change


@dataclass(frozen=True, slots=True)
class Reverted:
    """`records` that the iteration wrote to, those edited now, and what stays as it is and why."""

    records: int
    edited: tuple[Key, ...]
    changed_since: tuple[tuple[Key, Path], ...]
    unsupported: tuple[tuple[Key, str], ...]
    failed: tuple[tuple[Key, str], ...]


def revert(review: Review, changes: Iterable[Change], mission_id: str, iteration_id: str) -> Reverted:
    """Takes back what an iteration did, and notes `revertedAt` on it when that was anything.

    `changes` are the user's rows of the log as far as they touch the iteration's records. Doing it twice is doing it
    once. A record that the device does not have yet is reported as failed; nothing is raised for it.
    """
    found = reversal(changes, mission_id, iteration_id)
    edited, failed = [], []
    changed = list(found.changed_since)
    for undo in found.undos:
        record = review.device.record(_collection(undo.key), undo.key.record_id)
        if record is None:
            failed.append((undo.key, "not on this device"))
            continue
        # Edits of this device that the log does not have yet count as well.
        newer = [path for path, value in undo.present.items() if not _shows(record, path, value)]
        changed += [(undo.key, path) for path in newer]
        if _write(review.device, undo, set(newer)):
            edited.append(undo.key)
    if edited:
        _note(review, mission_id, iteration_id)
    return Reverted(found.records, tuple(edited), tuple(changed), found.unsupported, tuple(failed))


def _write(device: Replica, undo: Undo, newer: set[Path]) -> bool:
    collection, record_id = _collection(undo.key), undo.key.record_id
    if undo.delete:
        if not newer:
            device.delete(collection, record_id)
        return not newer
    fields = {path: value for path, value in undo.fields.items() if path not in newer}
    # A deletion counts by its own time, so an old one cannot be written again.
    deleted = isinstance(fields.get(DELETED_AT), str)
    edits = {".".join(path): value for path, value in fields.items() if not (deleted and path == DELETED_AT)}
    if edits:
        device.edit(collection, record_id, edits)
    if deleted:
        device.delete(collection, record_id)
    return bool(fields)


def _note(review: Review, mission_id: str, iteration_id: str) -> None:
    if review.knows(mission_id, iteration_id):
        review.mark(mission_id, iteration_id, revertedAt=review.device.clock.text())


def _shows(record: dict[str, Any], path: Path, value: Any) -> bool:
    shown: Any = record
    for segment in path:
        shown = shown.get(segment) if isinstance(shown, dict) else None
    return canonical(shown) == canonical(value)


def _collection(key: Key) -> Collection:
    return Collection(key.app_id, key.table)
