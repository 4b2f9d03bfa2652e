"""`projector slot`: how the replication slot is, and to create it ahead of the first start or to drop it for good."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from projector.cli.output import console, json_line
from projector.config import Settings, load_settings
from projector.errors import ConfigError, SlotUseError

if TYPE_CHECKING:
    import psycopg

    from projector.cdc.health import Health

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]

BETWEEN_LOOKS_S = 1.0
MEANING = (
    "Dropping it lets the server remove the WAL that it kept. Nothing is lost: what commits until the next start of"
    " `projector run cdc` is then published out of the table, which reads sync_changes once."
)


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Look at the replication slot, create it, or drop it.")
    group.command("status")(status)
    group.command("create")(create)
    group.command("drop")(drop)
    app.add_typer(group, name="slot")


def status(as_json: AsJson = False) -> None:
    """Show what WAL the slot keeps, how long that can go on, and what holds it back; exit 1 without a sound slot."""
    settings = load_settings()
    health = asyncio.run(_look_twice(settings))
    if health is None:
        if as_json:
            json_line(slot=None)
        raise SlotUseError(
            f"there is no replication slot {settings.slot_name}",
            "`projector run cdc` or `projector slot create` makes it",
        )
    if as_json:
        from projector.cli.status import health_fields

        json_line(**health_fields(health))
    else:
        _print(health)
    if health.lost:
        raise SlotUseError(
            f"the slot was invalidated ({health.invalidation})",
            "start `projector run cdc`: it makes a new slot and publishes the gap out of the table",
        )


def create() -> None:
    """Create the slot (and the topics) as the first start of the stream does, so that it misses nothing from now on.

    Rows that are there already are published out of the table when `projector run cdc` starts.
    """
    from projector import logging

    settings = load_settings()
    settings.require_kafka()
    logging.configure(settings, "slot")
    generation = asyncio.run(_create(settings))
    console().print(f"slot {settings.slot_name} is ready, source generation {generation}")


def drop(
    yes: Annotated[bool, typer.Option("--yes", help="Really drop it.")] = False,
) -> None:
    """Drop the slot. The server then keeps no WAL for it, and the next start publishes the gap out of the table."""
    settings = load_settings()
    health = asyncio.run(_look_twice(settings, looks=1))
    name = settings.slot_name
    if health is None:
        raise SlotUseError(
            f"there is no replication slot {name}", "nothing is to be dropped; check PROJECTOR_SLOT_NAME"
        )
    if health.active_pid is not None:
        raise SlotUseError(
            f"the slot {name} is in use by {health.reader}(pid {health.active_pid})",
            "stop that process first: it is `projector run cdc`, unless another program took the slot",
        )
    if not yes:
        raise ConfigError(f"the slot {name} was not dropped: --yes is missing", MEANING)
    asyncio.run(_drop(settings))
    console().print(f"slot {name} dropped. {MEANING}", soft_wrap=True)


async def _look_twice(settings: Settings, looks: int = 2) -> Health | None:
    from projector.cdc.health import sample
    from projector.sql.connection import connect

    async with await connect(settings, "projector_cdc") as conn:
        health = await sample(conn, settings.slot_name)
        for _ in range(looks - 1):
            if health is not None:
                await asyncio.sleep(BETWEEN_LOOKS_S)
                health = await sample(conn, settings.slot_name, health)
        return health


async def _create(settings: Settings) -> int:
    from projector.cdc.publication import require_publication
    from projector.cdc.replication import Replication
    from projector.cdc.source import ensure_source
    from projector.cdc.tail import read_tails
    from projector.cdc.topics import ensure_topics

    await ensure_topics(settings)
    async with _as_the_writer(settings) as conn:
        published = await require_publication(conn, settings)
        replication = await Replication.connect(settings)
        try:
            source = await ensure_source(conn, replication, settings, published, await read_tails(settings))
        finally:
            await replication.close()
    return source.generation


async def _drop(settings: Settings) -> None:
    from psycopg import errors, sql

    from projector.cdc.replication import Replication

    async with _as_the_writer(settings):
        replication = await Replication.connect(settings)
        try:
            drop = sql.SQL("DROP_REPLICATION_SLOT {}").format(sql.Identifier(settings.slot_name))
            await replication.conn.execute(drop)
        except errors.ObjectInUse as error:
            raise SlotUseError(f"the slot was not dropped: {error.diag.message_primary}") from error
        except errors.UndefinedObject as error:
            raise SlotUseError(f"somebody else dropped it: {error.diag.message_primary}") from error
        finally:
            await replication.close()


@asynccontextmanager
async def _as_the_writer(settings: Settings) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A session that keeps the stream from starting; raises SlotUseError while one is at work."""
    from projector.cdc.health import sample
    from projector.sql import query
    from projector.sql.connection import connect

    async with await connect(settings, "projector_cdc") as conn:
        row = await (await conn.execute(query("cdc/writer_lock"), [settings.slot_name])).fetchone()
        if row is None or not row[0]:
            health = await sample(conn, settings.slot_name)
            pid = health.writer_pid if health else None
            raise SlotUseError(
                "a stream is at work"
                if pid is None
                else f"a stream is at work: pid {pid} of the server is its session",
                "stop `projector run cdc` first, wherever it runs",
            )
        yield conn


def _print(health: Health) -> None:
    from projector.cdc.health import duration, size
    from projector.log.place import lsn_text

    left = health.seconds_to_invalidation
    rows = {
        "state": f"{health.wal_status or 'without WAL'}, "
        + ("nobody reads it" if health.active_pid is None else f"read by {health.reader}(pid {health.active_pid})"),
        "server": f"{lsn_text(health.lsn)}, writes {size(health.rate or 0)}/s",
        "confirmed": f"{lsn_text(health.confirmed)}, {size(health.lag_bytes)} behind",
        "keeps WAL from": f"{lsn_text(health.restart)}, {size(health.retained_bytes)}",
        "may keep": "as much as there is (max_slot_wal_keep_size is unlimited)"
        if health.safe_bytes is None
        else f"{size(max(0, health.safe_bytes))} more",
        "lasts": "without end at the present rate" if left is None else f"{duration(left)} at the present rate",
    }
    out = console()
    out.print(f"replication slot {health.slot}", markup=False)
    for name, text in rows.items():
        out.print(f"  {name:<15} {text}", markup=False, soft_wrap=True)
    for holder in health.holders:
        out.print(f"  held back: {holder.what}\n             {holder.remedy}", markup=False, soft_wrap=True)
