"""`projector runs`: the runs of the ledger, to look at, to take up again, to end, and the old ones to delete."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID, uuid4

import typer

from projector.cli.dlq import who
from projector.cli.output import console, json_line
from projector.config import Settings, load_settings
from projector.errors import ConfigError, PlansDifferError, ReplayDiffersError, RunsRefusedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from projector.planner.retention import Cutoffs
    from projector.planner.runs import Connection, Listed, Result, Selection, StoredStep, Whole

_TIME = "2026-06-01T10:00:00Z, or 90s, 15m, 2h, 7d ago"
Ids = Annotated[list[str] | None, typer.Argument(metavar="[RUN-ID]...")]
States = Annotated[list[str] | None, typer.Option("--state", help="Those in this state; may be given several times.")]
User = Annotated[str | None, typer.Option("--user", help="Those of this user.")]
Mission = Annotated[str | None, typer.Option("--mission", help="Those of this mission.")]
Decision = Annotated[str | None, typer.Option("--decision", help="Those last decided so, like skipped-budget.")]
Since = Annotated[str | None, typer.Option("--since", metavar="TIME", help=f"Those opened since {_TIME}.")]
WithContent = Annotated[
    bool,
    typer.Option(
        "--content", help="With what its user wrote and the model answered: for logins in projector_content, and noted."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]

_AGO = re.compile(r"(\d{1,6})([smhd])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Look at runs of missions, take them up again, or end them.")
    group.command("list")(list_runs)
    group.command("show")(show)
    group.command("replay")(replay)
    group.command("diff")(diff)
    group.command("plan")(plan)
    group.command("retry")(retry)
    group.command("cancel")(cancel)
    group.command("prune")(prune)
    app.add_typer(group, name="runs")


def list_runs(
    state: States = None,
    user: User = None,
    mission: Mission = None,
    decision: Decision = None,
    since: Since = None,
    after: Annotated[str | None, typer.Option(metavar="RUN-ID", help="Go on with those older than this one.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 100,
    count: Annotated[bool, typer.Option("--count", help="Only how many there are in each state.")] = False,
    as_json: AsJson = False,
) -> None:
    """List runs, the newest first."""
    selection = _select(None, state, user, mission, decision, since)
    begin = None if after is None else _parse_id(after)
    settings = load_settings()
    asyncio.run(_count(settings, selection, as_json) if count else _list(settings, selection, begin, limit, as_json))


def show(
    run: Annotated[str, typer.Argument(metavar="RUN-ID")],
    content: WithContent = False,
    as_json: AsJson = False,
) -> None:
    """Show all that is known of a run: its decision, lease, plan and every step, and what happens next by itself.

    Prompts, answers and arguments are shown as their size, so that this may be looked at without reading a user's
    data. With --content they are printed, to a login that is a member of projector_content, and it is noted who read
    them; encrypted values and wrapped keys are shown by their length even then.
    """
    asyncio.run(_show(load_settings(), _parse_id(run), content, as_json))


def replay(
    run: Annotated[str, typer.Argument(metavar="RUN-ID")],
    content: WithContent = False,
    as_json: AsJson = False,
) -> None:
    """Lead a finished run's conversation again from its stored answers, asking nobody; exit 1 if its plan is another.

    Nothing is written. It shows whether this release would make the same plan of the same answers.
    """
    asyncio.run(_replay(load_settings(), _parse_id(run), content, as_json))


def diff(
    one: Annotated[str, typer.Argument(metavar="RUN-ID")],
    other: Annotated[str, typer.Argument(metavar="RUN-ID")],
    content: WithContent = False,
    as_json: AsJson = False,
) -> None:
    """Show where the plans of two runs differ; exit 1 if they do. Values are shown by their size without --content."""
    asyncio.run(_diff(load_settings(), _parse_id(one), _parse_id(other), content, as_json))


def plan(
    user: Annotated[str, typer.Argument(metavar="USER")],
    mission: Annotated[str, typer.Argument(metavar="MISSION")],
    plan_only: Annotated[
        bool, typer.Option("--plan-only", help="Really ask the model, which is paid for, and write nothing.")
    ] = False,
    content: WithContent = False,
    as_json: AsJson = False,
) -> None:
    """Work out what a mission would plan now, due or not: a dry run. No run and no step is stored.

    The model is asked as for a run, without research, and its tokens count against the day and the mission's agent. The
    mission's own runs go on as they would.
    """
    if not plan_only:
        raise ConfigError(
            "this asks the model, which is paid for", "say --plan-only; a mission runs for real when it is due"
        )
    asyncio.run(_plan(load_settings(), user, mission, content, as_json))


def retry(
    ids: Ids = None,
    state: States = None,
    user: User = None,
    mission: Mission = None,
    decision: Decision = None,
    since: Since = None,
    as_json: AsJson = False,
) -> None:
    """Let runs be claimed at once, with all their attempts; exit 1 when some could not be.

    Filters without --state mean held, failed and cancelled runs, and of each mission its latest alone. A run that is
    written or at work is refused. What was paid for stays; the gates are asked again.
    """
    from projector.planner.runs import STUCK
    from projector.planner.runs import retry as take_up

    selection = _select(ids, state, user, mission, decision, since, otherwise=STUCK, newest=True)
    asyncio.run(_act(load_settings(), selection, take_up, as_json))


def cancel(
    ids: Ids = None,
    state: States = None,
    user: User = None,
    mission: Mission = None,
    decision: Decision = None,
    since: Since = None,
    yes: Annotated[bool, typer.Option("--yes", help="Really end them.")] = False,
    as_json: AsJson = False,
) -> None:
    """End runs for good; exit 1 when some could not be.

    Filters without --state mean runs that are not finished. A worker at one stops within a third of its lease. The due
    time does not come back by itself: the mission runs again once a device moves it on, or after `runs retry`.
    """
    from projector.planner.runs import UNFINISHED
    from projector.planner.runs import cancel as end

    selection = _select(ids, state, user, mission, decision, since, otherwise=UNFINISHED)
    settings = load_settings()
    if not yes:
        asyncio.run(_refuse_to_cancel(settings, selection))
    asyncio.run(_act(settings, selection, end, as_json))


def prune(
    before: Annotated[
        str | None,
        typer.Option(metavar="TIME", help=f"Runs that ended before {_TIME}, with their steps. Default: the settings."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Really delete them.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete old finished runs, steps and usage as the timers do, at once. No due time fires again for it."""
    from projector.planner.retention import cutoffs

    settings = load_settings()
    chosen: Cutoffs = cutoffs(settings) if before is None else {"runs": parse_time(before)}
    asyncio.run(_prune(settings, chosen, yes, as_json))


