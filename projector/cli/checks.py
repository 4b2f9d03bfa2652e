"""All that `projector doctor` looks at, from the database to the model's endpoint."""

from __future__ import annotations

import psycopg
from psycopg import sql

from projector.cdc.checks import check_source
from projector.cdc.topics import check_topics
from projector.config import Settings
from projector.errors import Finding, ProjectorError
from projector.sql.connection import connect_streams, connect_sync
from projector.sql.migrate import STREAM_ROLES, missing


async def check_all(settings: Settings) -> list[Finding]:
    """Every finding, the database's first; a server that cannot be reached is one finding, not the end."""
    findings = check_database(settings)
    try:
        findings += await check_topics(settings)
    except ProjectorError as error:
        findings.append(_from_error(error))
    if not settings.llm_base_url:
        findings.append(
            Finding("warning", "PROJECTOR_LLM_BASE_URL is not set, so no mission is planned", "name an endpoint")
        )
    return findings


def check_database(settings: Settings) -> list[Finding]:
    """Login, roles, migrations, and the source of the log."""
    try:
        with connect_streams(settings) as conn:
            # Each check asks what only makes sense once the one before it found nothing.
            findings = _check_login(conn) or _check_migrations(conn)
        if findings:
            return findings
        with connect_sync(settings, "projector_cdc") as conn:
            return check_source(conn, settings)
    except ProjectorError as error:
        return [_from_error(error)]


def _check_login(conn: psycopg.Connection[tuple[object, ...]]) -> list[Finding]:
    findings = []
    row = conn.execute(
        "select rolsuper, rolbypassrls, current_user from pg_roles where rolname = current_user"
    ).fetchone()
    assert row is not None
    is_superuser, bypasses, login = row
    if is_superuser or bypasses:
        findings.append(
            Finding(
                "error",
                f"the login {login} of PROJECTOR_DATABASE_URL is not bound by row-level security",
                f"use a login without superuser and BYPASSRLS, then `projector migrate --login {login}`",
            )
        )
    for role in STREAM_ROLES:
        try:
            with conn.transaction(force_rollback=True):
                conn.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
        except (psycopg.errors.InvalidParameterValue, psycopg.errors.InsufficientPrivilege):
            findings.append(
                Finding("error", f"the login {login} cannot enter the role {role}", "run `projector migrate`")
            )
    return findings


def _check_migrations(conn: psycopg.Connection[tuple[object, ...]]) -> list[Finding]:
    with conn.transaction(force_rollback=True):
        conn.execute("set local role projector_reader")
        left = missing(conn)
    return [
        Finding("error", f"migration {migration.number:04} {migration.name} is not applied", "run `projector migrate`")
        for migration in left
    ]


def _from_error(error: ProjectorError) -> Finding:
    return Finding("error", error.message, error.remedy)
