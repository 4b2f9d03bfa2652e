"""The folds that a view may be made of, each as one object with the same operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from projector.fold import codec, iterations, iterations_codec, record, state
from projector.fold.counters import Counters
from projector.fold.iterations import IterationsState
from projector.fold.record import Record
from projector.fold.state import ChangeLike, State


class Folded(Protocol):
    """What every state tells."""

    @property
    def newest_us(self) -> int | None: ...


S = TypeVar("S", bound=Folded)


@dataclass(frozen=True, slots=True)
class Fold(Generic[S]):
    """`load(dump(state))` is the same state; `derive` gives a record whose values belong to the state."""

    empty: Callable[[], S]
    apply: Callable[[S, ChangeLike, Counters | None], object]
    derive: Callable[[S], Record]
    dump: Callable[[S], dict[str, Any]]
    load: Callable[[dict[str, Any]], S]
    newest_first: bool = False
    """Whether many changes of a record cost less when they are given from the last to the first: what most of them
    write has lost then."""


RECORD_FOLD: Fold[State] = Fold(
    State, state.apply, partial(record.derive, share=True), codec.dump, codec.load, newest_first=True
)
ITERATIONS_FOLD: Fold[IterationsState] = Fold(
    IterationsState, iterations.apply, iterations.as_record, iterations_codec.dump, iterations_codec.load
)