def parse_time(text: str) -> datetime:
    """An instant, or how long ago it was; raises ConfigError for what is neither."""
    from projector.fold import parse_instant
    from projector.log.clock import to_datetime

    if found := _AGO.fullmatch(text):
        return datetime.now(UTC) - timedelta(**{_UNITS[found[2]]: int(found[1])})
    instant = parse_instant(text)
    if instant is None:
        raise ConfigError(f"{text!r} is no time", f"write {_TIME}")
    return to_datetime(instant)


def _parse_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise ConfigError(f"{text!r} is no id of a run", "`projector runs list` shows them") from None


def _select(
    ids: list[str] | None,
    states: list[str] | None,
    user: str | None,
    mission: str | None,
    decision: str | None,
    since: str | None,
    *,
    otherwise: tuple[str, ...] = (),
    newest: bool = False,
) -> Selection:
    """`otherwise` are the states that filters mean without one, and it refuses to take what nothing names."""
    from projector.planner.runs import STATES, Selection

    for state in states or ():
        if state not in STATES:
            raise ConfigError(f"there is no state {state!r}", f"choose among: {', '.join(STATES)}")
    when = None if since is None else parse_time(since)
    selection = Selection(tuple(map(_parse_id, ids or ())), tuple(states or ()), user, mission, decision, when)
    if not otherwise or selection == Selection(selection.ids):
        if otherwise and not selection.ids:
            raise ConfigError("no runs are named", "give ids, or filters such as --state and --mission")
        return selection
    return Selection(selection.ids, selection.states or otherwise, user, mission, decision, when, newest)


