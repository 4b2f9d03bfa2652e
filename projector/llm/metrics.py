"""What the router counts: an interface that does nothing, so that who uses it in a process of another kind needs no
metrics of ours. `projector.llm.prometheus` exports all of it.
"""

from __future__ import annotations

from typing import Literal

from projector.llm.attempt import Outcome, Usage
from projector.llm.circuit import Cause, State


class Metrics:
    """Override what is wanted. Nothing here may raise or wait; `circuit` and `circuit_shown` may come in any thread.

    Names are bounded: an alias, a provider and a model stand in the file, or are `direct`, `other` or `unknown`.
    """

    def call(self, alias: str, outcome: str) -> None:
        """Once for each call, at its end. `outcome`: ok, cancelled, fault, or the kind of the error."""

    def attempt(self, provider: str, model: str, outcome: Outcome, kind: str, seconds: float) -> None:
        """One entry's turn; of one that was skipped the time is nothing, and `kind` says why."""

    def spent(self, alias: str, provider: str, model: str, usage: Usage) -> None:
        """What an attempt cost, whether its answer was of use or not."""

    def fallback(self, source: str, target: str, reason: str) -> None:
        """`source` did not serve, `target` was asked in its place; '' when nobody was."""

    def alarm(self, provider: str, kind: str) -> None:
        """What only a person mends: auth, payment, not_found."""

    def first_byte(self, alias: str, seconds: float) -> None:
        """From a call to the first chunk of its stream, whatever was tried before."""

    def skipped_event(self, provider: str) -> None:
        """An event of a stream was no JSON."""

    def circuit(self, key: str, to: State, cause: Cause) -> None:
        """A circuit of a provider or a `provider/model` changed; two threads may tell in the other order."""

    def circuit_shown(self, key: str, state: State | None) -> None:
        """How it stands after the latest change; None: it left the file."""

    def probe(self, provider: str, result: Literal["ok", "auth", "failed"]) -> None:
        """`auth` comes beside `ok`: the provider is there, but refuses the key."""

    def reload(self, result: Literal["ok", "failed"]) -> None:
        """The file was read again; one with an error changes nothing."""

    def generation(self, number: int) -> None:
        """Of the file in force, from 1."""


NO_METRICS = Metrics()
