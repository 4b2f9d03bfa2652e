"""What is known of a record, as people read it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from projector.cli.record_json import Json, instant_text, notes, position_of, stamp_of
from projector.cli.redact import clipped, printable, redact, shown
from projector.fold import Path, Record
from projector.log.actor import AgentActor, normalize_actor
from projector.views.declared import IDENTITY
from projector.views.explain import Beaten, Entry, Explanation, Field
from projector.views.history import History

CHANGE_ID_WIDTH = 36


def print_explanation(out: Console, history: History, explanation: Explanation, fields: Sequence[Field]) -> None:
    """A heading, the fields with what each beat, and what else there is to know."""
    record = explanation.record
    _line(out, "/".join(history.identity), *_state_words(record))
    _line(out, _row_words(history))
    table = Table("field", "value", "stamp", "by", box=None, pad_edge=False, header_style="bold")
    # Whole ids: they are what one looks for.
    table.add_column("change", no_wrap=True, min_width=CHANGE_ID_WIDTH)
    for one in fields:
        value = shown(one.write.value, one.path)
        if one.status == "replaced":
            value += f"\nnot shown: replaced by a later write of {_dotted(one.by)}"
        elif one.status == "swallowed":
            value += f"\nnot shown: {_dotted(one.by)} is no object"
        _add(table, _dotted(one.path), value, Beaten(one.write, one.entry), "" if one.status == "shown" else "dim")
        for beaten in one.beaten:
            _add(table, "  beat", shown(beaten.write.value, one.path), beaten, "dim")
        if one.beaten_more:
            table.add_row(Text(f"  and {one.beaten_more} more", "dim"))
    out.print(table)
    for title, entry in (
        ("deleted", explanation.deleted_by),
        ("tombstone", explanation.tombstone),
        ("latest insert", explanation.insert),
        ("space", explanation.space),
    ):
        if entry is not None:
            _line(out, f"{title}: {_by(entry)}")
    for entry in explanation.passed_over:
        _line(out, f"delete passed over: {_by(entry)}")
    if explanation.passed_over and explanation.made is not None:
        _line(out, f"made: {_by(explanation.made)}")
    if explanation.grant is not None:
        _print_grant(out, explanation)
    for path, unstamped in explanation.unstamped:
        _line(out, f"unstamped: {_dotted(path)} by {_by(unstamped.entry)}")
    if explanation.unstamped_more:
        _line(out, f"unstamped: and {explanation.unstamped_more} more")
    for erased in history.erased:
        how = "truncation" if erased.by.truncated else "erasure"
        _line(out, f"erased: change {erased.change_id}, by the {how} at {erased.by.place}, offset {erased.by.offset}")
    for letter in history.letters:
        whose = "" if letter.names_record else " (of this user and table; it names no record)"
        where = "" if letter.offset is None else f", offset {letter.offset}"
        _line(out, f"dead letter: {letter.reason}: {letter.detail}; change {letter.change_id}{where}{whose}")
    if history.letters_more:
        _line(out, f"dead letters: and {history.letters_more} more")
    for note in notes(history, explanation):
        _line(out, note)


def print_object(out: Console, found: Json) -> None:
    """What `show` found."""
    _line(out, "/".join(str(found[name]) for name in IDENTITY))
    if found["exists"]:
        table = Table("field", "value", box=None, pad_edge=False, header_style="bold")
        for name, value in sorted(found["record"].items()):
            table.add_row(Text(printable(name)), Text(clipped(value)))
        out.print(table)
        for name in ("deleted", "deleted_at", "complete", "space_id", "updated_at"):
            _line(out, f"{name}: {found[name]}")
        if found["grant"] is not None:
            _line(out, f"effective grant: {clipped(found['grant'])}")
    else:
        _line(out, "the record was not there")
    if found["as_of"] is None:
        _line(out, f"serving row, at {found['source']}:{found['lsn']}; {_position_words(found['position'])}")
    else:
        _line(out, f"as of {found['as_of']}: {found['changes']} of {found['of']} changes")
    for note in found["notes"]:
        _line(out, note)


def _add(table: Table, name: str, value: str, one: Beaten, style: str) -> None:
    by, change = "\n".join(_who(one.entry)), "\n".join(_where(one.entry))
    cells = (name, value, stamp_of(one.write) or "unstamped", by, change)
    table.add_row(*(Text(cell, style) for cell in cells))


def _print_grant(out: Console, explanation: Explanation) -> None:
    grant = explanation.grant
    assert grant is not None
    _line(out, f"effective grant: {shown(grant.effective)}")
    if grant.issue is not None:
        what = "issued" if grant.effective is not None else "taken away"
        _line(out, f"  {what} by {_by(grant.issue)}")
    for entry in grant.later:
        _line(out, f"  expiry written later by {_by(entry)}")


def _state_words(record: Record) -> Iterator[str]:
    if record.deleted:
        yield f"deleted at {instant_text(record.deleted_at_us)}"
    if not record.complete:
        yield "partial"
    if record.updated_at_us is not None:
        yield f"updated at {instant_text(record.updated_at_us)}"


def _row_words(history: History) -> str:
    view = history.view.name
    words = {
        "equal": f"the serving row of view {view} equals this fold",
        "behind": f"the serving row of view {view} equals this fold as far as the view has come:"
        f" {history.to_come} changes are to come",
        "different": f"the serving row of view {view} is NOT this fold",
    }[history.standing]
    return f"{words}; {_position_words(position_of(history.position))}"


def _position_words(position: Json) -> str:
    if position["next_offset"] is None:
        return "the view has no position in this partition"
    lsn = "" if position["applied_lsn"] is None else f", everything up to LSN {position['applied_lsn']}"
    return f"the view has applied everything below offset {position['next_offset']}{lsn}"


def _who(entry: Entry) -> list[str]:
    change = entry.change
    actor = normalize_actor(change.actor)
    work = f", iteration {actor.iteration_id}" if isinstance(actor, AgentActor) else ""
    author = f"{redact(actor.display_name)} ({actor.kind} {actor.principal_id}{work})"
    return [printable(author), printable(f"{change.origin or 'no origin'}, client {change.client_id}")]


def _where(entry: Entry) -> list[str]:
    change = entry.change
    place = entry.whence if entry.place is None else f"{entry.place}, offset {entry.offset}"
    filled = ", filled" if entry.filled else ""
    return [f"{change.op} {change.id}", f"created {instant_text(change.created_at_us)}", f"{place}{filled}"]


def _by(entry: Entry) -> str:
    return ", ".join([*_who(entry), *_where(entry)])


def _dotted(path: Path | None) -> str:
    return printable(".".join(path or ()))


def _line(out: Console, *words: str) -> None:
    out.print(Text(printable("; ".join(words))), soft_wrap=True)
