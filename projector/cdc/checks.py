"""What `projector doctor` asks of the source: every reason why the stream could not run, or would run badly.

Nothing stays changed. Capability is tried rather than read from role flags, which managed servers do not show: a
temporary slot is created and dropped, and a row is read as the stream reads it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import conninfo, errors, sql

from projector.cdc.health import duration
from projector.cdc.log_checks import check_log
from projector.cdc.server import PLUGIN, Slot
from projector.cdc.topics import remake
from projector.config import Settings
from projector.errors import Finding
from projector.sql import query
from projector.sql.connection import complete

OLDEST_VERSION: Final = 150_000
NEWEST_VERSION: Final = 18
CLOCK_LIMIT_S: Final = 1.0
SHORT_IDLE_TIMEOUT_S: Final = 24 * 3600.0
_SLOT_TIMEOUT_MS: Final = 5000
_MORE: Final = 5
_KEEP_WAL: Final = "alter system set max_slot_wal_keep_size = '64GB', then select pg_reload_conf()"
_KEEP_IDLE: Final = "alter system set idle_replication_slot_timeout = '3d', then select pg_reload_conf()"
_HEALS: Final = "what committed since is not in the topics; the next start of the stream publishes it out of the table"


class _Facts(NamedTuple):
    version: int
    wal_level: str
    max_slot_wal_keep_size: str
    max_replication_slots: int
    used_slots: int
    max_wal_senders: int
    encoding: str
    log_exists: bool
    wal_sender_timeout: float
    idle_slot_timeout: float
    sees_transactions: bool
    in_recovery: bool


def check_source(conn: psycopg.Connection[Any], settings: Settings) -> list[Finding]:
    """Looks through `conn`, an autocommit session that may enter projector_cdc, and the replication login.

    Returns what is wrong, the cause before its consequences; nothing when the stream can run.
    """
    facts = _Facts(*(conn.execute(query("cdc/facts")).fetchone() or ()))
    found = [*_server(facts), *check_clock(conn)]
    if not facts.log_exists:
        found.append(
            Finding(
                "error",
                "this database has no table sync_changes",
                "it is the log that everything here is made of",
                "point PROJECTOR_DATABASE_URL at the sync server's database, after its first start",
            )
        )
        return found
    slot = Slot.of(conn.execute(query("cdc/slot"), [settings.slot_name]).fetchone())
    found += _replication(settings, facts, slot_exists=slot is not None)
    found += check_log(conn, settings)
    found += _slot(conn, settings, slot)
    return found


def _server(facts: _Facts) -> Iterator[Finding]:
    major = facts.version // 10_000
    if facts.version < OLDEST_VERSION:
        yield Finding(
            "error",
            f"the server is PostgreSQL {major}",
            "publications with row filters, which keep other apps out of the topics, came with 15",
            "with the binaries of PostgreSQL 15 or later as the new ones:"
            " pg_upgrade -b OLD_BIN -B NEW_BIN -d OLD_DATA -D NEW_DATA",
        )
    elif major > NEWEST_VERSION:
        yield Finding(
            "warning",
            f"the server is PostgreSQL {major}",
            f"versions after {NEWEST_VERSION} have not been tried with this program",
            "look for a newer release of projector before you rely on it",
        )
    if facts.in_recovery:
        yield Finding(
            "error",
            "the server is a standby",
            "the stream keeps its own books in the database, which must be writable",
            "point PROJECTOR_DATABASE_URL at the primary, or promote this one: select pg_promote()",
        )
    if facts.wal_level != "logical":
        yield Finding(
            "error",
            f"the server has wal_level={facts.wal_level}",
            "the WAL then lacks what decoding needs, so there can be no slot",
            "alter system set wal_level = 'logical', then restart the server",
        )
    if facts.encoding != "UTF8":
        yield Finding(
            "error",
            f"the database is encoded in {facts.encoding}",
            "records are JSON, which is UTF-8, and are sent on as they come",
            "create database NAME template template0 encoding 'UTF8' locale 'C';"
            " then pg_dump --encoding=UTF8 OLD_URL | psql NEW_URL, and point PROJECTOR_DATABASE_URL at the new one",
        )
    yield from _server_settings(facts)


def _server_settings(facts: _Facts) -> Iterator[Finding]:
    if facts.max_slot_wal_keep_size == "-1":
        yield Finding(
            "warning",
            "max_slot_wal_keep_size is unlimited",
            "a stream that stays away then fills the server's disk; a slot that is lost instead heals by itself",
            f"{_KEEP_WAL} (what the disk can spare)",
        )
    if facts.wal_sender_timeout == 0:
        yield Finding(
            "warning",
            "wal_sender_timeout is 0",
            "the server never gives up a reader whose machine died, so its slot stays taken and nobody can go on",
            "alter system set wal_sender_timeout = '60s', then select pg_reload_conf()",
        )
    if 0 < facts.idle_slot_timeout < SHORT_IDLE_TIMEOUT_S:
        yield Finding(
            "warning",
            f"idle_replication_slot_timeout is {duration(facts.idle_slot_timeout)}",
            "a stream that is stopped for longer loses its slot, and publishes the gap out of the table",
            f"{_KEEP_IDLE} (0: never)",
        )
    if not facts.sees_transactions:
        yield Finding(
            "warning",
            "projector_cdc lacks pg_read_all_stats",
            "an alarm about the slot then names the transaction that holds it, but not its age and state",
            "alter role projector_cdc inherit; grant pg_read_all_stats to projector_cdc; (as a superuser)",
        )


def check_clock(conn: psycopg.Connection[Any], clock: Callable[[], float] = time.time) -> list[Finding]:
    """Compares this machine's clock with the database's, as exactly as the time of one query allows."""
    asked = clock()
    row = conn.execute("select extract(epoch from clock_timestamp())::float8").fetchone()
    answered = clock()
    assert row is not None
    return judge_clock("the database", row[0], asked, answered)


def judge_clock(whose: str, told: float, asked: float, answered: float) -> list[Finding]:
    """Compares what `whose` clock told with this machine's before and after; all in seconds since 1970."""
    ahead = told - (asked + answered) / 2
    if abs(ahead) - (answered - asked) / 2 <= CLOCK_LIMIT_S:
        return []
    return [
        Finding(
            "warning",
            f"this machine's clock is {abs(ahead):.1f} s {'behind' if ahead > 0 else 'ahead of'} {whose}'s",
            "metrics that subtract a commit's time from now are wrong by as much, and lines of the logs do not line up;"
            " positions and staleness are right",
            "let NTP set both clocks: timedatectl set-ntp true",
        )
    ]


