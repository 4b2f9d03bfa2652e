"""`projector migrate` prepares given servers, `projector doctor` checks them, `projector config` tells settings."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from projector.cli.output import console, json_line
from projector.config import Settings, load_settings
from projector.errors import CheckFailedError, Finding

if TYPE_CHECKING:
    from psycopg.errors import Diagnostic

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def register(app: typer.Typer) -> None:
    app.command("migrate")(migrate)
    app.command("doctor")(doctor)
    app.command("config")(config)


def migrate(
    login: Annotated[
        str, typer.Option(help="Also let this login work as the streams do (default: the user of the database URL).")
    ] = "",
    accept_drift: Annotated[
        bool, typer.Option("--accept-drift", help="Take the schema as it is, changes made by hand included.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Prepare the database: roles, schema mana_ai, index, replica identity and publication."""
    from projector.cdc.publication import prepare_source
    from projector.sql.connection import connect_admin
    from projector.sql.migrate import grant_login, stream_login
    from projector.sql.migrate import migrate as apply

    settings = load_settings()
    with connect_admin(settings) as conn:
        conn.add_notice_handler(_warn)
        applied = apply(conn, accept_drift=accept_drift)
        for refused in grant_login(conn, login or stream_login(settings)):
            typer.echo(f"warning: {refused.what}; to mend it: {refused.remedy}", err=True)
        prepare_source(conn, settings)
    if as_json:
        json_line(applied=[f"{migration.number:04}_{migration.name}" for migration in applied])
        return
    for migration in applied:
        console().print(f"applied {migration.number:04} {migration.name}")
    console().print("the database is up to date")


def _warn(notice: Diagnostic) -> None:
    """What a migration could not do, and goes on without."""
    if notice.severity_nonlocalized == "WARNING":
        typer.echo(f"warning: {notice.message_primary}", err=True)


def doctor(as_json: AsJson = False) -> None:
    """Check servers, privileges, publication, slot and topics; exit 1 when something is wrong."""
    from projector.cli.checks import check_all

    settings = load_settings()
    findings = asyncio.run(check_all(settings))
    errors = [finding for finding in findings if finding.severity == "error"]
    if as_json:
        for finding in findings:
            json_line(severity=finding.severity, what=finding.what, why=finding.why, remedy=finding.remedy)
        json_line(errors=len(errors), warnings=len(findings) - len(errors))
    else:
        _print(findings)
    if errors:
        raise CheckFailedError(f"{len(errors)} of the checks failed")


def _print(findings: list[Finding]) -> None:
    out = console()
    for finding in findings:
        colour = "red" if finding.severity == "error" else "yellow"
        out.print(f"[{colour}]{finding.severity:<8}[/]", end=" ")
        out.print(finding.what, markup=False, soft_wrap=True)
        out.print(
            f"         why: {finding.why}\n         fix: {finding.remedy}", markup=False, soft_wrap=True, style="dim"
        )
    if not findings:
        out.print("[green]all checks passed[/]")


def config(as_json: AsJson = False) -> None:
    """Print the settings in force, secrets masked."""
    settings = load_settings()
    rows = {f"PROJECTOR_{name.upper()}": _masked(settings, name) for name in type(settings).model_fields}
    if as_json:
        json_line(**rows)
        return
    for name, value in rows.items():
        console().print(f"{name:<40} {value}", markup=False)


def _masked(settings: Settings, name: str) -> str:
    from pydantic import SecretStr

    value = getattr(settings, name)
    if isinstance(value, SecretStr):
        return "(set)" if value.get_secret_value() else ""
    return ",".join(value) if isinstance(value, tuple) else "" if value is None else str(value)
