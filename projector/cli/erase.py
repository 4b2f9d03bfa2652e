"""`projector erase`: every place that holds data of a user, and the end of what the projector itself keeps."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from projector.cli.output import console, json_line
from projector.config import Settings, load_settings
from projector.errors import ConfigError, UserInLogError, UserLeftError

if TYPE_CHECKING:
    from projector.sql.user_tables import UserTable
    from projector.views.user_records import Report, UserRecords

BEYOND = {
    "WAL of PostgreSQL": "its server recycles it once no slot, standby or archive needs it",
    "backups, archives, standbys of PostgreSQL": "standbys follow by themselves; copies go when you let them expire",
    "backups and mirrors of Kafka": "the same: the projector knows of none",
    "log lines of the streams": "name runs and changes, not contents; an error of a server may quote a user id",
    "metrics": "no label is a user, and no value is data",
    "the collector of traces": "spans name runs and changes; users, missions and agents by a digest, and no contents",
    "the endpoint of the model": "prompts of past runs went there; what it keeps is between you and its operator",
    "the research and news services": "the same: objectives of missions that asked for research, with the user's id",
}


def register(app: typer.Typer) -> None:
    app.command("erase")(erase)


def erase(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user id, as sync_changes has it.")],
    yes: Annotated[bool, typer.Option("--yes", help="Really erase.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List what is kept of a user, and clear it from the projector's tables once the log has no row of them.

    sync_changes is the sync server's: it erases there, and the views follow. This clears the rest, at once.
    """
    if not user:
        raise ConfigError("USER is empty", "name the user as sync_changes.user_id does")
    settings = load_settings()
    settings.require_kafka()
    report = _report_json if as_json else _report_on_terminal
    before = asyncio.run(_look(settings, user, report))
    _show(before, as_json, erased=False)
    if not yes:
        raise ConfigError(f"nothing was erased: --yes is missing{_log_first(before)}", _DONE_BY_YES)
    if before.log:
        raise UserInLogError(f"nothing was erased: sync_changes holds {sum(before.log.values())} rows of this user")
    asyncio.run(_erase(settings, user, before))
    left = _vacuum(settings)
    after = asyncio.run(_look(settings, user, report))
    _show(after, as_json, erased=True)
    _tell_end(left, as_json)
    if after.rows or after.log:
        raise UserLeftError("rows of this user came back while they were erased")


_DONE_BY_YES = "with --yes the rows of the tables above are deleted; what stays is named with what ends it"

