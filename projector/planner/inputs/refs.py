"""References to records, as a mission holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

MAX_REFS = 200
"""More than devices offer to choose from."""


class Ref(NamedTuple):
    """The record `id` of `table`; `module` names the kind that tells of it."""

    module: str
    table: str
    id: str


class Refs(NamedTuple):
    """Each reference once, in order; `malformed` counts what is none, `beyond` those after the first MAX_REFS."""

    wanted: tuple[Ref, ...] = ()
    malformed: int = 0
    beyond: int = 0


def refs_of(inputs: object) -> Refs:
    """Reads a mission's `inputs`; never raises."""
    if inputs is None:
        return Refs()
    if not isinstance(inputs, list):
        return Refs(malformed=1)
    read = [_ref(element) for element in inputs]
    known = tuple(dict.fromkeys(ref for ref in read if ref is not None))
    return Refs(known[:MAX_REFS], read.count(None), max(0, len(known) - MAX_REFS))


def _ref(element: object) -> Ref | None:
    if not isinstance(element, Mapping):
        return None
    module, table, record_id = (element.get(name) for name in ("module", "table", "id"))
    if isinstance(module, str) and isinstance(table, str) and isinstance(record_id, str) and record_id:
        return Ref(module, table, record_id)
    return None
