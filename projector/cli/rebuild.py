"""`projector rebuild …` folds views anew beside what serves, compares, and lets the one take the other's place."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from projector.cli.output import console, json_line
from projector.cli.views import AsJson, Names, chosen, raise_for
from projector.config import Settings, load_settings
from projector.errors import ConfigError

if TYPE_CHECKING:
    from projector.views.generation_diff import ViewDifference
    from projector.views.generations import Generations
    from projector.views.progress import Progress, Report

Some = Annotated[list[str], typer.Argument(metavar="VIEW...")]

app = typer.Typer(
    no_args_is_help=True, help="Fold views anew from the beginning, while readers and the live views go on."
)


def register(parent: typer.Typer) -> None:
    parent.add_typer(app, name="rebuild")


@app.command()
def start(
    views: Names = None,
    yes: Annotated[bool, typer.Option("--yes", help="Give up what the spare generation holds.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one for each core.")] = None,
    source: Annotated[
        str | None, typer.Option(help="topics or log (sync_changes); default: the topics, if they are whole.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fill the spare generation of each view, as far as the serving one is; goes on where it was interrupted."""
    from projector import collector
    from projector.views import rebuild

    if source not in (None, "topics", "log"):
        raise ConfigError(f"--source {source} is neither topics nor log", "leave it out, or choose one of the two")
    settings = load_settings()
    collector.relax(collector.FILL)
    for view in chosen(views):
        done = asyncio.run(
            rebuild.start(settings, view, replace=yes, workers=workers, source=source, report=_report(as_json))
        )
        _show(done, as_json)


@app.command()
def status(views: Names = None, as_json: AsJson = False) -> None:
    """Show which generation of each view serves, and what the spare one holds."""
    from projector.sql.connection import connect
    from projector.views import generations

    async def read(settings: Settings) -> list[Generations]:
        async with await connect(settings, "projector_engine") as conn:
            return await generations.load(conn, chosen(views))

    for one in asyncio.run(read(load_settings())):
        _show(one, as_json)


@app.command()
def diff(views: Names = None, as_json: AsJson = False) -> None:
    """Bring the spare generation level with the serving one and compare all rows; exit 1 when one differs."""
    from projector.views import rebuild

    settings = load_settings()
    outcomes = [asyncio.run(rebuild.diff(settings, view, report=_report(as_json))) for view in chosen(views)]
    for outcome in outcomes:
        _compared(outcome, as_json)
    raise_for(sum(outcome.differences for outcome in outcomes))


@app.command()
def promote(
    views: Some,
    accept: Annotated[
        bool, typer.Option("--accept-differences", help="Promote although rows differ from those that serve.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Let the rebuilt generation serve, after a comparison; readers see it with their next statement."""
    from projector.views import rebuild

    settings = load_settings()
    for view in chosen(views):
        outcome = asyncio.run(rebuild.promote(settings, view, accept_differences=accept, report=_report(as_json)))
        _compared(outcome, as_json)
        _done(as_json, "promoted", view.name, "serves from its rebuilt rows; `projector rebuild rollback` undoes it")


@app.command()
def rollback(views: Some, as_json: AsJson = False) -> None:
    """Let the rows serve again that did before the last promotion, after they have caught up."""
    from projector.views import rebuild

    settings = load_settings()
    for view in chosen(views):
        asyncio.run(rebuild.rollback(settings, view, report=_report(as_json)))
        _done(as_json, "rolled-back", view.name, "serves from the rows that served before")


@app.command()
def cancel(
    views: Some,
    yes: Annotated[bool, typer.Option("--yes", help="Also drop what served before the last promotion.")] = False,
    as_json: AsJson = False,
) -> None:
    """Empty the spare generation: an unfinished rebuild, one that nobody promotes, or what served before."""
    from projector.views import rebuild

    settings = load_settings()
    for view in chosen(views):
        held = asyncio.run(rebuild.cancel(settings, view, drop_previous=yes))
        _done(as_json, "cancelled", view.name, "spare generation emptied" if held else "nothing to cancel")


def _done(as_json: bool, event: str, view: str, words: str) -> None:
    if as_json:
        json_line(event=event, view=view)
    else:
        console().print(f"{view:<10} {words}")


def _compared(outcome: ViewDifference, as_json: bool) -> None:
    if as_json:
        json_line(event="compared", **{name: getattr(outcome, name) for name in outcome.__slots__})
        return
    console().print(f"{outcome.view:<10} {outcome.rows:>9} rows {outcome.differences:>6} differences")
    for example in outcome.examples:
        for column, (serving, rebuilt) in example.columns.items():
            console().print(f"  {'/'.join(example.key)} {column}: serving {serving}, rebuilt {rebuilt}", markup=False)


def _show(one: Generations, as_json: bool) -> None:
    if as_json:
        json_line(event="status", **asdict(one))
        return
    held = one.state
    if one.state == "filling":
        held = f"filling, {one.events} of {one.total} records" + ("" if one.at_work else "; interrupted")
    elif one.state == "failed":
        held = f"failed: {one.error}"
    elif one.state == "ready":
        rate = f", {one.events / one.seconds:,.0f}/s" if one.events and one.seconds else ""
        held = f"ready, {one.events} records of {_SOURCES.get(one.source or '', '')}{rate}"
    elif one.state == "previous":
        held = f"what served before the promotion at {one.promoted_at:%Y-%m-%d %H:%M:%S} UTC"
    console().print(f"{one.view:<10} serving {one.serving}, spare {one.spare}: {held}", markup=False)


_SOURCES = {"topics": "the topics", "log": "sync_changes, since the topics lack their beginning"}


def _report(as_json: bool) -> Report:
    return _report_json if as_json else _report_on_terminal


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
