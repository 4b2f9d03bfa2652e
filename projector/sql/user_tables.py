"""Tables that hold rows of users, each counted and cleared in the role of the part that it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, LiteralString

import orjson
import psycopg
from psycopg import sql

from projector.sql import query
from projector.sql.connection import Role

SCHEMA = "mana_ai"


@dataclass(frozen=True, slots=True)
class UserTable:
    """`role` may read and delete every user's rows; `condition` tells those of one.

    In `condition`, %(user)s is the user's id and %(member)s how a JSON object without blanks names it as its
    `user_id`. Both methods are to be called inside a transaction, whose role they change.
    """

    role: Role
    table: LiteralString
    condition: LiteralString = "user_id = %(user)s"

    @property
    def name(self) -> str:
        return f"{SCHEMA}.{self.table}"

    async def count(self, conn: psycopg.AsyncConnection[Any], user: str) -> int:
        await enter(conn, self.role)
        row = await (await conn.execute(self._statement("select count(*)"), _parameters(user))).fetchone()
        return 0 if row is None else int(row[0])

    async def erase(self, conn: psycopg.AsyncConnection[Any], user: str) -> None:
        await enter(conn, self.role)
        await conn.execute(self._statement("delete"), _parameters(user))

    def _statement(self, what: LiteralString) -> sql.Composed:
        return sql.SQL("{} from {} where {}").format(
            sql.SQL(what), sql.Identifier(SCHEMA, self.table), sql.SQL(self.condition)
        )


def _parameters(user: str) -> dict[str, str]:
    return {"user": user, "member": f'"user_id":{orjson.dumps(user).decode()}'}


async def enter(conn: psycopg.AsyncConnection[Any], role: Role) -> None:
    """The rest of the transaction, or what comes before the next such call, has the rights of `role`."""
    await conn.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))


def vacuum(conn: psycopg.Connection[Any], table: UserTable) -> bool:
    """Gives the room of deleted rows free and forgets the statistics about them; False when the login may not.

    `conn` is an autocommit connection of a login in no special role. Bytes of deleted rows stay in the free room
    until other rows are written there; only VACUUM FULL, which locks the table meanwhile, writes the file anew.
    """
    if conn.execute(query("erase/may_vacuum"), [SCHEMA, table.table]).fetchone() != (True,):
        return False
    if conn.info.server_version >= 180_000:
        conn.execute(query("erase/clear_statistics"), [table.name])
    conn.execute(sql.SQL("vacuum (analyze) {}").format(sql.Identifier(SCHEMA, table.table)))
    return True
