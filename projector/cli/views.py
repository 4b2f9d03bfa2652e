"""`projector rebuild` folds the views anew and compares."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from projector.cli.output import console, json_line
from projector.config import load_settings
from projector.errors import ConfigError, DifferencesError

if TYPE_CHECKING:
    from projector.views.declared import View
    from projector.views.rebuild import Progress

Names = Annotated[list[str] | None, typer.Argument(metavar="[VIEW]...", help="Default: every view.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def register(app: typer.Typer) -> None:
    app.command("rebuild")(rebuild)


def rebuild(views: Names = None, as_json: AsJson = False) -> None:
    """Fold each view anew from offset 0 into a shadow table and compare; exit 1 when a row differs."""
    from projector.views.rebuild import rebuild_and_compare

    settings = load_settings()
    total = 0
    differences = asyncio.run(
        rebuild_and_compare(settings, chosen(views), _report_json if as_json else _report_on_terminal)
    )
    for difference in differences:
        total += difference.differences
        if as_json:
            json_line(event="compared", **{name: getattr(difference, name) for name in difference.__slots__})
        else:
            console().print(f"{difference.view:<10} {difference.rows:>9} rows {difference.differences:>6} differences")
            for example in difference.examples:
                console().print(f"  {example}", markup=False)
    raise_for(total)


def chosen(names: list[str] | None) -> list[View]:
    """The views with these names, every view without any; raises ConfigError for a name that is none."""
    from projector.views.declared import VIEWS

    unknown = [name for name in names or () if name not in VIEWS]
    if unknown:
        raise ConfigError(f"there is no view {unknown[0]!r}", f"choose among: {', '.join(VIEWS)}")
    return [VIEWS[name] for name in names or VIEWS]


def _report_json(progress: Progress) -> None:
    json_line(
        event="progress",
        view=progress.view,
        events=progress.events,
        total=progress.total,
        events_per_s=round(progress.events_per_s),
        eta_s=progress.eta_s,
    )


def _report_on_terminal(progress: Progress) -> None:
    eta = "" if progress.eta_s is None else f", {progress.eta_s:.0f} s left"
    console().print(
        f"[dim]{progress.view:<10} {progress.events:>9} of {progress.total} records,"
        f" {progress.events_per_s:,.0f}/s{eta}[/]"
    )


def raise_for(differences: int) -> None:
    """The exit status of a command that compares."""
    if differences:
        raise DifferencesError(f"{differences} rows are not the fold of the log")