async def _list(settings: Settings, selection: Selection, after: UUID | None, limit: int, as_json: bool) -> None:
    from projector.cli.run_text import fields, lines
    from projector.planner.runs import PAGE, find, pages
    from projector.sql.connection import connect

    left = limit
    async with await connect(settings, "projector_planner") as conn:
        begin = None if after is None else await find(conn, after)
        async for page in pages(conn, selection, after=begin, size=min(limit, PAGE)):
            for run in page[:left]:
                if as_json:
                    json_line(**fields(run))
                else:
                    _print(*lines(run))
            left -= len(page)
            if left <= 0:
                if not as_json:
                    _print(f"perhaps there are more: --after {page[: left or None][-1].run_id}")
                return


async def _count(settings: Settings, selection: Selection, as_json: bool) -> None:
    from projector.planner.runs import tally
    from projector.sql.connection import connect

    async with await connect(settings, "projector_planner") as conn:
        for state, count in (await tally(conn, selection)).items():
            if as_json:
                json_line(state=state, count=count)
            else:
                _print(f"{state:<9} {count:>9}")


async def _read(settings: Settings, run_id: UUID, content: bool) -> tuple[Listed, Whole, Sequence[StoredStep]]:
    """With `content` as the login may read it, and noted."""
    from projector.planner.content import with_content
    from projector.planner.runs import find, read_whole
    from projector.sql.connection import connect

    async with await connect(settings, "projector_planner") as conn:
        run = await find(conn, run_id)
        whole, steps = await read_whole(conn, run_id)
    if content:
        whole, steps = await with_content(settings, run.user_id, run_id, whole, steps)
    return run, whole, steps


async def _show(settings: Settings, run_id: UUID, content: bool, as_json: bool) -> None:
    from projector.cli.run_text import detail_fields, details, fields, lines

    run, whole, steps = await _read(settings, run_id, content)
    if as_json:
        json_line(**fields(run), **detail_fields(run, whole, steps, content=content))
    else:
        _print(*lines(run), *details(run, whole, steps, content=content))


async def _replay(settings: Settings, run_id: UUID, content: bool, as_json: bool) -> None:
    from projector.planner.plan import plan_digest
    from projector.planner.replay import replay as lead_again

    _, whole, steps = await _read(settings, run_id, content)
    plan = await lead_again(whole, steps)
    assert whole.plan is not None, "there is none to replay otherwise"
    count = _show_differences(whole.plan, plan, content, as_json)
    if count:
        raise ReplayDiffersError(f"run {run_id} leads to another plan: {count} places differ")
    if as_json:
        json_line(run_id=run_id, same=True, plan_sha256=plan_digest(plan), steps=len(plan["steps"]), answers=len(steps))
    else:
        _print(f"the same plan, {plan_digest(plan)}: steps {len(plan['steps'])}, answers and results {len(steps)}")


async def _plan(settings: Settings, user: str, mission: str, content: bool, as_json: bool) -> None:
    from projector.cli.run_text import plan_fields, plan_lines
    from projector.llm.choice import chat_model
    from projector.planner.content import note_reading
    from projector.planner.dry_run import plan_only
    from projector.planner.pace import Pace
    from projector.planner.planning import planning_of
    from projector.sql.connection import pool

    if content:
        await note_reading(settings, user, uuid4())
    async with chat_model(settings) as model, pool(settings, "projector_planner", size=1) as connections:
        planning = planning_of(settings, connections, model, Pace())
        made = await plan_only(planning, connections, user, mission, day_cap=settings.max_tokens_per_day)
    if as_json:
        json_line(**plan_fields(made, content=content))
    else:
        _print(*plan_lines(made, content=content))


