"""`projector verify` holds the views against the log."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from projector.cli.output import console, json_line
from projector.config import load_settings
from projector.errors import ConfigError, DifferencesError

if TYPE_CHECKING:
    from projector.views.declared import View

Names = Annotated[list[str] | None, typer.Argument(metavar="[VIEW]...", help="Default: every view.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def register(app: typer.Typer) -> None:
    app.command("verify")(verify)


def verify(views: Names = None, as_json: AsJson = False) -> None:
    """Compare each view with an independent fold of sync_changes in SQL; exit 1 when a row differs."""
    from projector.views.verify import verify as compare

    settings = load_settings()
    total = 0
    for view in chosen(views):
        report = asyncio.run(compare(settings, view))
        total += report.differences
        if as_json:
            json_line(view=view.name, rows=report.rows, differences=report.differences, examples=report.examples)
            continue
        console().print(f"{view.name:<10} {report.rows:>9} rows {report.differences:>6} differences")
        for example in report.examples:
            name = "/".join(example.identity)
            console().print(f"  {name} at {example.path}: row {example.serving}, log {example.log}", markup=False)
    raise_for(total)


def chosen(names: list[str] | None) -> list[View]:
    """The views with these names, every view without any; raises ConfigError for a name that is none."""
    from projector.views.declared import VIEWS

    unknown = [name for name in names or () if name not in VIEWS]
    if unknown:
        raise ConfigError(f"there is no view {unknown[0]!r}", f"choose among: {', '.join(VIEWS)}")
    return [VIEWS[name] for name in names or VIEWS]


def raise_for(differences: int) -> None:
    """Raises DifferencesError when there are any."""
    if differences:
        raise DifferencesError(f"{differences} rows are not the fold of the log")
