"""Ledgers of releases, kept as files: what one stored, for later ones to go on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

LEDGERS = Path(__file__).parents[1] / "data" / "ledgers"
TABLES = ("public.sync_changes", "mana_ai.mission_runs", "mana_ai.run_steps", "mana_ai.token_usage")
WRITABLE = """
    select array_agg(attname::text) from pg_attribute
    where attrelid = %s::regclass and attnum > 0 and not attisdropped and attgenerated = '' and attidentity <> 'a'
"""
NEWEST_MIGRATION = "select max(number) from mana_ai.schema_migrations"


def save(admin: psycopg.Connection, file: Path) -> None:
    """Writes the log and the ledger, with the number of the migration that they are of."""
    saved: dict[str, Any] = {"migration": _one(admin, NEWEST_MIGRATION)}
    for table in TABLES:
        columns = sql.SQL(", ").join(map(sql.Identifier, _one(admin, WRITABLE, table)))
        rows = sql.SQL("select row_to_json(r) from (select {} from {}) r").format(columns, _name(table))
        saved[table] = [row for (row,) in admin.execute(rows).fetchall()]
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(orjson.dumps(saved, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n")


def load(admin: psycopg.Connection, saved: dict[str, Any]) -> None:
    """Puts what was saved into a database that is migrated as far as that was."""
    for table in TABLES:
        columns = sql.SQL(", ").join(map(sql.Identifier, saved[table][0]))
        admin.execute(
            sql.SQL("insert into {} ({}) select {} from jsonb_populate_recordset(null::{}, %s)").format(
                _name(table), columns, columns, _name(table)
            ),
            [Jsonb(saved[table])],
        )


def read(file: Path) -> dict[str, Any]:
    saved: dict[str, Any] = orjson.loads(file.read_bytes())
    return saved


def _name(table: str) -> sql.Identifier:
    return sql.Identifier(*table.split("."))


def _one(admin: psycopg.Connection, text: Any, *parameters: object) -> Any:
    row = admin.execute(text, parameters or None).fetchone()
    assert row is not None
    return row[0]
