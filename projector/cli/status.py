"""`projector status`: where each stage stands, from the server's log to the views and the run ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from projector.cli.effects import asked_as_planner, effects_of, effects_text
from projector.cli.letters import inline
from projector.cli.output import console, json_line
from projector.config import Settings, load_settings
from projector.errors import CheckFailedError, ProjectorError

if TYPE_CHECKING:
    from projector.cdc.health import Health
    from projector.planner.never_due import NeverDue
    from projector.views.status import Answer, Fill, Mark, Source, Status, ViewStatus

WATCH_S = 2.0

T = TypeVar("T")

Line = tuple[str, str, dict[str, Any]]
"""Stage, the same for people, and the fields for scripts."""


def register(app: typer.Typer) -> None:
    app.command("status")(status)


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Again every two seconds, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, one for each stage.")] = False,
) -> None:
    """Show how far each stage is: lag in bytes, events and seconds, and how stale each view is.

    Exit 1 when a server did not answer.
    """
    settings = load_settings()
    settings.require_database()
    settings.require_kafka()
    try:
        problems = asyncio.run(_show(settings, watch=watch, as_json=as_json))
    except KeyboardInterrupt:
        return
    if problems:
        raise CheckFailedError("; ".join(problems), "`projector doctor` tells what to do about it")


async def _show(settings: Settings, *, watch: bool, as_json: bool) -> list[str]:
    from projector.views.status import read_status

    previous: Health | None = None
    while True:
        found = await read_status(settings, previous)
        never_due, effects = await _answer(never_due_of(settings)), await _answer(effects_of(settings))
        ours = _line("never due", never_due, _never_due), _line("effects", effects, effects_text)
        for stage, text, fields in (*lines(found), *ours):
            if as_json:
                json_line(stage=stage, **fields)
            else:
                console().print(f"{stage:<14} {text}", markup=False, soft_wrap=True)
        if not watch:
            return list(dict.fromkeys([*found.problems, *(a.problem for a in (never_due, effects) if a.problem)]))
        previous = found.source.value.health if found.source.value else None
        if not as_json:
            console().print()
        await asyncio.sleep(WATCH_S)


async def _answer(question: Awaitable[T]) -> Answer[T]:
    from projector.views.status import Answer

    try:
        return Answer(await question)
    except ProjectorError as error:
        return Answer(problem=error.message)


async def never_due_of(settings: Settings) -> NeverDue:
    """Missions that never run although they should. Raises DatabaseUnavailableError or NotMigratedError."""
    from projector.planner.never_due import read_never_due

    return await asked_as_planner(settings, read_never_due)


def lines(status: Status) -> Iterator[Line]:
    """Every stage, in the order in which data moves."""
    yield _line("source", status.source, _source)
    if status.fills.value:
        for fill in status.fills.value:
            yield ("fill", *_fill(fill))
    elif status.fills.problem:
        yield _line("fill", status.fills, _fill)
    yield _line("topics", status.topics, _mark)
    for name, view in status.views.items():
        yield _line(f"view {name}", view, _view)
    yield _line("dead letters", status.letters, _counts)
    yield _line("runs", status.runs, _counts)


def _line(stage: str, answer: Answer[Any], describe: Any) -> Line:
    if answer.problem:
        return stage, f"unknown: {answer.problem}", {"problem": answer.problem}
    return (stage, *describe(answer.value))


def _source(source: Source) -> tuple[str, dict[str, Any]]:
    from projector.cdc.health import size
    from projector.log.place import lsn_text

    health = source.health
    if health is None:
        return "no replication slot", {"generation": source.generation, "slot": None}
    fields = {"generation": source.generation, "lag_s": source.lag_s, **health_fields(health)}
    text = (
        f"slot {health.slot} {health.wal_status or 'without WAL'}, generation {source.generation or '-'}:"
        f" server at {lsn_text(health.lsn)}, confirmed {lsn_text(health.confirmed)},"
        f" {size(health.lag_bytes)} and {seconds(source.lag_s)} behind, keeps {size(health.retained_bytes)}"
    )
    return text + "".join(f"\n{'':<14}   {holder.what}" for holder in health.holders), fields


def health_fields(health: Health) -> dict[str, Any]:
    """A slot's health for scripts; LSNs as PostgreSQL writes them."""
    from projector.log.place import lsn_text

    return {
        "slot": health.slot,
        "server_lsn": lsn_text(health.lsn),
        "confirmed_lsn": lsn_text(health.confirmed),
        "restart_lsn": lsn_text(health.restart),
        "lag_bytes": health.lag_bytes,
        "retained_bytes": health.retained_bytes,
        "wal_status": health.wal_status,
        "safe_bytes": health.safe_bytes,
        "wal_bytes_per_s": health.rate,
        "seconds_to_invalidation": health.seconds_to_invalidation,
        "invalidation": health.invalidation,
        "active_pid": health.active_pid,
        "held_by": [holder._asdict() for holder in health.holders],
    }


