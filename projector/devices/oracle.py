"""What a new device shows: the yardstick of every projection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from projector.devices.replica import Key, Replica
from projector.log.change import Change

# Identity and bookkeeping, which a projection keeps in columns or not at all.
_NOT_COMPARED = frozenset({"id", "updatedAt", "authorId", "spaceId", "visibility"})


def new_device_view(changes: Iterable[Change]) -> dict[Key, dict[str, Any]]:
    """The records of a new device after it pulled `changes`: one author's whole log, in any order given.

    Rows are applied in `(created_at, id)` order, as a pull delivers them. Inserts without any time are stamped by the
    reader's clock, which stands at the end of the log here: of such records only the insert's own values show.
    """
    ordered = sorted(changes, key=lambda change: (change.created_at_us, change.id))
    users = {change.user_id for change in ordered}
    if len(users) > 1:
        raise ValueError(f"a device has one user; these rows have {len(users)}")
    device = Replica(next(iter(users), ""))
    for change in ordered:
        device.apply(change)
    return device.records()


def comparable(record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A record as far as two readers must agree on it.

    A deleted record is a missing one (None), a null property a missing one, 1.0 is 1, and identity is left out.
    """
    if record is None or record.get("deletedAt"):
        return None
    return {name: _plain(value) for name, value in record.items() if value is not None and name not in _NOT_COMPARED}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
