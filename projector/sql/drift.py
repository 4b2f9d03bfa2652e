"""What became of the schema since it was last migrated: changes that were made by hand."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, LiteralString, NamedTuple

import psycopg

from projector.sql import query
from projector.sql.connection import STREAM_ROLES

_OBJECTS: LiteralString = "schema/objects"
_SET_ANEW = frozenset({"index", "constraint", "policy", "trigger", "grant"})
"""Kinds that are changed back by taking away what is there and making again what was there."""
_RELATIONS = frozenset({"table", "view"})


class Key(NamedTuple):
    """Names an object; `relation` is empty for what belongs to no table."""

    kind: str
    relation: str
    name: str


@dataclass(frozen=True, slots=True)
class Difference:
    """One object: the statement that makes it as the migrations did, and as it is now. None where there is none."""

    key: Key
    recorded: str | None
    found: str | None
    removal: str | None

    def __str__(self) -> str:
        what = f"{self.key.kind} {self.key.name}"
        if self.key.relation not in ("", self.key.name):
            what += f" of mana_ai.{self.key.relation}"
        return f"{what} {self.verb}"

    @property
    def verb(self) -> str:
        if self.recorded is None:
            return "was added by hand"
        return "is gone" if self.found is None else f"was changed by hand, it is now: {self.found}"

    @property
    def remedy(self) -> str:
        """What brings back the recorded state."""
        kind = self.key.kind
        if self.recorded is None:
            return self.removal or f"undo: {self.found}"
        if self.found is None:
            if kind in ("table", "function"):
                return f"restore it as the migrations made it: {self.recorded}"
            return self.recorded
        if kind in _SET_ANEW:
            return f"{self.removal}; {self.recorded}"
        if kind in ("column", "table", "function"):
            return f"change it back to: {self.recorded}"
        return self.recorded


def is_recorded(conn: psycopg.Connection[Any]) -> bool:
    """Whether the schema was recorded, and by this listing: another version of it cannot be compared with."""
    if conn.execute("select to_regclass('mana_ai.schema_objects')").fetchone() == (None,):
        return False
    by_this = "select from mana_ai.schema_objects where kind = 'listing' and definition = %s"
    return conn.execute(by_this, [_listing()]).fetchone() is not None


def record(conn: psycopg.Connection[Any]) -> None:
    """Takes what is there for what the migrations made; to be called in the transaction that migrates."""
    rows = [(*key, definition) for key, (definition, _) in _found(conn).items()]
    conn.execute("delete from mana_ai.schema_objects")
    with conn.cursor() as cursor:
        cursor.executemany(
            "insert into mana_ai.schema_objects (kind, relation, name, definition) values (%s, %s, %s, %s)",
            [*rows, ("listing", "", "sha256", _listing())],
        )


def differences(conn: psycopg.Connection[Any]) -> list[Difference]:
    """What differs from the recorded schema, each once: of a table that came or went, nothing below it.

    Reads the catalogue and needs no right but to read `schema_objects`.
    """
    rows = conn.execute(
        "select kind, relation, name, definition from mana_ai.schema_objects where kind <> 'listing'"
    ).fetchall()
    recorded = {Key(*key): definition for *key, definition in rows}
    found = _found(conn)
    differing = [
        Difference(key, recorded.get(key), *found.get(key, (None, None)))
        for key in sorted(recorded.keys() | found.keys())
        if recorded.get(key) != found.get(key, (None, None))[0]
    ]
    whole = {d.key.relation for d in differing if d.key.kind in _RELATIONS and None in (d.recorded, d.found)}
    return [d for d in differing if d.key.kind in _RELATIONS or d.key.relation not in whole]


def _found(conn: psycopg.Connection[Any]) -> dict[Key, tuple[str, str | None]]:
    """Key → (definition, removal) of everything there is now."""
    log = conn.execute("select to_regclass('sync_changes')::oid").fetchone()
    assert log is not None
    with conn.transaction(force_rollback=True):  # the setting goes with it
        conn.execute("set local search_path = pg_catalog")
        rows = conn.execute(query("schema/objects"), {"roles": list(STREAM_ROLES), "log": log[0]}).fetchall()
    return {Key(kind, relation, name): (definition, removal) for kind, relation, name, definition, removal in rows}


def _listing() -> str:
    return hashlib.sha256(query("schema/objects").encode()).hexdigest()
