"""The sync server as devices meet it: push and pull over its table."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import orjson
import psycopg
from psycopg.rows import DictRow, dict_row

from projector.devices.outbox import Pending
from projector.devices.replica import Replica
from projector.log.change import Change
from projector.log.clock import from_datetime, to_datetime
from projector.sql import query

PULL_PAGE = 1000
_BEFORE_ALL = (0, "00000000-0000-0000-0000-000000000000")
_ENTER = "select set_config('app.current_user_id', %s, true)"


class SyncServer:
    """Use it as a context manager. `conninfo` names a login that is subject to the table's row-level security.

    Pulls continue after the last row seen, `(created_at, id)`, so rows that share a `created_at` are not lost at the
    edge of a page. As with the real server, a row that commits after a later-stamped one was pulled stays unseen by
    that device; a new device sees it.
    """

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._conn: psycopg.Connection[DictRow] | None = None

    def __enter__(self) -> Self:
        self._conn = psycopg.connect(self._conninfo, autocommit=True, row_factory=dict_row)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def sync(self, device: Replica, *apps: str) -> int:
        """Pushes everything, then pulls everything of `apps`; returns the number of rows pulled."""
        while self.push(device):
            pass
        return sum(self.pull(device, app_id) for app_id in apps)

    def push(self, device: Replica, *, lose_answer: bool = False) -> int:
        """Stores the device's next batch, one transaction for each change; returns their number.

        With `lose_answer` the device does not learn of it, and will push the same batch again. Raises ValueError for
        a device that names no user.
        """
        if not device.user_id:
            raise ValueError("a device without a user cannot push")
        batch = device.outbox()
        for pending in batch:
            self._store(device, pending)
        if not lose_answer:
            device.acknowledge(batch)
        return len(batch)

    def pull(self, device: Replica, app_id: str) -> int:
        """Applies all rows of other clients that the device has not seen; returns their number."""
        pulled = 0
        while True:
            page = self._page(device, app_id)
            for change in page:
                device.apply(change)
                device.cursors[app_id] = (change.created_at_us, change.id)
            pulled += len(page)
            if len(page) < PULL_PAGE:
                return pulled

    def _store(self, device: Replica, pending: Pending) -> None:
        conn = self._connection()
        data, field_meta = pending.stored()
        row = {
            "app_id": pending.collection.app_id,
            "table": pending.collection.table,
            "record_id": pending.record_id,
            "user_id": device.user_id,
            "op": pending.op,
            "data": orjson.dumps(data).decode(),
            "field_meta": orjson.dumps(field_meta).decode(),
            "client_id": device.client_id,
            "actor": orjson.dumps(pending.actor).decode(),
            "space_id": pending.space_id,
        }
        with conn.transaction():
            conn.execute(_ENTER, [device.user_id])
            conn.execute(query("devices/push"), row)

    def _page(self, device: Replica, app_id: str) -> list[Change]:
        conn = self._connection()
        created_us, change_id = device.cursors.get(app_id, _BEFORE_ALL)
        wanted = {
            "user_id": device.user_id,
            "app_id": app_id,
            "client_id": device.client_id,
            "created_at": to_datetime(created_us),
            "id": change_id,
            "limit": PULL_PAGE,
        }
        with conn.transaction():
            conn.execute(_ENTER, [device.user_id])
            return [_change(row) for row in conn.execute(query("devices/pull"), wanted).fetchall()]

    def _connection(self) -> psycopg.Connection[DictRow]:
        if self._conn is None:
            raise RuntimeError("use the server as a context manager")
        return self._conn


def _change(row: dict[str, Any]) -> Change:
    data, field_meta = row["data"], row["field_meta"]
    return Change(
        id=str(row["id"]),
        app_id=row["app_id"],
        table=row["table_name"],
        record_id=row["record_id"],
        user_id=row["user_id"],
        op=row["op"],
        data=data if isinstance(data, dict) else {},
        field_meta=field_meta if isinstance(field_meta, dict) else {},
        client_id=row["client_id"],
        created_at_us=from_datetime(row["created_at"]),
        schema_version=row["schema_version"],
        actor=row["actor"],
        origin=row["origin"],
        space_id=row["space_id"],
        data_is_null=data is None,
    )
