"""A local edit on its way to the log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from projector.devices.collection import Collection
from projector.devices.difference import REMOVED


@dataclass(frozen=True, slots=True)
class Pending:
    """One entry of a device's outbox.

    An insert has `data`. An update has `fields` (dotted key → value or REMOVED), all stamped `at`. A delete has
    `deleted_at`, and `fields` that the sync server does not store.
    """

    collection: Collection
    record_id: str
    op: Literal["insert", "update", "delete"]
    at: str
    data: dict[str, Any] | None
    fields: dict[str, Any]
    deleted_at: str | None
    actor: dict[str, Any]
    space_id: str | None

    def stored(self) -> tuple[dict[str, Any], dict[str, str]]:
        """`data` and `field_meta` of the row that the sync server makes of it."""
        if self.op == "insert":
            return self.data or {}, {}
        if self.op == "delete":
            return ({} if self.deleted_at is None else {"deletedAt": self.deleted_at}), {}
        data = {key: None if value is REMOVED else value for key, value in self.fields.items()}
        return data, dict.fromkeys(data, self.at)