def _replication(settings: Settings, facts: _Facts, *, slot_exists: bool) -> Iterator[Finding]:
    """Opens a replication session and makes a slot that lives no longer than it."""
    try:
        url = complete(
            settings.require_replication(),
            replication="database",
            # A slot is ready when the transactions of that moment have ended; a check does not wait for them.
            options=f"-c lock_timeout={_SLOT_TIMEOUT_MS}",
        )
        with psycopg.connect(url, autocommit=True) as session:
            if facts.wal_level == "logical" and not facts.in_recovery:
                name = sql.Identifier(f"{settings.slot_name[:40]}_doctor_{os.getpid()}")
                create = sql.SQL("CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput (SNAPSHOT 'nothing')")
                session.execute(create.format(name))
                session.execute(sql.SQL("DROP_REPLICATION_SLOT {}").format(name))
    except errors.InsufficientPrivilege as error:
        yield _may_not(settings, error.diag.message_primary or "")
    except errors.ConfigurationLimitExceeded:
        yield Finding(
            "warning" if slot_exists else "error",
            f"no replication slot is free: {facts.used_slots} of max_replication_slots are in use",
            "the stream needs one at its first start, and one more for a moment when an app is added",
            "drop one of `table pg_replication_slots` that nobody needs: select pg_drop_replication_slot('NAME');"
            f" or alter system set max_replication_slots = {facts.max_replication_slots + _MORE},"
            " then restart the server",
        )
    except errors.LockNotAvailable:
        yield Finding(
            "warning",
            f"a new slot is not ready within {_SLOT_TIMEOUT_MS // 1000} s: a transaction that writes is open",
            "the first start, and a slot that has to be made anew, wait until it ends",
            "select pid, usename, state, xact_start from pg_stat_activity where backend_xid is not null"
            " order by xact_start; then end it: select pg_terminate_backend(pid)",
        )
    except psycopg.OperationalError as error:
        text = " ".join(str(error).split())
        if "permission denied" in text or "must be superuser" in text:
            yield _may_not(settings, text)
        else:
            yield Finding(
                "error",
                f"no replication connection: {text}",
                "the stream reads the WAL through one",
                "correct PROJECTOR_REPLICATION_URL; or let the login in by a line of pg_hba.conf,"
                " `host DATABASE LOGIN ADDRESS scram-sha-256`, then select pg_reload_conf(); or alter system set"
                f" max_wal_senders = {facts.max_wal_senders + _MORE}, then restart the server",
            )


