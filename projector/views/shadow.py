"""A second table of a view, filled beside the serving one, and compared with it byte for byte."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from projector.sql import query
from projector.views.declared import View
from projector.views.positions import Positions
from projector.views.store import SCHEMA

EXAMPLES = 20


@dataclass(frozen=True, slots=True)
class RowDifference:
    """One key with two rows. `columns` names what differs: (serving, rebuilt) by column; a missing row is None."""

    key: tuple[str, ...]
    columns: dict[str, tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class ViewDifference:
    """Outcome of a comparison: `rows` were compared, `differences` of them differ, some are shown."""

    view: str
    rows: int
    differences: int
    examples: tuple[RowDifference, ...]


class Shadow:
    """The table `<table>_rebuild_<id>`, owned by the engine's role, with positions of its own."""

    def __init__(self, view: View, cluster: str, rebuild_id: str) -> None:
        self.view = view
        self.table = f"{view.table}_rebuild_{rebuild_id}"
        self.positions = Positions(f"{view.name}@rebuild-{rebuild_id}", cluster)
        self._name = sql.Identifier(SCHEMA, self.table)
        self._serving = sql.Identifier(SCHEMA, view.table)

    async def create(self, conn: psycopg.AsyncConnection[Any]) -> None:
        await conn.execute(sql.SQL("create table {} (like {} including all)").format(self._name, self._serving))

    async def protect(self, conn: psycopg.AsyncConnection[Any]) -> None:
        """Row-level security as the serving table has it; after filling, since it concerns readers alone."""
        actions: tuple[LiteralString, ...] = ("enable", "force")
        for action in actions:
            await conn.execute(sql.SQL("alter table {} {} row level security").format(self._name, sql.SQL(action)))

    async def drop(self, conn: psycopg.AsyncConnection[Any]) -> None:
        async with conn.transaction():
            await conn.execute(sql.SQL("drop table if exists {}").format(self._name))
            await conn.execute(query("views/position_forget"), {"view": self.positions.name})

    async def compare(self, conn: psycopg.AsyncConnection[Any]) -> ViewDifference:
        """Every row of both tables as text, so that nothing that merely counts as equal passes."""
        keys = [sql.Identifier(name) for name in self.view.key_columns]
        statement = sql.SQL(
            "with joined as (select {keys}, serving, rebuilt from {serving} as serving"
            " full join {rebuilt} as rebuilt using ({using})),"
            " differing as (select * from joined where serving::text is distinct from rebuilt::text)"
            " select (select count(*) from joined), (select count(*) from differing),"
            " array[{keys}], to_jsonb(serving), to_jsonb(rebuilt)"
            " from (select) as one left join (select * from differing order by {keys} limit {limit}) as d on true"
        ).format(
            keys=sql.SQL(", ").join(keys),
            using=sql.SQL(", ").join(keys),
            serving=self._serving,
            rebuilt=self._name,
            limit=sql.Literal(EXAMPLES),
        )
        rows = await (await conn.execute(statement)).fetchall()
        total, differences = rows[0][:2]
        examples = tuple(
            RowDifference(tuple(key), _differing(serving or {}, rebuilt or {}))
            for _, _, key, serving, rebuilt in rows
            if differences
        )
        return ViewDifference(self.view.name, total, differences, examples)


def _differing(serving: dict[str, Any], rebuilt: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {
        name: (serving.get(name), rebuilt.get(name))
        for name in sorted(serving.keys() | rebuilt.keys())
        if serving.get(name) != rebuilt.get(name)
    }
