"""The recorded histories of tests/data."""

from __future__ import annotations

import gzip
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from projector.devices import Key
from projector.log.change import Change, decode

HISTORIES = ("tame", "rough")
DATA = Path(__file__).parent.parent / "data"


@cache
def changes_of(history: str) -> tuple[Change, ...]:
    """Every row of a history, in commit order."""
    return tuple(decode(line) for line in _lines(f"log-{history}"))


@cache
def changes_by_record(history: str) -> dict[tuple[str, Key], list[Change]]:
    """The rows of each record: `(user, record)` → rows in commit order."""
    grouped = defaultdict(list)
    for change in changes_of(history):
        grouped[change.user_id, Key(change.app_id, change.table, change.record_id)].append(change)
    return dict(grouped)


def devices_show(history: str) -> Iterator[tuple[str, Key, dict[str, Any] | None]]:
    """What real clients showed: user, record, and the record as a new device has it."""
    for line in _lines(f"devices-{history}"):
        row = orjson.loads(line)
        yield row["user_id"], Key("ai", row["table_name"], row["record_id"]), row["new_device"]


def _lines(name: str) -> list[bytes]:
    return gzip.decompress((DATA / f"{name}.jsonl.gz").read_bytes()).splitlines()
