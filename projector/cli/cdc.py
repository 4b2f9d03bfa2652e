"""`projector cdc republish`: has the change stream fill topics again from sync_changes."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from projector.cli.output import console, json_line
from projector.config import Settings, load_settings
from projector.errors import ConfigError

POLL_S = 1.0
MEANING = (
    "`projector run cdc` then reads which changes the topics hold, publishes the rows of sync_changes that they lack,"
    " and tells of those that are gone from there as erased; it begins a new session for that, and streams on behind it"
)


def register(app: typer.Typer) -> None:
    # A callback makes it a group although it has one command.
    group = typer.Typer(no_args_is_help=True, help="The change stream's topics.", callback=lambda: None)
    group.command("republish")(republish)
    app.add_typer(group, name="cdc")


def republish(
    apps: Annotated[
        list[str] | None, typer.Option("--app", metavar="APP", help="May be given again; default: every app.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Really ask for it.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Show how far it is until it is done.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Publish what the topics lack of sync_changes, by change id, and tell of what it no longer holds."""
    settings = load_settings()
    wanted = list(dict.fromkeys(apps or settings.apps))
    unknown = [app for app in wanted if app not in settings.apps]
    if unknown:
        raise ConfigError(f"app {unknown[0]!r} is not published", f"choose among: {', '.join(settings.apps)}")
    if not yes:
        raise ConfigError(f"nothing was asked for apps {', '.join(wanted)}: --yes is missing", MEANING)
    asyncio.run(_republish(settings, wanted, wait, as_json))


async def _republish(settings: Settings, apps: list[str], wait: bool, as_json: bool) -> None:
    from projector.cdc.fill_progress import in_words
    from projector.cdc.republish import ask, progress
    from projector.sql.connection import connect

    async with await connect(settings, "projector_cdc") as conn:
        await ask(conn, apps)
        if as_json:
            json_line(event="asked", apps=apps)
        else:
            console().print(f"asked for apps {', '.join(apps)}: {MEANING}", markup=False, soft_wrap=True)
        while wait:
            state = await progress(conn, apps)
            if as_json:
                json_line(event="done" if state.finished else "progress", **state._asdict())
            elif state.finished:
                console().print("done")
            elif state.step is not None:
                console().print(in_words(state.step, state.done, state.total), markup=False)
            else:
                console().print("waiting for `projector run cdc` to begin", markup=False)
            if state.finished:
                return
            await asyncio.sleep(POLL_S)
