"""The command `projector`. Each verb group has a file of its own and imports what it needs when it runs."""

from __future__ import annotations

import sys

import typer

from projector.cli import (
    cdc,
    demo,
    dev,
    dlq,
    effects,
    erase,
    explain,
    llm,
    rebuild,
    run,
    runs,
    servers,
    slot,
    status,
    verify,
    wait,
    zone,
)
from projector.errors import ProjectorError
from projector.logging import configure_command

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Streams an append-only change log into Kafka, keeps provable views of it, and plans missions from them.",
)
for group in (
    demo,
    dev,
    run,
    servers,
    status,
    slot,
    cdc,
    verify,
    rebuild,
    explain,
    dlq,
    runs,
    llm,
    effects,
    erase,
    wait,
    zone,
):
    group.register(app)


def main() -> None:
    """Runs the command line; an error that a person can act on is one line, not a traceback."""
    configure_command()
    try:
        app()
    except ProjectorError as error:
        print(f"error: {error.message}", file=sys.stderr)  # noqa: T201
        if error.remedy:
            print(f"  {error.remedy}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_status)
