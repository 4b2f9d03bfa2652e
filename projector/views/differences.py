"""A difference between a row and the log: where it is, and what both say, as people may read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import orjson

from projector.log.clock import to_datetime
from projector.views.declared import Identity
from projector.views.jsondiff import ABSENT, Found, JsonPath, absent, first_difference
from projector.views.parting import Parting

Kind = Literal[
    "missing row",
    "extra row",
    "value",
    "stamp",
    "state",
    "deletion",
    "completeness",
    "typed column",
    "not in the topic",
]

SHOWN_CHARS = 2000
_CIPHERTEXT = "enc:1:"
_SECRET = ("wrappedKey", "wrapped_key")
_NO_MOMENT = (OverflowError, TypeError)
_RANKS = {"record": 0, "writes": 1, "state": 2}
_STAMP = ("value", "instant", "created_at", "change_id")


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place at which a row and the log part; both values as JSON text.

    `parting` is the first change at which they do, None where no change is to blame; `where` says where that change
    stands in its topic.
    """

    identity: Identity
    kind: Kind
    path: str
    serving: str
    log: str
    parting: Parting | None = None
    where: str = ""


def kind_of(path: JsonPath) -> Kind:
    """What kind of thing stands at a path of the compared document."""
    head = path[0] if path else ""
    if head == "record":
        return "value"
    if head == "writes":
        return "value" if "value" in path[2:3] else "stamp"
    if head == "state":
        return "state"
    if head in ("deleted", "deleted_at"):
        return "deletion"
    return "completeness" if head == "complete" else "typed column"


def shown(found: Found, instants: frozenset[str]) -> tuple[str, str]:
    """Both values as JSON text; `instants` are the columns that hold microseconds since 1970."""
    serving, log = found.serving, found.log
    if found.path and found.path[0] in instants:
        serving, log = _moment(serving), _moment(log)
    secret = any(isinstance(part, str) and part.rpartition(".")[2] in _SECRET for part in found.path)
    return show(serving, secret), show(log, secret)


def first_in_rows(row: dict[str, Any], folded: dict[str, Any]) -> Found | None:
    """Where a row and the log first part: what people see of the record comes before what follows from it."""
    one, other = by_path(row), by_path(folded)
    for name in sorted(one.keys() | other.keys(), key=lambda name: (_RANKS.get(name, len(_RANKS)), name)):
        found = first_difference(one.get(name, absent), other.get(name, absent), (name,))
        if found is not None:
            return found
    return None


def by_path(document: dict[str, Any]) -> dict[str, Any]:
    """The compared document with the writes of its state by their path, each with names for what it holds."""
    state = dict(document["state"])
    writes = state.pop("w", [])
    named = {_key(write[0]): dict(zip(_STAMP, write[1:], strict=True)) for write in writes}
    if len(named) != len(writes):
        return document
    return {**document, "state": state, "writes": named}


def _key(path: list[str]) -> str:
    return ".".join(path) if all("." not in part for part in path) else orjson.dumps(path).decode()


def show(value: Any, secret: bool = False) -> str:
    """JSON text, cut at SHOWN_CHARS; of ciphertext and keys only how long they are."""
    if value is absent:
        return ABSENT
    text = orjson.dumps(conceal(value, secret)).decode()
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}… ({len(text)} characters)"


def conceal(value: Any, secret: bool = False) -> Any:
    """The value with ciphertext, and every text of a `secret`, replaced by its length."""
    if isinstance(value, str):
        if value.startswith(_CIPHERTEXT):
            return f"{_CIPHERTEXT}… ({len(value.encode())} bytes)"
        return f"… ({len(value.encode())} bytes)" if secret else value
    if isinstance(value, dict):
        return {name: conceal(item, secret or name.rpartition(".")[2] in _SECRET) for name, item in value.items()}
    if isinstance(value, list):
        return [conceal(item, secret) for item in value]
    return value


def _moment(us: Any) -> Any:
    try:
        return to_datetime(us).isoformat()
    except _NO_MOMENT:
        return us
