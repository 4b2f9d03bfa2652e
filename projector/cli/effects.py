"""`projector effects`: one switch for everything that leaves: calls of the model, and plans written into the log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from projector.cli.output import console, json_line
from projector.config import Settings, load_settings

if TYPE_CHECKING:
    from projector.planner.effects import Effects
    from projector.planner.ledger import Connection

T = TypeVar("T")
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Stop all calls of the model and all write-backs, or start them.")
    group.command("stop")(stop)
    group.command("start")(start)
    group.command("show")(show)
    app.add_typer(group, name="effects")


def stop(
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Stands on every run that is held meanwhile: owners can read it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Stop them at once, on all machines: what is due is held, and a call that is under way is the last of its run."""
    from projector.planner.effects import stop_effects

    _print(asyncio.run(effects_of(load_settings(), lambda conn: stop_effects(conn, reason))), as_json)


def start(as_json: AsJson = False) -> None:
    """Let them happen again; runs that were held meanwhile follow within seconds, from their stored answers."""
    from projector.planner.effects import start_effects

    _print(asyncio.run(effects_of(load_settings(), start_effects)), as_json)


def show(as_json: AsJson = False) -> None:
    """Show whether they happen, what stops them, and the tokens spent today."""
    _print(asyncio.run(effects_of(load_settings())), as_json)


async def effects_of(settings: Settings, change: Callable[[Connection], Awaitable[None]] | None = None) -> Effects:
    """How effects stand, after `change`. Raises DatabaseUnavailableError or NotMigratedError."""
    from projector.planner.effects import read_effects

    async def ask(conn: Connection) -> Effects:
        if change is not None:
            await change(conn)
        return await read_effects(conn, settings.max_tokens_per_day)

    return await asked_as_planner(settings, ask)


async def asked_as_planner(settings: Settings, question: Callable[[Connection], Awaitable[T]]) -> T:
    """Asks the database as projector_planner. Raises DatabaseUnavailableError or NotMigratedError."""
    import psycopg

    from projector.errors import NotMigratedError
    from projector.sql.connection import connect

    async with await connect(settings, "projector_planner") as conn:
        try:
            return await question(conn)
        except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege) as error:
            raise NotMigratedError(f"the database is not up to date: {error.diag.message_primary}") from error


def effects_text(effects: Effects) -> tuple[str, dict[str, Any]]:
    """The same for people, and as fields for scripts."""
    cap = f"of {effects.cap:,}" if effects.cap else "without a cap"
    spent = f"{effects.spent:,} tokens spent today (UTC), {cap}"
    state = "happen" if effects.verdict is None else effects.verdict.reason.removeprefix("effects are ")
    return f"{state}; {spent}", {
        "stopped_by": effects.cause,
        "stopped_at": effects.stopped_at,
        "reason": effects.reason,
        "tokens_today": effects.spent,
        "max_tokens_per_day": effects.cap,
    }


def _print(effects: Effects, as_json: bool) -> None:
    text, fields = effects_text(effects)
    if as_json:
        json_line(**fields)
    else:
        console().print(f"effects {text}", markup=False, soft_wrap=True)
