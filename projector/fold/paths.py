"""Keys of rows as paths into a record."""

from __future__ import annotations

from functools import lru_cache

Path = tuple[str, ...]

DELETED_AT: Path = ("deletedAt",)

# Identity and bookkeeping: never fields of a record, whoever writes them.
_STRIPPED = frozenset({"id", "updatedAt", "__fieldMeta", "_updatedAtIndex", "userId", "__lastActor"})
_LEGACY_PREFIX = "__field"


def is_stripped(key: str) -> bool:
    """True for keys that are not stored, and for everything below them."""
    head = key.partition(".")[0]
    return head in _STRIPPED or head.startswith(_LEGACY_PREFIX)


@lru_cache(maxsize=4096)
def update_path(key: str) -> Path | None:
    """The path that a key of an update names, or None when it is stripped.

    Split at dots; a key with an empty segment stays one literal name.
    """
    if is_stripped(key):
        return None
    segments = key.split(".")
    return tuple(segments) if all(segments) else (key,)


@lru_cache(maxsize=4096)
def insert_path(key: str) -> Path | None:
    """The same for a key of an insert: always one literal top-level name."""
    return None if is_stripped(key) else (key,)
