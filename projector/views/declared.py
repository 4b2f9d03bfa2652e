"""The views, each one small declared object: which tables of the log it folds, its key, its typed columns.

To add a view: declare it here, add it to `VIEWS`, and create its table in a migration with the columns
that `View.all_columns` lists, in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, LiteralString

import orjson

from projector.fold import ITERATIONS_FOLD, RECORD_FOLD, Fold, Record, parse_instant
from projector.log.clock import to_datetime

IDENTITY = ("user_id", "app_id", "table_name", "record_id")
Identity = tuple[str, str, str, str]
"""The values of `IDENTITY`: what names one record among all users' records."""

# What every view keeps beside its key and its own columns, with the types.
COMMON: dict[LiteralString, LiteralString] = {
    "deleted": "boolean",
    "deleted_at": "timestamptz",
    "complete": "boolean",
    "space_id": "text",
    "source": "int",
    "source_lsn": "pg_lsn",
    "last_applied_at": "timestamptz",
    "updated_at": "timestamptz",
    "record": "jsonb",
    "state": "jsonb",
}
PLACE = ("source", "source_lsn")
"""Of these, what only the topics tell: where in the log a row's newest change was published from."""


@dataclass(frozen=True, slots=True)
class Column:
    """A typed column: a pure function of the derived record, None where the record has no such value.

    `field` names the record's field that it shows, so that `verify` can derive it a second time; without one it is
    compared only when the fold in SQL has a column of this name.
    """

    name: LiteralString
    type: LiteralString
    value: Callable[[Record], str | datetime | None]
    field: LiteralString | None = None


@dataclass(frozen=True, slots=True)
class LogFold:
    """The fold of a view a second time, in SQL: the query that `verify` asks.

    It folds the rows of `chosen`, rows of sync_changes, and gives one row for each record, with the columns of
    `IDENTITY` and of `COMMON` but for `PLACE`. When it needs the same rows folded as records, `after` is the query that
    does so; its rows are `records`.
    """

    query: LiteralString
    after: LiteralString | None = None


RECORD_LOG_FOLD = LogFold("views/fold")


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """`sources` are (app, table) pairs; a view with `rest_of` takes what none of those views takes.

    `key` names the columns that hold `Identity`, in its order; None stands for a part that the view's one
    source fixes, and has no column. `log_fold` is what `verify` holds
    its rows against.
    """

    name: LiteralString
    table: LiteralString
    key: tuple[LiteralString | None, ...]
    sources: tuple[tuple[str, str], ...] = ()
    rest_of: tuple[View, ...] = ()
    columns: tuple[Column, ...] = ()
    fold: Fold[Any] = RECORD_FOLD
    log_fold: LogFold = RECORD_LOG_FOLD

    @property
    def key_columns(self) -> tuple[LiteralString, ...]:
        """The primary key of the table, in order."""
        return tuple(name for name in self.key if name is not None)

    @property
    def all_columns(self) -> dict[LiteralString, LiteralString]:
        """Every column with its type, in the order in which rows are written."""
        own = {column.name: column.type for column in self.columns}
        return {**dict.fromkeys(self.key_columns, "text"), **own, **COMMON}

    def key_of(self, identity: Identity) -> tuple[str, ...]:
        """The values of `key_columns`."""
        return tuple(value for name, value in zip(self.key, identity, strict=True) if name is not None)

    @lru_cache(maxsize=4096)  # noqa: B019  # views are few and live as long as the process
    def takes(self, app_id: str, table: str) -> bool:
        """Whether the records of this table belong to this view."""
        if self.rest_of:
            return not any(view.takes(app_id, table) for view in self.rest_of)
        return (app_id, table) in self.sources

    def apps(self, configured: tuple[str, ...]) -> tuple[str, ...]:
        """The apps whose topics this view reads."""
        if self.rest_of:
            return configured
        named = {app for app, _ in self.sources}
        return tuple(app for app in configured if app in named)


def text(name: str) -> Callable[[Record], str | None]:
    """The field `name` where it is a string."""

    def value(record: Record) -> str | None:
        found = record.fields.get(name)
        return found if isinstance(found, str) else None

    return value


def instant(name: str) -> Callable[[Record], datetime | None]:
    """The field `name` where it is an instant; anything else is no value and no error."""

    def value(record: Record) -> datetime | None:
        found = record.fields.get(name)
        return moment(parse_instant(found)) if isinstance(found, str) else None

    return value


def effective_grant(record: Record) -> str | None:
    """The grant in force, which is read more strictly than the record shows it."""
    return None if record.grant is None else orjson.dumps(record.grant).decode()


def moment(us: int | None) -> datetime | None:
    """Microseconds since the epoch as a timestamp. Instants that the fold accepts have one."""
    return None if us is None else to_datetime(us)


MISSIONS = View(
    name="missions",
    table="mission_snapshots",
    key=("user_id", None, None, "mission_id"),
    sources=(("ai", "aiMissions"),),
    columns=(
        Column("status", "text", text("state"), "state"),
        Column("agent_id", "text", text("agentId"), "agentId"),
        Column("next_run_at", "timestamptz", instant("nextRunAt"), "nextRunAt"),
        Column("effective_grant", "jsonb", effective_grant),
    ),
)

AGENTS = View(
    name="agents",
    table="agent_snapshots",
    key=("user_id", None, None, "agent_id"),
    sources=(("ai", "agents"),),
    columns=(Column("status", "text", text("state"), "state"),),
)

MISSION_ITERATIONS = View(
    name="iterations",
    table="mission_iterations",
    key=("user_id", None, None, "mission_id"),
    sources=MISSIONS.sources,
    fold=ITERATIONS_FOLD,
    log_fold=LogFold("views/fold_iterations", after=RECORD_LOG_FOLD.query),
)

RECORDS = View(
    name="records",
    table="record_snapshots",
    key=("user_id", "app_id", "table_name", "record_id"),
    rest_of=(MISSIONS, AGENTS),
)

VIEWS: dict[str, View] = {view.name: view for view in (MISSIONS, AGENTS, MISSION_ITERATIONS, RECORDS)}
