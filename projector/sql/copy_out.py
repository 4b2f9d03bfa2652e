"""COPY TO STDOUT, as many rows at a time as have arrived.

psycopg hands out one row per trip through the event loop, which costs more than all that is done with the row.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import psycopg
from psycopg import errors
from psycopg.pq import ExecStatus

AT_ONCE_BYTES: Final = 1024 * 1024


async def copy_out(conn: psycopg.AsyncConnection[Any], statement: str) -> AsyncIterator[list[bytes]]:
    """Rows in COPY's text form, each with its newline; up to about a megabyte, or one larger row, at a time.

    `conn` is nobody else's meanwhile, and of no use when the caller leaves before the end. Raises psycopg.Error.
    """
    pgconn = conn.pgconn
    pgconn.send_query(statement.encode())
    while pgconn.flush():
        await asyncio.sleep(0)
    result = await _next_result(conn)
    if result is None or result.status != ExecStatus.COPY_OUT:
        raise errors.error_from_result(result, encoding="utf-8") if result else psycopg.OperationalError("no answer")
    rows: list[bytes] = []
    octets = 0
    while True:
        size, line = pgconn.get_copy_data(1)
        if size > 0:
            rows.append(bytes(line))
            octets += size
            if octets < AT_ONCE_BYTES:
                continue
        if rows:
            yield rows
            rows, octets = [], 0
        if size == 0:
            await _readable(pgconn.socket)
            pgconn.consume_input()
        elif size < 0:
            break
    while (result := await _next_result(conn)) is not None:
        if result.status == ExecStatus.FATAL_ERROR:
            raise errors.error_from_result(result, encoding="utf-8")


async def _next_result(conn: psycopg.AsyncConnection[Any]) -> Any:
    pgconn = conn.pgconn
    while pgconn.is_busy():
        await _readable(pgconn.socket)
        pgconn.consume_input()
    return pgconn.get_result()


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    loop.add_reader(descriptor, arrived.set)
    try:
        await arrived.wait()
    finally:
        loop.remove_reader(descriptor)