_MOVES_ON = {
    "mana_ai.cdc_fills": "moves on with the fill",
    "mana_ai.view_rebuilds": "moves on with the rebuild; `projector rebuild cancel` ends one that was interrupted",
}


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of one user. `log` counts rows by app, `tables` and `passing` by table.

    `passing` are fills, and rebuilds from the log, that stand at this user and move on by themselves.
    """

    cluster: str
    widths: dict[str, int]
    log: dict[str, int]
    tables: dict[str, int]
    passing: dict[str, int]
    topics: list[UserRecords]

    @property
    def rows(self) -> int:
        return sum(self.tables.values())


def _tables() -> tuple[UserTable, ...]:
    from projector.cdc import user_tables as cdc
    from projector.planner import user_tables as planner
    from projector.views import erase as views

    return (*planner.TABLES, *cdc.TABLES, *views.TABLES)


def _passing() -> tuple[UserTable, ...]:
    """Tables whose rows name the user that something at work has come to: nothing is deleted there."""
    from projector.cdc import user_tables as cdc
    from projector.views import erase as views

    return (cdc.FILLS, views.REBUILDS)


async def _look(settings: Settings, user: str, report: Report) -> Kept:
    from projector.kafka import admin
    from projector.sql.connection import connect
    from projector.views import kafka
    from projector.views.erase import count_log
    from projector.views.positions import widths_of
    from projector.views.user_records import find_user_records, topics_with_users

    async with admin(settings) as client:
        topics = topics_with_users(settings, await client.list_topics())
    widths = widths_of(await kafka.partitions_of(settings, topics)) if topics else {}
    records = await find_user_records(settings, user, topics, widths, report)
    async with await connect(settings, "projector_engine") as conn, conn.transaction():
        log = await count_log(conn, user)
        tables = {table.name: await table.count(conn, user) for table in _tables()}
        passing = {table.name: await table.count(conn, user) for table in _passing()}
    return Kept(await kafka.cluster_id(settings), widths, log, tables, passing, records)


async def _erase(settings: Settings, user: str, kept: Kept) -> None:
    from projector.sql.connection import connect
    from projector.views.erase import erase_user

    async with await connect(settings, "projector_engine") as conn:
        await erase_user(conn, settings, user, _tables(), kept.cluster, kept.widths)


def _vacuum(settings: Settings) -> list[str]:
    """Returns the tables that this login may not vacuum."""
    from projector.sql.connection import connect_admin
    from projector.sql.user_tables import vacuum

    with connect_admin(settings) as conn:
        return [table.name for table in (*_tables(), *_passing()) if not vacuum(conn, table)]


def _log_first(kept: Kept) -> str:
    return ", and the sync server has to erase the user first" if kept.log else ""


def _show(kept: Kept, as_json: bool, *, erased: bool) -> None:
    stage = "after" if erased else "before"
    # What is said of each place, and nothing is said where there is nothing.
    rows: list[tuple[str, str, int, str]] = []
    for app, count in kept.log.items():
        rows.append(("log", f"sync_changes, app {app}", count, "the sync server's own erasure deletes them"))
    for name, count in kept.tables.items():
        rows.append(("table", name, count, "" if not count else "came back" if erased else "erased with --yes"))
    for name, count in kept.passing.items():
        rows.append(("table", name, count, _MOVES_ON[name] if count else ""))
    for topic in kept.topics:
        rows.append(("topic", f"{topic.topic}/{topic.partition}", topic.records, _of_topic(topic, kept)))
    for kind, name, count, then in rows:
        if as_json:
            json_line(event="place", stage=stage, kind=kind, name=name, count=count, then=then or None)
        elif count:
            console().print(f"{kind:<6} {name:<50} {count:>8}  {then}", markup=False, soft_wrap=True)
    if as_json:
        for topic in kept.topics:
            json_line(event="topic", stage=stage, **topic._asdict())
    elif not any(count for _, _, count, _ in rows):
        console().print("nothing that the projector reads or keeps names this user")


def _of_topic(topic: UserRecords, kept: Kept) -> str:
    """The topic stays what it was: what ends the records, and what a rebuild would make of them."""
    if not topic.records:
        return ""
    ends = f"stay (offsets {topic.first} to {topic.end}) until the topic is deleted and `projector run cdc` refills it"
    if topic.standing and not kept.log:
        app = topic.topic.rpartition(".sync_changes.")[2]
        return (
            f"{topic.standing} of them still count: `projector cdc republish --app {app}` tells of their erasure,"
            f" else a rebuild folds them; all {ends}"
        )
    return ends


def _tell_end(not_vacuumed: list[str], as_json: bool) -> None:
    tables = ", ".join((*(table.name for table in (*_tables(), *_passing())), "pg_catalog.pg_statistic"))
    rewrite = f"vacuum (full, analyze) {tables}"
    if as_json:
        json_line(event="erased", not_vacuumed=not_vacuumed, rewrite=rewrite, beyond=BEYOND)
        return
    out = console()
    if not_vacuumed:
        out.print(f"run as their owner: vacuum (analyze) {', '.join(not_vacuumed)}", markup=False, soft_wrap=True)
    out.print(
        "Bytes of the rows stay in free room of the files until other rows are written there. To have them gone now,"
        f" while each table is locked in turn, run as a superuser:\n  {rewrite}",
        markup=False,
        soft_wrap=True,
    )
    out.print("Beyond the reach of this command:")
    for place, what in BEYOND.items():
        out.print(f"  {place}: {what}", markup=False, soft_wrap=True)


def _report_json(read: int, total: int) -> None:
    json_line(event="progress", records=read, total=total)


def _report_on_terminal(read: int, total: int) -> None:
    console().print(f"[dim]{read} of {total} records of the topics read[/]")
