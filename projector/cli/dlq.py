"""`projector dlq`: the dead letters, to look at, to try again, and to give up."""

from __future__ import annotations

import asyncio
import getpass
import os
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from projector.cli.letters import inline, payload_fields, payload_lines, shorten
from projector.cli.output import console, json_line
from projector.cli.status import seconds
from projector.cli.views import chosen
from projector.config import Settings, load_settings
from projector.errors import ConfigError, LettersRemainError

if TYPE_CHECKING:
    from projector.views.dlq import Result
    from projector.views.letters import Listed, Selection, Whole

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="17 is one of a view, cdc-17 of the stream.")]
ViewName = Annotated[str | None, typer.Option("--view", help="Those of this view.")]
User = Annotated[str | None, typer.Option("--user", help="Those of this user.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Those laid aside for this reason.")]
PartName = Annotated[str | None, typer.Option("--part", help="Those of the `views`, or of `cdc`, the change stream.")]
All = Annotated[bool, typer.Option("--all", help="Every one, instead of naming some.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]

REPUBLISH = (
    "set PROJECTOR_MAX_MESSAGE_BYTES above that size and every topic's max.message.bytes with it (`projector doctor`"
    " has the commands), restart `projector run cdc`; then `projector cdc republish --app APP --yes` publishes out of"
    " the table what the app's topic lacks"
)


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Look at dead letters, try them again, or give them up.")
    group.command("list")(list_letters)
    group.command("show")(show)
    group.command("retry")(retry)
    group.command("drop")(drop)
    app.add_typer(group, name="dlq")


def list_letters(
    view: ViewName = None,
    user: User = None,
    reason: Reason = None,
    part: PartName = None,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Go on behind this one.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 100,
    count: Annotated[bool, typer.Option("--count", help="Only how many there are for each reason.")] = False,
    as_json: AsJson = False,
) -> None:
    """List dead letters, those of the views first, each part in the order in which they were stored."""
    selection = _select(None, view, user, reason, part)
    asyncio.run((_count if count else _list)(load_settings(), selection, after, limit, as_json))


def show(
    letter: Annotated[str, typer.Argument(metavar="ID")],
    full: Annotated[bool, typer.Option("--full", help="The payload to its end, encrypted values included.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show all that is known of a dead letter, and what a retry would do now."""
    asyncio.run(_show(load_settings(), letter, full, as_json))


def retry(
    ids: Ids = None,
    view: ViewName = None,
    user: User = None,
    reason: Reason = None,
    every: All = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would become of them.")] = False,
    as_json: AsJson = False,
) -> None:
    """Try dead letters again as the view does, beside one at work; exit 1 when some remain.

    May be repeated, and killed at any moment.
    """
    selection = _select(ids, view, user, reason, None, every=every)
    asyncio.run(_retry(load_settings(), selection, dry_run, as_json))


def drop(
    ids: Ids = None,
    view: ViewName = None,
    user: User = None,
    reason: Reason = None,
    part: PartName = None,
    every: All = False,
    yes: Annotated[bool, typer.Option("--yes", help="Really delete them.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete dead letters for good. The rows of sync_changes that they come from stay as they are."""
    selection = _select(ids, view, user, reason, part, every=every)
    asyncio.run(_drop(load_settings(), selection, yes, as_json))


def _select(
    ids: list[str] | None,
    view: str | None,
    user: str | None,
    reason: str | None,
    part: str | None,
    *,
    every: bool | None = None,
) -> Selection:
    """Raises ConfigError for what names nothing, and, unless `every` is None, for naming nothing at all."""
    from projector.views.letters import Selection, parse_id, parse_part

    if view is not None:
        chosen([view])
    only = None if part is None else parse_part(part)
    selection = Selection(tuple(map(parse_id, ids or ())), only, view, user, reason)
    if every is not None and every != selection.is_everything:
        raise ConfigError(
            "--all goes with nothing else" if every else "no dead letters are named",
            "give ids, or filters such as --view and --reason, or --all",
        )
    return selection


async def _list(settings: Settings, selection: Selection, after: str | None, limit: int, as_json: bool) -> None:
    from projector.sql.connection import connect
    from projector.views.letters import PAGE, pages, parse_id

    begin = None if after is None else parse_id(after)
    left = limit
    async with await connect(settings, "projector_engine") as conn:
        async for page in pages(conn, selection, after=begin, size=min(limit, PAGE)):
            for letter in page[:left]:
                if as_json:
                    json_line(**_fields(letter))
                else:
                    for line in _lines(letter):
                        _print(line)
            left -= len(page)
            if left <= 0:
                if not as_json:
                    _print(f"perhaps there are more: --after {page[: left or None][-1].id}")
                return


async def _count(settings: Settings, selection: Selection, _after: str | None, _limit: int, as_json: bool) -> None:
    from projector.sql.connection import connect
    from projector.views.letters import tally

    async with await connect(settings, "projector_engine") as conn:
        for part, reason, count in await tally(conn, selection):
            if as_json:
                json_line(part=part, reason=reason, count=count)
            else:
                _print(f"{part:<10} {reason:<24} {count:>9}")


async def _show(settings: Settings, name: str, full: bool, as_json: bool) -> None:
    from projector.sql.connection import connect
    from projector.views.deadletters import change_exists
    from projector.views.dlq import judge_one
    from projector.views.letters import find, parse_id, read_whole

    letter_id = parse_id(name)
    async with await connect(settings, "projector_engine") as conn:
        letter = await find(conn, letter_id)
        if letter_id.part == "cdc":
            exists = await change_exists(conn, letter.change_id)
            if as_json:
                json_line(**_fields(letter), in_log=exists, retry=_of_cdc(settings, letter).detail)
                return
            for line in _lines(letter):
                _print(line)
            _print(f"  sync_changes {'still holds' if exists else 'no longer holds'} the change")
            _print(f"  a retry: {_of_cdc(settings, letter).detail}; {REPUBLISH}")
            return
        whole = await read_whole(conn, letter_id)
        result = await judge_one(conn, letter)
    if as_json:
        json_line(**_fields(letter), **_whole_fields(whole, full), retry=_result_fields(result))
        return
    for line in _lines(letter):
        _print(line)
    _print_whole(whole, result, full)


async def _retry(settings: Settings, selection: Selection, dry_run: bool, as_json: bool) -> None:
    from projector import logging
    from projector.sql.connection import connect
    from projector.views.dlq import REMAINING
    from projector.views.dlq import retry as try_again
    from projector.views.letters import pages

    logging.configure(settings, "dlq")
    counts: Counter[str] = Counter()
    in_cdc = 0
    async with await connect(settings, "projector_engine") as conn:
        async for results in try_again(conn, selection, dry_run=dry_run):
            for result in results:
                counts[result.outcome] += 1
                _tell(result, dry_run, as_json)
        if (of_cdc := selection.of("cdc")) is not None:
            async for page in pages(conn, of_cdc):
                for letter in page:
                    in_cdc += 1
                    _tell(_of_cdc(settings, letter), dry_run, as_json)
    counts["skipped"] += in_cdc
    remain = sum(counts[outcome] for outcome in REMAINING)
    if not as_json:
        said = ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items() if count)
        _print(f"{'would be' if dry_run else 'done'}: {said or 'nothing, no dead letter is meant'}")
    if remain and not dry_run:
        raise LettersRemainError(
            f"{remain} dead letters remain",
            f"{in_cdc} of them are of changes that no topic could hold: {REPUBLISH}" if in_cdc else None,
        )


async def _drop(settings: Settings, selection: Selection, yes: bool, as_json: bool) -> None:
    from projector import logging
    from projector.sql.connection import connect
    from projector.views.letters import drop as drop_letters
    from projector.views.letters import tally

    logging.configure(settings, "dlq")
    async with await connect(settings, "projector_engine") as conn:
        if not yes:
            counts = await tally(conn, selection)
            said = ", ".join(f"{count} {part}/{reason}" for part, reason, count in counts)
            raise ConfigError(
                f"{sum(count for *_, count in counts)} dead letters were not dropped: --yes is missing",
                f"{said}: what they hold is then in no view, until the view is rebuilt" if said else "there are none",
            )
        count = 0
        async for dropped in drop_letters(conn, selection, by=who()):
            count += len(dropped)
            if as_json:
                for one in dropped:
                    json_line(id=str(one), dropped=True)
    if not as_json:
        _print(f"{count} dead letters dropped")


def who() -> str:
    """The user of the operating system, by number where it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _of_cdc(settings: Settings, letter: Listed) -> Result:
    from projector.views.dlq import Result

    limit = settings.max_message_bytes
    detail = f"its record of {letter.size} bytes is in no topic, PROJECTOR_MAX_MESSAGE_BYTES is {limit}"
    return Result(letter.id, None, "skipped", letter.reason, detail)


def _tell(result: Result, dry_run: bool, as_json: bool) -> None:
    if as_json:
        json_line(**_result_fields(result), dry_run=dry_run)
    else:
        _print(
            f"{result.id!s:>8} {result.view or 'cdc':<10} {result.outcome:<9} {result.reason or '':<22} "
            f"{inline(result.detail)}"
        )


def _result_fields(result: Result) -> dict[str, Any]:
    return result._asdict() | {"id": str(result.id), "detail": shorten(result.detail)}


def _fields(letter: Listed) -> dict[str, Any]:
    return {**letter._asdict(), "id": str(letter.id), "part": letter.id.part}


def _lines(letter: Listed) -> tuple[str, str]:
    place = "" if letter.place is None else f", place {letter.place}"
    at = letter.topic if letter.partition is None else f"{letter.topic}-{letter.partition} offset {letter.offset}"
    return (
        f"{letter.id!s:>8} {letter.view or 'cdc':<10} {letter.reason:<24} {seconds(letter.age_s)} old,"
        f" {letter.attempts} {'attempt' if letter.attempts == 1 else 'attempts'}",
        f"{'':>8} {at}{place}, user {inline(letter.user_id)}, change {inline(letter.change_id)}, {letter.size} bytes",
    )


def _whole_fields(whole: Whole, full: bool) -> dict[str, Any]:
    key = None if whole.key is None else whole.key.decode("utf-8", "backslashreplace")
    headers = {name: value if full else shorten(value) for name, value in whole.headers.items()}
    return {
        "key": key,
        "timestamp_ms": whole.timestamp_ms,
        "headers": headers,
        "detail": whole.detail if full else shorten(whole.detail),
        "retried_at": whole.retried_at,
        **payload_fields(whole.value, full=full),
    }


def _print_whole(whole: Whole, result: Result, full: bool) -> None:
    _print(f"  detail    {inline(whole.detail)}")
    _print(f"  retried   {whole.retried_at or 'never'}")
    _print(f"  key       {inline(None if whole.key is None else whole.key.decode('utf-8', 'backslashreplace'))}")
    for name, value in whole.headers.items():
        _print(f"  header    {inline(name)}: {inline(value)}")
    _print(f"  a retry   {result.outcome}: {inline(result.detail)}")
    _print(f"  payload   {0 if whole.value is None else len(whole.value)} bytes")
    for line in payload_lines(whole.value, full=full):
        _print(line)


def _print(text: str) -> None:
    console().print(text, markup=False, emoji=False, soft_wrap=True)
