"""`projector zone`: the time zones of users whose missions are not meant in the zone of the setting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from projector.cli.output import console, json_line
from projector.cli.redact import printable
from projector.config import Settings, load_settings, time_zone
from projector.errors import ConfigError

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from projector.planner.ledger import Connection

User = Annotated[str, typer.Argument(metavar="USER", help="The user id, as sync_changes has it.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]

WHEN = "missions keep the time they have; what follows it is computed in the new zone"


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Say in which time zone a user's missions are meant.")
    group.command("set")(set_)
    group.command("show")(show)
    group.command("list")(list_)
    group.command("unset")(unset)
    app.add_typer(group, name="zone")


def set_(
    user: User,
    zone: Annotated[str, typer.Argument(metavar="ZONE", help="A name of the IANA database: America/New_York.")],
    as_json: AsJson = False,
) -> None:
    """Give a user a time zone of their own."""
    try:
        known = time_zone(zone)
    except ValueError as error:
        raise ConfigError(str(error), "write it as the IANA database does: Europe/Berlin, America/New_York") from None
    asyncio.run(_set(load_settings(), _named(user), known, as_json))


def show(user: User, as_json: AsJson = False) -> None:
    """Show the zone in which a user's missions are meant, and whether it is their own."""
    asyncio.run(_show(load_settings(), _named(user), as_json))


def list_(as_json: AsJson = False) -> None:
    """List the users with a time zone of their own; all others have the setting's."""
    asyncio.run(_list(load_settings(), as_json))


def unset(user: User, as_json: AsJson = False) -> None:
    """Take a user's own time zone away: the setting's holds again."""
    asyncio.run(_unset(load_settings(), _named(user), as_json))


def _named(user: str) -> str:
    from projector.planner.storable import storable

    if not user or storable(user) != user:
        raise ConfigError(
            f"USER {printable(user)!r} can be nobody's id" if user else "USER is empty",
            "name the user as sync_changes.user_id does",
        )
    return user


@asynccontextmanager
async def _planner(settings: Settings) -> AsyncIterator[Connection]:
    from projector.planner.ledger import check_ledger
    from projector.sql.connection import connect

    await check_ledger(settings)
    async with await connect(settings, "projector_planner") as conn:
        yield conn


async def _set(settings: Settings, user: str, zone: ZoneInfo, as_json: bool) -> None:
    from projector.planner.zones import set_zone

    async with _planner(settings) as conn:
        before = await set_zone(conn, user, zone)
    if as_json:
        json_line(user=user, zone=zone.key, own=True, before=before)
        return
    _print(f"{printable(user)}: {zone.key}, {_before(before, settings)}; {WHEN}")


async def _show(settings: Settings, user: str, as_json: bool) -> None:
    from projector.planner.zones import own_zone

    async with _planner(settings) as conn:
        own = await own_zone(conn, user)
    if as_json:
        json_line(user=user, zone=own or settings.timezone, own=own is not None)
        return
    _print(f"{printable(user)}: {own or f'{settings.timezone} (PROJECTOR_TIMEZONE)'}")


async def _list(settings: Settings, as_json: bool) -> None:
    from projector.planner.zones import zones

    async with _planner(settings) as conn:
        found = await zones(conn)
    for user, zone, set_at in found:
        if as_json:
            json_line(user=user, zone=zone, own=True, set_at=set_at.isoformat())
        else:
            _print(f"{zone:<32} since {set_at:%Y-%m-%d}  {printable(user)}")
    if not as_json:
        _print(f"{'all others' if found else 'everybody'}: {settings.timezone} (PROJECTOR_TIMEZONE)")


async def _unset(settings: Settings, user: str, as_json: bool) -> None:
    from projector.planner.zones import unset_zone

    async with _planner(settings) as conn:
        before = await unset_zone(conn, user)
    if as_json:
        json_line(user=user, zone=settings.timezone, own=False, before=before)
        return
    _print(f"{printable(user)}: {settings.timezone} (PROJECTOR_TIMEZONE), {_before(before, settings)}; {WHEN}")


def _before(own: str | None, settings: Settings) -> str:
    return f"before: {own or f'{settings.timezone} (PROJECTOR_TIMEZONE)'}"


def _print(line: str) -> None:
    console().print(line, markup=False, soft_wrap=True)
