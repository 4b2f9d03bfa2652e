"""What is known of a record, as scripts read it: times are ISO 8601 in UTC, LSNs as PostgreSQL writes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from projector.cli.redact import redact
from projector.fold import Path, Record, Write, derive
from projector.log.actor import normalize_actor
from projector.log.clock import to_datetime
from projector.log.place import Place, lsn_text
from projector.views.asof import AsOf, AtTime
from projector.views.collect import Erased, Letter
from projector.views.declared import IDENTITY, Identity
from projector.views.explain import Beaten, Entry, Explanation, Field
from projector.views.history import History
from projector.views.serving import Position, ServingRow

Json = dict[str, Any]


def as_object(history: History, explanation: Explanation, fields: Sequence[Field]) -> Json:
    """The whole explanation, with these of its fields."""
    record = explanation.record
    grant = explanation.grant
    return {
        **_identity(history.identity),
        "fields": [_field(one) for one in fields],
        "deleted": record.deleted,
        "restored": explanation.restored,
        "tombstone": _optional(explanation.tombstone),
        "tombstone_stands": explanation.tombstone_stands,
        "deleted_by": _optional(explanation.deleted_by),
        "made": _optional(explanation.made),
        "passed_over": [entry_of(entry) for entry in explanation.passed_over],
        "insert": _optional(explanation.insert),
        "complete": record.complete,
        "updated_at": instant_text(record.updated_at_us),
        "space": None if explanation.space is None else {"id": record.space_id, "change": entry_of(explanation.space)},
        "grant": None
        if grant is None
        else {
            "effective": redact(grant.effective),
            "issue": _optional(grant.issue),
            "later": [entry_of(entry) for entry in grant.later],
        },
        "unstamped": [_write(one, path) | {"path": list(path)} for path, one in explanation.unstamped],
        "unstamped_more": explanation.unstamped_more,
        "erased": [_erased(one) for one in history.erased],
        "dead_letters": [_letter(one) for one in history.letters],
        "dead_letters_more": history.letters_more,
        "changes": len(history.entries),
        "repeats": history.repeats,
        "row": _row(history),
        "log": _log(history),
        "notes": notes(history, explanation),
    }


def row_object(identity: Identity, row: ServingRow, position: Position) -> Json:
    """The serving row."""
    return {
        **_identity(identity),
        "as_of": None,
        "exists": True,
        "deleted": row.deleted,
        "deleted_at": _moment(row.deleted_at),
        "complete": row.complete,
        "space_id": row.space_id,
        "updated_at": _moment(row.updated_at),
        "record": redact(row.record),
        "grant": redact(derive(row.state, share=True).grant),
        "lsn": lsn_text(row.lsn),
        "source": row.source,
        "position": position_of(position),
        "notes": [],
    }


def past_object(history: History, text: str, as_of: AsOf, entries: Sequence[Entry], record: Record | None) -> Json:
    """The record as of `text`; None for a record that was not there yet."""
    found: Json = {**_identity(history.identity), "as_of": text, "exists": record is not None}
    if record is not None:
        found |= {
            "deleted": record.deleted,
            "deleted_at": instant_text(record.deleted_at_us),
            "complete": record.complete,
            "space_id": record.space_id,
            "updated_at": instant_text(record.updated_at_us),
            "record": redact(record.fields),
            "grant": redact(record.grant),
        }
    found |= {
        "changes": len(entries),
        "of": len(history.entries),
        "newest": _optional(max(entries, key=lambda entry: entry.offset or -1, default=None)),
        "log": _log(history),
    }
    remarks = [*_log_notes(history)]
    if isinstance(as_of, AtTime) and any(_is_created(entry) for entry in history.entries):
        remarks.append("filled changes, and those without a place, count by created_at: their commit time is not known")
    return found | {"notes": remarks}


def entry_of(entry: Entry) -> Json:
    """Who wrote a change, when, and where it is."""
    change = entry.change
    place = entry.place
    return {
        "id": change.id,
        "op": change.op,
        "actor": redact(normalize_actor(change.actor).to_json()),
        "origin": change.origin,
        "client_id": change.client_id,
        "created_at": instant_text(change.created_at_us),
        "source": None if place is None else place.source,
        "lsn": None if place is None else lsn_text(place.lsn),
        "ord": None if place is None else place.ord,
        "offset": entry.offset,
        "filled": entry.filled,
        "whence": entry.whence,
    }


def notes(history: History, explanation: Explanation) -> list[str]:
    """What a reader has to know beside the fields."""
    found = [*_log_notes(history)]
    if not explanation.record.complete and history.entries:
        found.append("the record is partial: no insert with data was found, so it is kept, and never due")
    tombstone, over = explanation.tombstone, explanation.passed_over
    if tombstone is not None and not explanation.tombstone_stands and tombstone not in over:
        found.append("it was deleted outright, and an insert of later order brought it back")
    if over:
        found.append(f"deletes of earlier order than the row that made it: {len(over)}; devices pass over them")
    return found


def _log_notes(history: History) -> Iterator[str]:
    every = f"of {len(history.entries)} changes"
    cut = sum(entry.whence == "before the topic's beginning" for entry in history.entries)
    if cut:
        beginning = f"before the topic's beginning (offset {history.reach.beginning})"
        yield f"{cut} {every} from sync_changes, {beginning}: no LSN, no offset"
    pending = sum(entry.whence == "not in the topic yet" for entry in history.entries)
    if pending:
        yield f"{pending} {every} from sync_changes, not in the topic yet"
    if history.unlogged:
        yield f"{history.unlogged} {every} no longer in sync_changes, though no record says that they were erased"
    if history.erased:
        yield f"erased from the log: {len(history.erased)}; what was erased counts at no time, also not before"


def _identity(identity: Identity) -> Json:
    return dict(zip(IDENTITY, identity, strict=True))


def _field(one: Field) -> Json:
    return {
        "path": list(one.path),
        "status": one.status,
        "by": None if one.by is None else list(one.by),
        "shown": redact(one.shown, one.path),
        **_write(Beaten(one.write, one.entry), one.path),
        "beaten": [_write(beaten, one.path) for beaten in one.beaten],
        "beaten_more": one.beaten_more,
    }


def _write(one: Beaten, path: Path) -> Json:
    return {
        "value": redact(one.write.value, path),
        "stamp": stamp_of(one.write),
        "change": entry_of(one.entry),
    }


def _optional(entry: Entry | None) -> Json | None:
    return None if entry is None else entry_of(entry)


def _erased(one: Erased) -> Json:
    return {
        "id": one.change_id,
        "by": "truncation" if one.by.truncated else "erasure",
        **_place(one.by.place),
        "offset": one.by.offset,
    }


def _letter(one: Letter) -> Json:
    return {
        "reason": one.reason,
        "detail": one.detail,
        "id": one.change_id,
        **_place(one.place),
        "offset": one.offset,
        "names_record": one.names_record,
    }


def _place(place: Place | None) -> Json:
    if place is None:
        return {"source": None, "lsn": None, "ord": None}
    return {"source": place.source, "lsn": lsn_text(place.lsn), "ord": place.ord}


def _row(history: History) -> Json:
    row = history.row
    return {
        "view": history.view.name,
        "standing": history.standing,
        "exists": row is not None,
        "source": None if row is None else row.source,
        "lsn": None if row is None else lsn_text(row.lsn),
        "changes_to_come": history.to_come,
        **position_of(history.position),
    }


def position_of(position: Position) -> Json:
    return {
        "next_offset": position.next_offset,
        "applied_lsn": None if position.lsn is None else lsn_text(position.lsn),
    }


def _log(history: History) -> Json:
    topic, partition = history.partition
    return {
        "topic": topic,
        "partition": partition,
        "beginning": history.reach.beginning,
        "read_from": history.begin,
        "end": history.end,
        "records_read": history.scanned,
    }


def _is_created(entry: Entry) -> bool:
    return entry.filled or entry.place is None


def stamp_of(write: Write) -> str | None:
    return instant_text(write.instant) if write.stamped else None


def instant_text(us: int | None) -> str | None:
    return None if us is None else _moment(to_datetime(us))


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