def _may_not(settings: Settings, text: str) -> Finding:
    user = conninfo.conninfo_to_dict(settings.require_replication()).get("user") or "projector"
    return Finding(
        "error",
        f"the login {user} may not replicate: {text}",
        "the stream reads the WAL through a replication slot, which it creates itself",
        f"alter role {sql.Identifier(str(user)).as_string(None)} replication",
    )


def _slot(conn: psycopg.Connection[Any], settings: Settings, slot: Slot | None) -> Iterator[Finding]:
    name = settings.slot_name
    known = conn.execute(query("cdc/known_source")).fetchone()
    if known is not None and known[1] != known[2]:
        yield Finding(
            "error",
            f"this is server {known[2]}, the topics hold the log of {known[1]}",
            "LSNs of different servers cannot be compared, so the stream refuses to go on",
            "point PROJECTOR_DATABASE_URL at the server of before; or, if this one is to be followed from now on,"
            " run `projector run cdc --adopt` once",
        )
    if known is not None and known[0] != name:
        yield Finding(
            "error",
            f"the stream was started with the slot {known[0]}, PROJECTOR_SLOT_NAME says {name}",
            "a second slot would stand beside the first, which goes on to keep WAL",
            f"set PROJECTOR_SLOT_NAME={known[0]}",
        )
    elif slot is None and known is not None:
        yield Finding(
            "warning",
            f"the replication slot {name} was dropped",
            _HEALS,
            "start `projector run cdc`, and find out who dropped it",
        )
    elif slot is None:
        yield Finding(
            "warning",
            f"there is no replication slot {name} yet",
            "nothing is streamed before it exists; what is in the table by then is published out of the table",
            "start `projector run cdc`, which creates it, or run `projector slot create`",
        )
    if slot is None:
        return
    if slot.plugin != PLUGIN or not slot.ours:
        yield Finding(
            "error",
            f"the replication slot {name} belongs to another database or plugin ({slot.plugin})",
            "reading it would take the changes away from its owner",
            f"set PROJECTOR_SLOT_NAME={name[:61]}_2",
        )
    elif known is None:
        yield Finding(
            "error",
            f"a replication slot {name} exists that this installation did not create",
            "nobody knows from where on it brings the log, so the stream refuses it",
            f"set PROJECTOR_SLOT_NAME={name[:61]}_2, or drop it: select pg_drop_replication_slot('{name}')",
        )
    elif slot.lost:
        yield Finding(
            "warning",
            f"the replication slot {name} was invalidated ({slot.invalidation or 'wal_removed'})",
            _HEALS,
            f"start `projector run cdc`; {_against(slot.invalidation or 'wal_removed')}",
        )
    elif slot.wal_status == "unreserved":
        yield Finding(
            "warning",
            f"the replication slot {name} is about to lose its WAL",
            "then the stream has to publish the gap out of the table, which takes longer",
            f"start `projector run cdc`, or {_KEEP_WAL}; see `projector slot status`",
        )


def _against(invalidation: str) -> str:
    """How to keep a slot from being lost in this way again."""
    return {
        "wal_removed": f"{_KEEP_WAL} (the WAL of the longest time that it may be away)",
        "idle_timeout": f"{_KEEP_IDLE} (the longest time that it may be away)",
        "wal_level_insufficient": "alter system set wal_level = 'logical', then restart the server",
        "rows_removed": "alter system set hot_standby_feedback = on, then select pg_reload_conf(), at the standby",
    }.get(invalidation, "the server's log of that moment tells more")


def check_recorded(
    conn: psycopg.Connection[Any], settings: Settings, cluster: str, ends: Mapping[tuple[str, int], int]
) -> Iterator[Finding]:
    """Holds the topics against what the stream and the views have written down about them.

    `ends` are next offsets by (topic, partition) of `cluster`. A topic that does not exist is not in question here.
    """
    counts: dict[str, int] = {}
    for topic, _ in ends:
        counts[topic] = counts.get(topic, 0) + 1
    for topic, partition, recorded, source in conn.execute(query("cdc/recorded_ends"), [cluster]).fetchall():
        if topic not in counts:
            continue
        if partition is None and recorded != counts[topic]:
            yield Finding(
                "error",
                f"topic {topic} has {counts[topic]} partitions, it had {recorded} when {source} was written",
                "a key must stay on its partition: with another count a user's changes lose their order",
                remake(settings, topic),
            )
        elif partition is not None and ends.get((topic, partition), recorded) < recorded:
            yield Finding(
                "warning",
                f"{topic}/{partition} ends at {ends[topic, partition]}, {source} says {recorded}",
                "Kafka has lost records that it had acknowledged, or the topic was made anew",
                "start `projector run cdc` again: it publishes them out of the table; then `projector rebuild start`"
                " and, for each view, `projector rebuild promote VIEW`",
            )
