"""The kinds of inputs: of which app their records are, and what each tells of one.

To add a kind that is stored in plain text: write what it tells, and name it in `KINDS`. A resolver gets the fields of
a record that are readable, whoever made them so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

Fields = Mapping[str, Any]

UNTITLED = "(ohne Titel)"


class Told(NamedTuple):
    title: str
    content: str


class DriftedShape(Exception):
    """A field of the record has a type that its kind does not know; the message names the field, not its value."""


@dataclass(frozen=True, slots=True)
class Kind:
    """`label` is for people, in German. `most`: UTF-16 units of content. `reads`: all that the resolver looks at."""

    app: str
    label: str
    reads: tuple[str, ...]
    most: int
    resolve: Callable[[Fields], Told]


def _goal(record: Fields) -> Told:
    target = record.get("target")
    if target is not None and not isinstance(target, Mapping):
        raise DriftedShape("target")
    target = target or {}
    current, wanted = _number(record, "currentValue", "0"), _number(target, "value", "?")
    return Told(_title(record, "Goal"), f"Fortschritt: {current} / {wanted} ({_text(target, 'period') or 'unbekannt'})")


def _note(record: Fields) -> Told:
    return Told(_title(record, "Notiz"), _any(record.get("content")))


def _task(record: Fields) -> Told:
    status, description, due = (_text(record, name) for name in ("status", "description", "dueDate"))
    parts = [
        f"[{status}]" if status else "",
        _text(record, "title") or UNTITLED,
        f"— {description}" if description else "",
        f"(faellig: {due})" if due else "",
    ]
    return Told(_title(record, "Task"), " ".join(filter(None, parts)))


def _event(record: Fields) -> Told:
    start, place = _text(record, "startDate"), _text(record, "location")
    parts = [_text(record, "title") or UNTITLED, f"@ {start}" if start else "", f"in {place}" if place else ""]
    return Told(_title(record, "Termin"), " ".join(filter(None, parts)))


def _journal(record: Fields) -> Told:
    return Told(_title(record, "Journal-Eintrag"), _text(record, "content"))


def _kontext(record: Fields) -> Told:
    return Told("Mana-Kontext", _any(record.get("content")))


_PROFILE = ("about", "interests", "routine", "nutrition", "goals", "social", "freeform")


def _profile(record: Fields) -> Told:
    parts = []
    for name in _PROFILE:
        value = record.get(name)
        if isinstance(value, (Mapping, list)):
            parts.append(_json(value))
        elif text := _text(record, name).strip():
            parts.append(text)
    return Told("Nutzerprofil", "\n".join(parts))


_TODO = Kind("todo", "Aufgabe", ("title", "description", "status", "dueDate"), 500, _task)

KINDS: Mapping[str, Kind] = {
    "goals": Kind("companion", "Ziel", ("title", "currentValue", "target"), 500, _goal),
    "notes": Kind("notes", "Notiz", ("title", "content"), 500, _note),
    "tasks": _TODO,
    "todo": _TODO,
    "calendar": Kind("calendar", "Termin", ("title", "startDate", "location"), 500, _event),
    "journal": Kind("journal", "Journal-Eintrag", ("title", "content"), 500, _journal),
    "kontext": Kind("kontext", "Kontext", ("content",), 1500, _kontext),
    "profile": Kind("profile", "Nutzerprofil", _PROFILE, 2000, _profile),
}


def _title(record: Fields, label: str) -> str:
    title = record.get("title")
    return title if isinstance(title, str) else label


def _text(record: Fields, name: str) -> str:
    value = record.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DriftedShape(name)
    return value


def _number(record: Fields, name: str, missing: str) -> str:
    value = record.get(name)
    if value is None:
        return missing
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DriftedShape(name)
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _any(value: object) -> str:
    return value if isinstance(value, str) else _json("" if value is None else value)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
