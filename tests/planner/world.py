"""A database with users, missions and agents in it, as devices write them and views show them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from projector.config import Settings
from projector.log.change import decode
from projector.log.place import Place
from projector.planner.due import open_due_runs
from projector.planner.iteration import iso_ms
from projector.planner.ledger import ClaimedRun, Ledger, Pool
from projector.sql.connection import connect
from projector.views.declared import VIEWS
from projector.views.held import fold_anew
from projector.views.store import Store
from tests.fixtures.settings import Database

HOUR = timedelta(hours=1)
INSERT = """
    insert into sync_changes
        (id, app_id, table_name, record_id, user_id, op, data, field_meta, client_id, actor, origin, created_at)
    values (%s, %s, %s, %s, %s, %s, %s, %s, 'device-1', null, null, coalesce(%s, clock_timestamp()))
"""
LOG = """
    select app_id, table_name, record_id, user_id, json_build_object(
        'id', id, 'app_id', app_id, 'table_name', table_name, 'record_id', record_id, 'user_id', user_id, 'op', op,
        'data', data, 'field_meta', field_meta, 'client_id', client_id, 'created_at', created_at,
        'schema_version', schema_version, 'actor', actor, 'origin', origin, 'space_id', space_id)::text
    from sync_changes order by created_at, id
"""


class World:
    """`admin` sees everything; `pool` holds connections of projector_planner."""

    def __init__(self, settings: Settings, database: Database, pool: Pool) -> None:
        self.settings = settings
        self.database = database
        self.pool = pool
        self.admin = psycopg.connect(database.admin_url, autocommit=True)

    def close(self) -> None:
        self.admin.close()

    def change(
        self,
        user: str,
        table: str,
        record: str,
        op: str,
        data: dict[str, Any],
        *,
        stamp: datetime | None = None,
        created: datetime | None = None,
        app: str = "ai",
    ) -> None:
        """Writes a row as the sync server does: as the user, under row-level security."""
        meta = dict.fromkeys(data, iso_ms(stamp or datetime.now(UTC))) if op == "update" else {}
        with psycopg.connect(self.database.logins.sync) as conn:
            conn.execute("select set_config('app.current_user_id', %s, true)", [user])
            conn.execute(INSERT, [uuid4(), app, table, record, user, op, Jsonb(data), Jsonb(meta), created])

    async def mission(self, user: str = "u1", mission: str = "m1", *, seen: bool = True, **fields: Any) -> datetime:
        """A mission, due since an hour unless `nextRunAt` says otherwise; returns when it is due.

        With `seen` false the view does not know it yet.
        """
        due = datetime.now(UTC).replace(microsecond=0) - HOUR
        record = {
            "title": "Pflanzen",
            "objective": "Gieße die Pflanzen",
            "state": "active",
            "agentId": "a1",
            "cadence": {"kind": "interval", "everyMinutes": 60},
            "inputs": [],
            "iterations": [],
            "createdAt": iso_ms(due - HOUR),
            "nextRunAt": iso_ms(due),
        }
        self.change(user, "aiMissions", mission, "insert", record | fields)
        if seen:
            await self.catch_up()
        return due

    async def agent(self, user: str = "u1", agent: str = "a1", *, seen: bool = True, **fields: Any) -> None:
        """An agent that may do anything, one mission at a time."""
        record = {"name": "Mana", "role": "r", "state": "active", "maxConcurrentMissions": 1}
        self.change(user, "agents", agent, "insert", record | fields)
        if seen:
            await self.catch_up()

    async def record(self, app: str, table: str, record: str, *, user: str = "u1", **fields: Any) -> None:
        """A record that missions may link."""
        self.change(user, table, record, "insert", fields, app=app)
        await self.catch_up()

    async def edit(self, user: str = "u1", mission: str = "m1", *, seen: bool = True, **fields: Any) -> None:
        """A device's update of a mission; with `seen` false the view does not know it yet."""
        self.change(user, "aiMissions", mission, "update", fields)
        if seen:
            await self.catch_up()

    async def edit_agent(self, user: str = "u1", agent: str = "a1", **fields: Any) -> None:
        self.change(user, "agents", agent, "update", fields)
        await self.catch_up()

    async def catch_up(self) -> None:
        """Lets the views show the whole log."""
        rows = self.admin.execute(LOG).fetchall()
        conn = await connect(self.settings, "projector_engine")
        async with conn:
            for view in VIEWS.values():
                store = Store(view, 1)
                await store.prepare(conn)
                shown = []
                for app, table, record, user in dict.fromkeys(row[:4] for row in rows if view.takes(*row[:2])):
                    changes = [decode(row[4].encode()) for row in rows if row[:4] == (app, table, record, user)]
                    shown.append(fold_anew(view.fold, changes, Place(1, 1, 0)).row(view, (user, app, table, record)))
                async with conn.transaction():
                    await store.write(conn, shown, len(shown))

    async def open(self) -> int:
        """One pass of a scheduler."""
        async with self.pool.connection() as conn:
            return await open_due_runs(conn)

    def ledger(self, owner: str = "w1", *, lease_s: float = 60) -> Ledger:
        return Ledger(self.pool, owner, lease_s)

    async def claimed(self, owner: str = "w1", *, lease_s: float = 60) -> ClaimedRun:
        """Opens what is due and claims one run."""
        await self.open()
        (run,) = await self.ledger(owner, lease_s=lease_s).claim(1, per_user=10)
        return run

    def runs(self, **where: Any) -> list[dict[str, Any]]:
        """Rows of the ledger, oldest due time first."""
        cursor = self.admin.cursor(row_factory=dict_row)
        rows = cursor.execute("select * from mana_ai.mission_runs order by due_at, user_id, mission_id").fetchall()
        return [row for row in rows if all(row[name] == value for name, value in where.items())]

    def run(self, **where: Any) -> dict[str, Any]:
        (row,) = self.runs(**where)
        return row

    def ours(self) -> list[dict[str, Any]]:
        """What the write-back put into the log."""
        cursor = self.admin.cursor(row_factory=dict_row)
        return cursor.execute(
            "select * from sync_changes where client_id = 'mana-ai-runner' order by created_at"
        ).fetchall()

    def shift_clock_past(self, run_id: UUID) -> None:
        """Makes whatever the run waits for the past."""
        self.admin.execute(
            "update mana_ai.mission_runs set next_attempt_at = next_attempt_at - interval '2 days',"
            " lease_until = lease_until - interval '2 days' where run_id = %s",
            [run_id],
        )

    def messages(self) -> list[tuple[str, dict[str, Any]]]:
        """Logical messages committed since the slot was made: (prefix, content)."""
        rows = self.admin.execute(
            "select data from pg_logical_slot_get_changes('watch_' || current_database(), null, null)"
        ).fetchall()
        return [_message(text) for (text,) in rows if text.startswith("message:")]

    def watch_messages(self) -> None:
        """Makes the slot that `messages` reads; it is dropped with the database."""
        self.admin.execute("select pg_create_logical_replication_slot('watch_' || current_database(), 'test_decoding')")


def _message(text: str) -> tuple[str, dict[str, Any]]:
    # message: transactional: 1 prefix: mission.due, sz: 77 content:{...}
    prefix = text.partition("prefix: ")[2].partition(",")[0]
    return prefix, json.loads(text.partition("content:")[2])


def prefixes(messages: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    return [prefix for prefix, _ in messages]
