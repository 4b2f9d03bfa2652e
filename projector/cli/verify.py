"""`projector verify` holds the views against the log."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from projector.cli.output import console, json_line
from projector.cli.views import AsJson, Names, chosen, raise_for
from projector.config import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from projector.views.compare import Digest
    from projector.views.declared import View
    from projector.views.differences import Difference
    from projector.views.verify import Progress, VerifyReport

RATE = 1_000
"""Rows of the log a second: a third of what a crowded server with two cores folded, so that others hardly notice."""
REPORT_S = 1.0


def register(app: typer.Typer) -> None:
    app.command("verify")(verify)


def verify(
    views: Names = None,
    rate: Annotated[float, typer.Option(min=0, help="Most rows of the log a second; 0: as fast as it goes.")] = RATE,
    settle: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="How long a page waits for changes that no topic has yet."),
    ] = 5.0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the last run was stopped.")] = False,
    digests: Annotated[
        bool, typer.Option("--digests", help="Also print the SHA-256 of each row and of its fold, one JSON a line.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare each view with an independent fold of sync_changes in SQL; exit 1 when a row differs."""
    from projector.views.verify import verify as compare

    settings = load_settings()
    total = 0
    for view in chosen(views):
        report = asyncio.run(
            compare(
                settings,
                view,
                settle_s=settle,
                rate=rate,
                resume=resume,
                progress=_every(REPORT_S, _report_json if as_json or digests else _report_on_terminal),
                digests=_print_digests(view) if digests else None,
            )
        )
        total += report.differences
        if as_json or digests:
            json_line(
                event="compared",
                view=view.name,
                rows=report.rows,
                differences=report.differences,
                examples=report.examples,
                skipped=report.skipped,
            )
        else:
            _print(report)
    raise_for(total)


def _print(report: VerifyReport) -> None:
    out = console()
    out.print(f"{report.view:<10} {report.rows:>9} rows {report.differences:>6} differences")
    for example in report.examples:
        _print_difference(example)
    if report.skipped:
        out.print(f"[dim]  not compared: {', '.join(report.skipped)} (a rebuild compares them)[/]")


def _print_difference(difference: Difference) -> None:
    name = escape("/".join(difference.identity))
    at = f" at {difference.path}" if difference.path else ""
    out = console()
    out.print(
        f"  {name}{escape(at)}: {difference.kind}, row {escape(difference.serving)}, log {escape(difference.log)}"
    )
    if difference.parting is not None:
        where = f", {difference.where}" if difference.where else ""
        parting = difference.parting
        out.print(f"    first at change {escape(parting.change_id)}: {parting.why}{escape(where)}")


def _print_digests(view: View) -> Callable[[Digest], None]:
    def report(digest: Digest) -> None:
        json_line(event="digest", view=view.name, identity=digest.identity, row=digest.row, log=digest.log)

    return report


def _every(seconds: float, report: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """Reports the first time, and then no more often than that."""
    import time

    reported = -seconds

    def tell(progress: Progress) -> None:
        nonlocal reported
        if time.monotonic() - reported >= seconds:
            reported = time.monotonic()
            report(progress)

    return tell


def _report_json(progress: Progress) -> None:
    json_line(
        event="progress",
        view=progress.view,
        changes=progress.changes,
        total=progress.total,
        rows=progress.rows,
        differences=progress.differences,
        changes_per_s=round(progress.changes_per_s),
        eta_s=progress.eta_s,
    )


def _report_on_terminal(progress: Progress) -> None:
    eta = "" if progress.eta_s is None else f", {progress.eta_s:.0f} s left"
    console().print(
        f"[dim]{progress.view:<10} {progress.changes:>9} of {progress.total} changes, {progress.rows} rows,"
        f" {progress.changes_per_s:,.0f} changes/s{eta}[/]"
    )
