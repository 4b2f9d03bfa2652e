"""One record in the engine's memory: the fold's state and the largest place that went into it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from projector.fold import Counters, Fold
from projector.log.change import Change
from projector.log.clock import to_datetime
from projector.log.place import Place, lsn_text
from projector.views.declared import Identity, View, moment

Row = tuple[str | int | bool | datetime | None, ...]
"""Values in the order of `View.all_columns`; JSON as text."""


@dataclass(slots=True)
class Held:
    """`size` is the length of the encoded state: what the record costs in memory, in proportion."""

    fold: Fold[Any]
    state: Any
    source: int = 0
    lsn: int = 0
    size: int = 0

    def take(self, change: Change, place: Place, noticed: Counters | None = None) -> None:
        """Folds one change in, in whatever order changes come, and counts what is odd about it."""
        self.fold.apply(self.state, change, noticed)
        self.reach(place)

    def reach(self, place: Place) -> None:
        """Remembers the largest place."""
        source, lsn, _ = place
        if source > self.source or (source == self.source and lsn > self.lsn):
            self.source, self.lsn = source, lsn

    def row(self, view: View, identity: Identity) -> Row:
        """The record as a row of the view's table: a function of the changes taken, and of nothing else."""
        record = self.fold.derive(self.state)
        state = orjson.dumps(self.fold.dump(self.state)).decode()
        self.size = len(state)
        newest_us = self.state.newest_us
        return (
            *view.key_of(identity),
            *[column.value(record) for column in view.columns],
            record.deleted,
            moment(record.deleted_at_us),
            record.complete,
            record.space_id,
            self.source,
            lsn_text(self.lsn),
            to_datetime(0 if newest_us is None else newest_us),
            moment(record.updated_at_us),
            orjson.dumps(record.fields).decode(),
            state,
        )


def nothing(fold: Fold[Any]) -> Held:
    """A record of which no change has come yet."""
    return Held(fold, fold.empty())


def restore(fold: Fold[Any], state: str, source: int, lsn: int) -> Held:
    """The record that a row holds."""
    return Held(fold, fold.load(orjson.loads(state)), source, lsn, len(state))


def fold_anew(fold: Fold[Any], changes: Iterable[Change], place: Place) -> Held:
    """A record folded from all its changes at once, as far as `place`."""
    held = nothing(fold)
    for change in changes:
        held.take(change, place)
    held.reach(place)
    return held
