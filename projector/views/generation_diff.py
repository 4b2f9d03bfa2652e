"""The two generations of a view, held against each other byte for byte."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from projector.views.declared import PLACE, View
from projector.views.store import table_of

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


async def compare(
    conn: psycopg.AsyncConnection[Any], view: View, serving: int, *, without_places: bool = False
) -> ViewDifference:
    """Every row of both tables as text, so that nothing that merely counts as equal passes.

    `serving` is the number of the serving generation. `without_places` leaves out where in the log a row comes from,
    which a row folded from the table of the log cannot know.
    """
    keys = [sql.Identifier(name) for name in view.key_columns]
    left_out = PLACE if without_places else ()
    columns = sql.SQL(", ").join(sql.Identifier(name) for name in view.all_columns if name not in left_out)
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
        serving=sql.SQL("(select {} from {})").format(columns, table_of(view, serving)),
        rebuilt=sql.SQL("(select {} from {})").format(columns, table_of(view, 3 - serving)),
        limit=sql.Literal(EXAMPLES),
    )
    rows = await (await conn.execute(statement)).fetchall()
    total, differences = rows[0][:2]
    examples = tuple(
        RowDifference(tuple(key), _differing(serving_row or {}, rebuilt_row or {}))
        for _, _, key, serving_row, rebuilt_row in rows
        if differences
    )
    return ViewDifference(view.name, total, differences, examples)


def _differing(serving: dict[str, Any], rebuilt: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {
        name: (serving.get(name), rebuilt.get(name))
        for name in sorted(serving.keys() | rebuilt.keys())
        if serving.get(name) != rebuilt.get(name)
    }