async def _diff(settings: Settings, one: UUID, other: UUID, content: bool, as_json: bool) -> None:
    plans = []
    for run_id in (one, other):
        _, whole, _ = await _read(settings, run_id, content)
        if whole.plan is None:
            raise ConfigError(
                f"run {run_id} has no plan", "`projector runs list --state written` shows those that have"
            )
        plans.append(whole.plan)
    count = _show_differences(plans[0], plans[1], content, as_json)
    if count:
        raise PlansDifferError(f"the plans differ in {count} places")
    if not as_json:
        _print("the plans are the same")


def _show_differences(one: dict[str, Any], other: dict[str, Any], content: bool, as_json: bool) -> int:
    from projector.cli.run_text import difference_fields, difference_line
    from projector.views.jsondiff import differences

    all_found = list(differences(one, other))
    for found in all_found:
        if as_json:
            json_line(**difference_fields(found, content=content))
        else:
            _print(difference_line(found, content=content))
    return len(all_found)


async def _act(
    settings: Settings, selection: Selection, act: Callable[..., AsyncIterator[Result]], as_json: bool
) -> None:
    from projector import logging
    from projector.planner.runs import FAILURES
    from projector.sql.connection import connect

    logging.configure(settings, "runs")
    counts: Counter[str] = Counter()
    async with await connect(settings, "projector_planner") as conn:
        async for result in act(conn, selection, by=who()):
            counts[result.outcome] += 1
            if as_json:
                json_line(**result._asdict())
            else:
                _print(f"{result.run_id} {result.before or '-':<9} {result.outcome:<9} {result.detail}")
    if not as_json:
        said = ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items())
        _print(f"done: {said or 'nothing, no run is meant'}")
    if failed := sum(counts[outcome] for outcome in FAILURES):
        raise RunsRefusedError(f"{failed} runs stay as they are")


async def _refuse_to_cancel(settings: Settings, selection: Selection) -> None:
    from projector.planner.runs import tally
    from projector.sql.connection import connect

    async with await connect(settings, "projector_planner") as conn:
        counts = await tally(conn, selection)
    written = counts.pop("written", 0)
    said = ", ".join(f"{count} {state}" for state, count in counts.items())
    stays = f"; {written} written stay as they are" if written else ""
    raise ConfigError(
        f"{sum(counts.values())} runs were not cancelled: --yes is missing",
        (f"{said}: they would end, and their due times not come back by themselves" if said else "there are none")
        + stays,
    )


async def _prune(settings: Settings, before: Cutoffs, yes: bool, as_json: bool) -> None:
    from projector.planner.retention import count_prunable
    from projector.sql.connection import connect

    async with await connect(settings, "projector_planner") as conn:
        counts = await count_prunable(conn, before)
        if not yes:
            raise ConfigError(
                f"{sum(counts.values())} rows were not deleted: --yes is missing",
                ", ".join(
                    f"{count} {kind} older than {before[kind]:%Y-%m-%dT%H:%M:%SZ}"
                    for kind, count in counts.items()
                    if kind in before
                )
                or "the settings keep everything",
            )
        await _delete(conn, before, counts, as_json)


async def _delete(conn: Connection, before: Cutoffs, counts: dict[Any, int], as_json: bool) -> None:
    from projector.planner.retention import prune as delete

    deleted: Counter[str] = Counter()
    async for kind, rows in delete(conn, before):
        deleted[kind] += rows
        if as_json:
            json_line(kind=kind, deleted=deleted[kind], of=counts[kind])
        else:
            _print(f"{kind:<6} {deleted[kind]:>9,} of {counts[kind]:,} deleted")


def _print(*lines: str) -> None:
    for line in lines:
        console().print(line, markup=False, emoji=False, soft_wrap=True)
