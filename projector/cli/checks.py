"""All that `projector doctor` looks at, from the database to the model's endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import ApiVersionRequest
from psycopg import sql

from projector.cdc.broker_trial import try_broker
from projector.cdc.checks import check_recorded, check_source
from projector.cdc.guardian import Guardian
from projector.cdc.health import sample
from projector.cdc.topics import check_topics
from projector.config import Settings
from projector.errors import BrokerUnavailableError, Finding, ProjectorError
from projector.kafka import client_options
from projector.sql import drift
from projector.sql.connection import STREAM_ROLES, connect, connect_streams, connect_sync
from projector.sql.migrate import compare
from projector.views.status import read_brokers

PRODUCE = 0
PRODUCE_OF_3_7 = 10
"""The version of the Produce request that came with Apache Kafka 3.7, KIP-951: brokers do not tell their own."""
_PROBE_TIMEOUT_MS = 5000


async def check_all(settings: Settings) -> list[Finding]:
    """Every finding, the database's first; a server that cannot be reached is one finding, not the end."""
    findings = check_database(settings)
    database_is_fit = not any(finding.severity == "error" for finding in findings)
    try:
        if database_is_fit:
            findings += await _check_growth(settings)
        findings += await check_broker(settings)
        findings += await check_topics(settings)
        findings += await try_broker(settings)
        if database_is_fit:
            brokers = await read_brokers(settings)
            ends = {(p.topic, p.partition): end for p, end in brokers.ends.items()}
            with connect_sync(settings, "projector_cdc") as conn:
                findings += check_recorded(conn, settings, brokers.cluster, ends)
    except ProjectorError as error:
        findings.append(_from_error(error))
    if not settings.llm_base_url and not settings.llm_config:
        findings.append(
            Finding(
                "warning",
                "neither PROJECTOR_LLM_BASE_URL nor PROJECTOR_LLM_CONFIG is set",
                "no mission is planned without a model",
                "set PROJECTOR_LLM_BASE_URL=https://HOST/v1 (an OpenAI-compatible endpoint), or"
                " PROJECTOR_LLM_CONFIG=FILE.yaml (aliases, as docs/llm.md describes them)",
            )
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
            drifted = _check_drift(conn)
        with connect_sync(settings, "projector_cdc") as conn:
            return [*drifted, *check_source(conn, settings)]
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
                "the rows of one user could come into the sight of another, and everything would seem to work",
                "create role NAME login nosuperuser nobypassrls password '…'; then `projector migrate --login NAME`,"
                " and name it in PROJECTOR_DATABASE_URL",
            )
        )
    for role in STREAM_ROLES:
        try:
            with conn.transaction(force_rollback=True):
                conn.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
        except (psycopg.errors.InvalidParameterValue, psycopg.errors.InsufficientPrivilege):
            findings.append(
                Finding(
                    "error",
                    f"the login {login} cannot enter the role {role}",
                    "each part works in a role of its own, with the rights of that part alone",
                    "run `projector migrate`",
                )
            )
    return findings


def _check_migrations(conn: psycopg.Connection[tuple[object, ...]]) -> list[Finding]:
    with conn.transaction(force_rollback=True):
        conn.execute("set local role projector_reader")
        compared = compare(conn)
    return [
        *(
            Finding(
                "error",
                f"migration {migration} is not applied",
                "this program asks for tables, columns or rights that are not there yet",
                "run `projector migrate`",
            )
            for migration in compared.missing
        ),
        *(
            Finding(
                "error",
                f"migration {migration} is another one than was applied",
                "nobody can tell what the schema is made of: a migration is never edited once it was applied",
                "install the version of the program that migrated this database, or a later one",
            )
            for migration in compared.changed
        ),
        *(
            Finding(
                "error",
                f"migration {number:04} {name} was applied and is unknown to this version of the program",
                "a newer version migrated this database, and what it changed may not suit this one",
                "install the newer version here too",
            )
            for number, name in compared.unknown
        ),
    ]


def _check_drift(conn: psycopg.Connection[tuple[object, ...]]) -> list[Finding]:
    with conn.transaction(force_rollback=True):
        conn.execute("set local role projector_reader")
        if not drift.is_recorded(conn):
            return [
                Finding(
                    "warning",
                    "the schema was recorded by another version of the program",
                    "changes made by hand do not show before it is recorded anew",
                    "run `projector migrate`",
                )
            ]
        differing = drift.differences(conn)
    return [
        Finding(
            "error",
            str(difference),
            "the program, and the isolation of users from each other, rest on the schema as it was migrated",
            f"{difference.remedy}; or, where it is meant, `projector migrate --accept-drift`",
        )
        for difference in differing
    ]


async def _check_growth(settings: Settings) -> list[Finding]:
    """What the guardian would warn of now."""
    async with await connect(settings, "projector_cdc") as conn:
        health = await sample(conn, settings.slot_name)
    if health is None or health.lost:
        return []  # said by the checks of the slot
    held_by = "; ".join(holder.what for holder in health.holders) or "nothing that shows"
    remedy = "; ".join(holder.remedy for holder in health.holders) or "look again with `projector slot status`"
    return [
        Finding(
            "warning",
            f"slot {health.slot}: {what}; held by: {held_by}",
            "a slot that does not move fills the server's disk, or loses its WAL",
            remedy,
        )
        for what in Guardian(settings).alarms(health).values()
    ]


async def check_broker(settings: Settings) -> list[Finding]:
    """Raises BrokerUnavailableError, BrokerRefusedError or ConfigError when no broker can be asked."""
    options = client_options(settings)
    return [*_judge_broker(await _spoken(options.pop("bootstrap_servers"), options))]


async def _spoken(bootstrap_servers: str, options: dict[str, Any]) -> dict[int, int]:
    """The newest version of each request that the first broker to answer speaks, by the request's number."""
    for host, port, _ in AIOKafkaClient(bootstrap_servers=bootstrap_servers).hosts:
        try:
            connection = await create_conn(host, port, request_timeout_ms=_PROBE_TIMEOUT_MS, **options)
            try:
                answer = await connection.send(ApiVersionRequest())
            finally:
                connection.close()
        except (KafkaError, OSError, TimeoutError):
            continue  # the checks of the topics explain it
        return {key: newest for key, _, newest in answer.api_versions}
    return {}


def _judge_broker(spoken: dict[int, int]) -> Iterator[Finding]:
    if spoken and spoken.get(PRODUCE, 0) < PRODUCE_OF_3_7:
        yield Finding(
            "warning",
            f"the broker speaks Produce up to version {spoken.get(PRODUCE)}, as Apache Kafka before 3.7 does",
            "older brokers have not been tried with this program",
            "upgrade the cluster to Apache Kafka 3.7 or later",
        )


def _from_error(error: ProjectorError) -> Finding:
    what_for = "topics" if isinstance(error, BrokerUnavailableError) else "database"
    return Finding("error", error.message, f"without it nothing about the {what_for} can be checked", error.remedy)
