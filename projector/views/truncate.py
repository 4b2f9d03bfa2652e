"""What a view does when the whole log was deleted: it reloads all that a partition has brought."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from projector.health.parts import moved
from projector.log.place import Place
from projector.log.topics import partition_of
from projector.sql import query
from projector.views.declared import IDENTITY, View
from projector.views.inbox import app_of
from projector.views.positions import Partition
from projector.views.reload import reload
from projector.views.store import SMALL_BATCH, Store

USERS_AT_ONCE = 1000


async def reload_partition(
    conn: psycopg.AsyncConnection[Any], store: Store, partition: Partition, width: int, place: Place
) -> None:
    """Holds every row of the partition's app and users against the log; inside a transaction, in bounded memory.

    `width` is the number of partitions of the topic. Rows of which the log holds nothing are removed; the others,
    written again since, are folded anew.
    """
    names = _names(store)
    all_users = sql.SQL(query("views/truncated_users")).format(**names)
    gone = sql.SQL(query("views/truncated_gone")).format(**names)
    left = sql.SQL(query("views/truncated_left")).format(**names)
    app = app_of(partition.topic)
    async with conn.cursor(name="truncated_users") as cursor:
        await cursor.execute(all_users, {"app": app})
        while found := await cursor.fetchmany(USERS_AT_ONCE):
            moved(store.view.name)
            users = [user for (user,) in found if partition_of(user.encode(), width) == partition.partition]
            parameters = {"app": app, "users": users}
            await conn.execute(gone, parameters)
            await _reload_left(conn, store, left, parameters, place)


async def _reload_left(
    conn: psycopg.AsyncConnection[Any], store: Store, left: sql.Composed, parameters: dict[str, Any], place: Place
) -> None:
    async with conn.cursor(name="truncated_left") as cursor:
        await cursor.execute(left, parameters)
        while identities := await cursor.fetchmany(SMALL_BATCH):
            moved(store.view.name)
            rows, gone = [], []
            for identity, held in (await store.load(conn, identities)).items():
                anew = await reload(conn, store.view.fold, identity, held, place)
                if anew is None:
                    gone.append(identity)
                else:
                    rows.append(anew.row(store.view, identity))
            await store.write(conn, rows, len(rows))
            await store.delete(conn, gone)


def _names(store: Store) -> dict[str, sql.Composable]:
    """The table, and the parts of a record's identity in it: columns, or what the view's one source fixes."""
    names: dict[str, sql.Composable] = {"target": store.target}
    for name, column, fixed in zip(IDENTITY, store.view.key, _fixed(store.view), strict=True):
        names[name] = sql.Literal(fixed) if column is None else sql.Identifier("kept", column)
    return names


def _fixed(view: View) -> tuple[str | None, ...]:
    return (None, *view.sources[0], None) if view.sources else (None,) * len(IDENTITY)