def _fill(fill: Fill) -> tuple[str, dict[str, Any]]:
    from projector.cdc.fill_progress import in_words

    rate = "" if fill.per_s is None else f", {fill.per_s:,.0f}/s"
    left = "" if fill.eta_s is None else f", {seconds(fill.eta_s)} left"
    done = in_words(fill.step, fill.done, fill.total)
    silent = f"; last report {seconds(fill.silent_s)} ago" if fill.silent_s > 10 else ""
    return f"{fill.reason} of {', '.join(fill.apps)}: {done}{rate}{left}{silent}", fill._asdict()


def _mark(mark: Mark | None) -> tuple[str, dict[str, Any]]:
    from projector.log.place import lsn_text

    if mark is None:
        return "no watermark yet", {"lsn": None, "age_s": None}
    lsn = lsn_text(mark.lsn)
    return f"newest watermark {lsn}, {seconds(mark.age_s)} old", {"lsn": lsn, "age_s": mark.age_s}


def _view(view: ViewStatus) -> tuple[str, dict[str, Any]]:
    from projector.cdc.health import size
    from projector.log.place import lsn_text

    lsn = None if view.lsn is None else lsn_text(view.lsn)
    mark = "no watermark yet" if lsn is None else f"newest watermark {lsn}"
    events = "unknown events" if view.lag_events is None else f"{view.lag_events:,} events"
    octets = "" if view.lag_bytes is None else f" and {size(view.lag_bytes)}"
    stale = "staleness unknown" if view.staleness_s is None else f"stale by {seconds(view.staleness_s)}"
    ahead = "; ahead of a topic, which was made anew: rebuild the view" if view.ahead else ""
    return f"{mark}, {stale}; {events}{octets} behind{ahead}", view._asdict() | {"lsn": lsn}


def _counts(counts: dict[str, int]) -> tuple[str, dict[str, Any]]:
    text = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    return text or "none", {"counts": counts}


def _never_due(found: NeverDue) -> tuple[str, dict[str, Any]]:
    from projector.planner.never_due import CAUSES

    kinds = [f"{count:,} with {CAUSES[cause]}" for cause, count in found.counts.items()]
    named = [f"{inline(user)}/{inline(mission)}" for user, mission, _ in found.examples]
    more = ", …" if found.counts.total() > len(named) else ""
    text = f"{', '.join(kinds)}: {', '.join(named)}{more}" if kinds else "none"
    missions = [{"user_id": user, "mission_id": mission, "cause": cause} for user, mission, cause in found.examples]
    return text, {"counts": dict(found.counts), "missions": missions}


def seconds(value: float | None) -> str:
    """With a tenth below ten seconds; a clock that is read twice may run backwards by a hair."""
    from projector.cdc.health import duration

    if value is None:
        return "an unknown time"
    return f"{max(0.0, value):.1f} s" if value < 10 else duration(value)
