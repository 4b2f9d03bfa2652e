"""Reads the records that inputs name, as the user whose mission it is."""

from __future__ import annotations

from collections.abc import Sequence

from projector.errors import RowSecurityError
from projector.planner.inputs.refs import Ref
from projector.planner.inputs.resolve import Found
from projector.planner.ledger import Pool
from projector.sql import query


async def read_records(pool: Pool, user_id: str, wanted: Sequence[tuple[Ref, str]]) -> dict[Ref, Found]:
    """What the view shows now of the records named, each with its app; those of other users do not exist here.

    `pool` holds connections of projector_planner. Raises RowSecurityError when that role is not held to the user.
    """
    if not wanted:
        return {}
    async with pool.connection() as conn, conn.transaction():
        row = await (await conn.execute(query("planner/read_as"), {"user_id": user_id})).fetchone()
        if row is None or row[1] is not True:
            raise RowSecurityError("row-level security does not hold for the role projector_planner")
        cursor = await conn.execute(
            query("planner/input_records"),
            {
                "user_id": user_id,
                "apps": [app for _, app in wanted],
                "tables": [ref.table for ref, _ in wanted],
                "ids": [ref.id for ref, _ in wanted],
            },
        )
        return {wanted[place - 1][0]: Found(*found) for place, *found in await cursor.fetchall()}
