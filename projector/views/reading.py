"""How a row of a view is read, by its fold: where it parts from the log, and at which change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from projector.fold import ITERATIONS_FOLD, RECORD_FOLD, Fold
from projector.fold.folds import Folded
from projector.fold.paths import Path
from projector.log.change import Change
from projector.views import differences, iteration_differences, iteration_parting, parting
from projector.views.declared import View
from projector.views.jsondiff import Found
from projector.views.parting import Parting

S = TypeVar("S", bound=Folded)


@dataclass(frozen=True, slots=True)
class Reading(Generic[S]):
    """`first` finds where two compared documents part; `contains` and `part` are those of `parting`."""

    fold: Fold[S]
    first: Callable[[dict[str, Any], dict[str, Any]], Found | None]
    contains: Callable[[S, Change], bool]
    part: Callable[[S | None, Sequence[Change], Path], Parting | None]

    def missing(self, state: dict[str, Any] | None, changes: Sequence[Change]) -> set[str]:
        """The ids of the changes that a row with this state lacks."""
        held = self._load(state) or self.fold.empty()
        return {change.id for change in changes if not self.contains(held, change)}

    def parting(self, state: dict[str, Any] | None, changes: Sequence[Change], path: Path) -> Parting | None:
        """Where a row with this state and the changes, in the order of their topic, part."""
        return self.part(self._load(state), changes, path)

    def _load(self, state: dict[str, Any] | None) -> S | None:
        """None without a row, or when its state cannot be read."""
        try:
            return None if state is None else self.fold.load(state)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            return None


_RECORDS = Reading(RECORD_FOLD, differences.first_in_rows, parting.contains, parting.part)
_ITERATIONS = Reading(
    ITERATIONS_FOLD, iteration_differences.first_in_rows, iteration_parting.contains, iteration_parting.part
)


def reading_of(view: View) -> Reading[Any]:
    """That of the view's fold."""
    return _ITERATIONS if view.fold is ITERATIONS_FOLD else _RECORDS
