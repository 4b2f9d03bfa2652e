"""`projector wait`: returns when the views show what was written, so that a script can write and then read."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Annotated

import typer

from projector.cli.output import console, json_line
from projector.cli.views import chosen
from projector.config import Settings, load_settings
from projector.errors import ConfigError

if TYPE_CHECKING:
    from projector.views.declared import View

_LSN = re.compile(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}")


def register(app: typer.Typer) -> None:
    app.command("wait")(wait)


def wait(
    lsn: Annotated[
        str | None, typer.Option(help="As pg_current_wal_insert_lsn() gives it; default: as it is now.")
    ] = None,
    views: Annotated[
        list[str] | None, typer.Option("--view", metavar="VIEW", help="May be given again; default: every view.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="For all views together.")] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Wait until the views have applied everything committed up to an LSN; exit 1 when time is up."""
    from projector.log.place import parse_lsn

    if lsn is not None and not _LSN.fullmatch(lsn):
        raise ConfigError(f"--lsn {lsn!r} is no LSN", "PostgreSQL writes one like this: 0/16B3748")
    wanted = None if lsn is None else parse_lsn(lsn)
    asyncio.run(_wait(load_settings(), chosen(views), wanted, timeout, as_json))


async def _wait(settings: Settings, views: list[View], lsn: int | None, timeout: float, as_json: bool) -> None:
    from projector.log.place import lsn_text
    from projector.sql.connection import connect
    from projector.views.wait import wait_until_applied, wait_until_published, wal_end

    started = time.monotonic()
    async with await connect(settings, "projector_reader") as conn:
        if lsn is None:
            lsn, _ = await wal_end(conn)
        mark = await wait_until_published(settings, conn, lsn, timeout)
        for view in views:
            await wait_until_applied(settings, conn, view, mark, started + timeout - time.monotonic())
            seconds = time.monotonic() - started
            if as_json:
                json_line(view=view.name, lsn=lsn_text(lsn), seconds=round(seconds, 3))
            else:
                console().print(f"{view.name:<10} has applied {lsn_text(lsn)} after {seconds:.3f} s")
