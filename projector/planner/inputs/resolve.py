"""What a run is told of its mission's inputs, and what it is not told. Pure: the records are read before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Self

from projector.logging import get
from projector.planner.ciphertext import is_ciphertext, scrub
from projector.planner.inputs.kinds import KINDS, DriftedShape, Fields, Kind
from projector.planner.inputs.refs import Ref, Refs
from projector.planner.inputs.sizes import cut

UNKNOWN = "unknown"
"""The module of a gap whose module is none of ours: what people write there never becomes a label."""

Why = Literal["unknown-kind", "malformed", "beyond-limit", "missing", "deleted", "encrypted", "drifted", "unavailable"]

_WHY: Mapping[Why, str] = {
    "unknown-kind": "unbekannte Art",
    "malformed": "fehlerhafter Verweis",
    "beyond-limit": "zu viele Verweise",
    "missing": "nicht gefunden",
    "deleted": "gelöscht",
    "encrypted": "verschlüsselt",
    "drifted": "unbekannte Form",
    "unavailable": "nicht erreichbar",
}

log = get("planner")


@dataclass(frozen=True, slots=True)
class ResolvedInput:
    """`note` is our own word to the model on what the content is good for; all else is data."""

    id: str
    module: str
    table: str
    title: str
    content: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Gap:
    """`module` is one of ours or UNKNOWN, `label` the German name of what is missing."""

    module: str
    label: str
    why: Why
    id: str = ""


class Found(NamedTuple):
    """A record as the view shows it now."""

    record: Fields
    deleted: bool
    complete: bool


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a run is told, in the order of its references, and what is missing."""

    told: tuple[ResolvedInput, ...] = ()
    gaps: tuple[Gap, ...] = ()

    @property
    def missing(self) -> str:
        """The gaps in one line of German, '' without one; nothing in it was written by people."""
        counts = Counter((gap.label, _WHY[gap.why]) for gap in self.gaps)
        return ", ".join(f"{f'{n}x ' if n > 1 else ''}{label} ({why})" for (label, why), n in counts.items())

    def with_(self, *more: ResolvedInput | Gap) -> Inputs:
        """These, and after them `more`."""
        told = tuple(one for one in more if isinstance(one, ResolvedInput))
        gaps = tuple(one for one in more if isinstance(one, Gap))
        return Inputs(self.told + told, self.gaps + gaps)

    @property
    def sizes(self) -> dict[str, Any]:
        """What is told with its bytes, and what is not with the reason: without a word that people wrote."""
        return {
            "told": [{"module": one.module, "bytes": len(one.content.encode())} for one in self.told],
            "gaps": [f"{gap.module}: {gap.why}" for gap in self.gaps],
        }

    def to_json(self) -> dict[str, Any]:
        return {"told": [asdict(one) for one in self.told], "gaps": [asdict(gap) for gap in self.gaps]}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        return cls(tuple(ResolvedInput(**one) for one in stored["told"]), tuple(Gap(**gap) for gap in stored["gaps"]))


def resolve(refs: Refs, found: Mapping[Ref, Found], kinds: Mapping[str, Kind] = KINDS) -> Inputs:
    """Never raises, whatever devices wrote: what cannot be told is a gap."""
    inputs = Inputs().with_(*(_resolve(ref, found.get(ref), kinds.get(ref.module)) for ref in refs.wanted))
    malformed = [Gap(UNKNOWN, "Input", "malformed")] if refs.malformed else []
    beyond = [Gap(UNKNOWN, "Input", "beyond-limit")] if refs.beyond else []
    return inputs.with_(*malformed, *beyond)


def _resolve(ref: Ref, found: Found | None, kind: Kind | None) -> ResolvedInput | Gap:
    if kind is None:
        return Gap(UNKNOWN, "Input", "unknown-kind", scrub(ref.id))

    def gap(why: Why) -> Gap:
        return Gap(ref.module, kind.label, why, scrub(ref.id))

    if found is None or not found.complete:
        return gap("missing")
    if found.deleted:
        return gap("deleted")
    if any(is_ciphertext(value) for name in kind.reads if isinstance(value := found.record.get(name), str)):
        return gap("encrypted")
    try:
        title, content = kind.resolve(found.record)
    except DriftedShape as drift:
        log.warning("input has an unknown shape", module=ref.module, field=str(drift))
        return gap("drifted")
    except Exception as error:
        # One input is never in the way of its mission. No text of the error: it may hold the record's.
        log.error("resolver broke", module=ref.module, error=type(error).__name__)
        return gap("drifted")
    return ResolvedInput(scrub(ref.id), ref.module, scrub(ref.table), scrub(title), cut(scrub(content), kind.most))


def readable(refs: Sequence[Ref], kinds: Mapping[str, Kind] = KINDS) -> list[tuple[Ref, str]]:
    """The references of a known kind, each with the app of its record."""
    return [(ref, kinds[ref.module].app) for ref in refs if ref.module in kinds]
