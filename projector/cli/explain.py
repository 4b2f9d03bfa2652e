"""`projector explain`: why a record looks as it does. `projector show`: the record, now or as it was."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from projector.cli.output import console, json_line
from projector.config import load_settings
from projector.errors import ConfigError

if TYPE_CHECKING:
    from projector.views.declared import Identity
    from projector.views.history import History
    from projector.views.scan import Progress

_KINDS = "mission USER MISSION_ID, agent USER AGENT_ID, or record USER APP TABLE RECORD_ID"
Kind = Annotated[str, typer.Argument(metavar="mission|agent|record", help="What KEY names.")]
Key = Annotated[list[str], typer.Argument(metavar="KEY...", help=f"{_KINDS}.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]


def register(app: typer.Typer) -> None:
    app.command("explain")(explain)
    app.command("show")(show)


def explain(
    kind: Kind,
    key: Key,
    only: Annotated[
        str | None, typer.Option("--field", metavar="PATH", help="This path and those below it: grant.expiresAt")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show for each field of a record which change won it, who wrote that, and what it beat.

    Reads the record's partition of the log, and writes nothing. It says too whether the serving row is the fold of
    these changes, and lists erased changes and dead letters.

    This prints one user's data, whoever you are: it reads as projector_engine, which sees all users. Encrypted values
    and wrapped keys are shown by their length alone.
    """
    from projector.cli.record_json import as_object
    from projector.cli.record_text import print_explanation
    from projector.views.explain import explain as take_apart

    history = asyncio.run(_history(identity_of(kind, key)))
    explanation = take_apart(history.entries)
    fields = [one for one in explanation.fields if only is None or _below(one.path, only)]
    if only is not None and not fields:
        raise ConfigError(f"no change of the record writes {only!r}", "leave --field out to see the paths there are")
    if as_json:
        json_line(**as_object(history, explanation, fields))
    else:
        print_explanation(console(), history, explanation, fields)


def show(
    kind: Kind,
    key: Key,
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of",
            metavar="TIME|OFFSET|LSN",
            help="2026-06-01T10:00:00Z: all that committed until then; 1234: all below this offset of the record's"
            " partition; 0/16B3748: all that committed up to this LSN of the newest source. Default: the serving row.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a record as its view serves it, or as it was.

    What was erased from the log is shown at no time, also before it was erased.

    This prints one user's data, whoever you are: it reads as projector_engine, which sees all users. Encrypted values
    and wrapped keys are shown by their length alone.
    """
    from projector.cli.record_json import past_object, row_object
    from projector.cli.record_text import print_object
    from projector.fold import derive, fold
    from projector.views.asof import parse_as_of, select
    from projector.views.history import read_serving

    identity = identity_of(kind, key)
    if as_of is None:
        found = row_object(identity, *asyncio.run(read_serving(load_settings(), identity)))
    else:
        moment = parse_as_of(as_of)
        history = asyncio.run(_history(identity))
        chosen = select(history.entries, moment, history.reach)
        record = derive(fold(entry.change for entry in chosen)) if chosen else None
        found = past_object(history, as_of, moment, chosen, record)
    if as_json:
        json_line(**found)
    else:
        print_object(console(), found)


def identity_of(kind: str, key: list[str]) -> Identity:
    """Mission and agent are records of one table each; raises ConfigError."""
    from projector.views.declared import AGENTS, MISSIONS

    views = {"mission": MISSIONS, "agent": AGENTS}
    if kind in views and len(key) == 2:
        app_id, table = views[kind].sources[0]
        return key[0], app_id, table, key[1]
    if kind == "record" and len(key) == 4:
        return key[0], key[1], key[2], key[3]
    raise ConfigError(f"{kind} {' '.join(key)} names no record", f"give {_KINDS}")


def _below(path: tuple[str, ...], wanted: str) -> bool:
    return path == (wanted,) or path[: wanted.count(".") + 1] == tuple(wanted.split("."))


async def _history(identity: Identity) -> History:
    from projector.views.history import read_history

    return await read_history(load_settings(), identity, _report)


def _report(progress: Progress) -> None:
    sys.stderr.write(f"read {progress.done:,} of {progress.total:,} records\n")
    sys.stderr.flush()
