"""The effective grant of a mission, read strictly.

Devices re-send the arrays of a grant with every edit, also stale ones, so the record's `grant` may mix two grants
or show fragments of a revoked one. The register keeps whole grants only: the newest row that wrote the wrapped key
decides, and nothing that comes later can widen what it carried.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from projector.fold.paths import Path
from projector.fold.stamps import Order, Write, parse_instant
from projector.fold.values import copy_json

GRANT = "grant"
_WHOLE: Path = (GRANT,)
_WRAPPED_KEY: Path = (GRANT, "wrappedKey")
_EXPIRES_AT: Path = (GRANT, "expiresAt")
# Part of a grant's identity: a renewal leaves them as they are, so its row does not carry them.
_INHERITED = ("version", "missionId")


class Issue(NamedTuple):
    """The newest write of a wrapped key: `fields` is what its row carried, None when it took the grant away."""

    instant: int
    created_us: int
    change_id: str
    fields: dict[str, Any] | None


class Expiry(NamedTuple):
    """A later write of `grant.expiresAt` alone."""

    instant: int
    created_us: int
    change_id: str
    expires_us: int
    text: str


class GrantRegister(NamedTuple):
    """Grows by maximum: the newest issue, and the writes after it that may shorten it, oldest first.

    Of two later writes only the newer counts unless the older one ends sooner: so the kept ones end later and later.
    """

    issue: Issue | None = None
    later: tuple[Expiry, ...] = ()


def observe(register: GrantRegister | None, writes: Iterable[tuple[Path, Write]]) -> GrantRegister | None:
    """The register after one row's writes below `grant`; the same object when it learns nothing."""
    carried = dict(writes)
    issue = _issue(carried)
    # As a join would keep them, so that a row taken twice leaves what it left the first time.
    learned = GrantRegister(issue, _frontier(issue, _expiries(carried)))
    if learned.issue is None and not learned.later:
        return register
    return join(register, learned)


def join(one: GrantRegister | None, other: GrantRegister | None) -> GrantRegister | None:
    """The least register that knows what both know; `one` itself when it knows all of it."""
    if one is None or other is None:
        return other if one is None else one
    issue = one.issue
    if other.issue is not None and (issue is None or other.issue[:3] > issue[:3]):
        issue = other.issue
    later = _frontier(issue, {*one.later, *other.later})
    return one if issue is one.issue and later == one.later else GrantRegister(issue, later)


def effective_grant(register: GrantRegister | None, writes: Mapping[Path, Write]) -> dict[str, Any] | None:
    """The grant in force, or None. It may be incomplete or expired: whoever uses it validates it.

    `writes` is the record's state; only `derivation.version` and `derivation.missionId` may come from there.
    """
    if register is None or register.issue is None or register.issue.fields is None:
        return None
    issue = register.issue
    grant: dict[str, Any] = copy_json(issue.fields)
    derivation = grant.setdefault("derivation", {})
    if isinstance(derivation, dict):
        for name in _INHERITED:
            if derivation.get(name) is None and (value := _inherited(issue, writes, name)) is not None:
                derivation[name] = value
    expires_at = grant.get("expiresAt")
    expires_us = parse_instant(expires_at) if isinstance(expires_at, str) else None
    if expires_us is not None:
        for expiry in register.later:
            if expiry.expires_us < expires_us and expiry.change_id != issue.change_id:
                expires_us = expiry.expires_us
                grant["expiresAt"] = expiry.text
    return grant


def _issue(carried: Mapping[Path, Write]) -> Issue | None:
    whole = carried.get(_WHOLE)
    if whole is not None:  # children beside it in the same row do not show, so they do not count either
        fields = whole.value if isinstance(whole.value, dict) and _is_key(whole.value.get("wrappedKey")) else None
        return Issue(whole.instant, whole.created_us, whole.change_id, fields)
    key = carried.get(_WRAPPED_KEY)
    if key is None:
        return None
    return Issue(key.instant, key.created_us, key.change_id, _assemble(carried) if _is_key(key.value) else None)


def _is_key(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _assemble(carried: Mapping[Path, Write]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for path in sorted(carried, key=len):
        if any(path[:depth] in carried for depth in range(2, len(path))):
            continue
        inner = fields
        for segment in path[1:-1]:
            inner = inner.setdefault(segment, {})
        inner[path[-1]] = copy_json(carried[path].value)
    return fields


def _expiries(carried: Mapping[Path, Write]) -> tuple[Expiry, ...]:
    write = carried.get(_EXPIRES_AT)
    if write is None or _WHOLE in carried or not isinstance(write.value, str):
        return ()
    expires_us = parse_instant(write.value)
    if expires_us is None:
        return ()
    return (Expiry(write.instant, write.created_us, write.change_id, expires_us, write.value),)


def _frontier(issue: Issue | None, expiries: Iterable[Expiry]) -> tuple[Expiry, ...]:
    kept: list[Expiry] = []
    for expiry in sorted(expiries, reverse=True):
        if issue is not None and expiry[:3] <= issue[:3]:
            break
        if not kept or expiry.expires_us < kept[-1].expires_us:
            kept.append(expiry)
    return tuple(reversed(kept))


def _inherited(issue: Issue, writes: Mapping[Path, Write], name: str) -> str | int | float | None:
    """What the record shows at `grant.derivation.<name>`, if the write that shows it is stamped no later."""
    path = (GRANT, "derivation", name)
    shown: tuple[int, Write] | None = None
    newest: Order | None = None
    for depth in range(1, len(path) + 1):
        write = writes.get(path[:depth])
        if write is not None and (newest is None or write.order > newest):
            shown, newest = (depth, write), write.order
    if shown is None or shown[1][:3] > issue[:3]:
        return None
    depth, write = shown
    value = write.value
    for segment in path[depth:]:
        value = value.get(segment) if isinstance(value, dict) else None
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else None
