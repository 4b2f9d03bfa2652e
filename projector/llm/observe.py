"""What is told of a call: its metrics, and one line in the log, without a word of what was asked or answered."""

from __future__ import annotations

from collections.abc import Sequence

from projector.llm.attempt import Attempt, Fallback, Usage
from projector.llm.breaker import Transition
from projector.llm.config import split
from projector.llm.metrics import Metrics
from projector.llm.registry import Snapshot
from projector.logging import get

_ALARMS = {"auth", "payment", "not_found"}
LONGEST_NAME = 100

log = get("llm")


def observe_call(
    metrics: Metrics,
    snapshot: Snapshot,
    requested: str,
    attempts: Sequence[Attempt],
    fallbacks: Sequence[Fallback],
    *,
    outcome: str,
    call_id: str,
    seconds: float,
    stream: bool,
) -> None:
    """Once for each call, at its end. `outcome`: ok, cancelled, or the kind of the error."""
    alias = requested if requested in snapshot.config.aliases else "direct"
    entries = snapshot.entries
    total = Usage()
    resolved = ""
    for attempt in attempts:
        provider, model = _labels(attempt.entry, attempt.entry in entries, snapshot)
        metrics.attempt(provider, model, attempt.outcome, attempt.kind, attempt.ms / 1000)
        if attempt.kind in _ALARMS and attempt.outcome == "failed":
            metrics.alarm(provider, attempt.kind)
            log.error("provider needs attention", provider=provider, kind=attempt.kind, entry=attempt.entry)
        if attempt.outcome == "ok":
            resolved = attempt.entry
        metrics.spent(alias, provider, model, attempt.usage)
        total += attempt.usage
    for step in fallbacks:
        source, target = (name if name in entries else "other" if name else "" for name in (step.source, step.target))
        metrics.fallback(source, target, step.reason)
    metrics.call(alias, outcome)
    log.info(
        "call",
        call_id=call_id,
        requested=requested[:LONGEST_NAME],
        resolved=resolved,
        outcome=outcome,
        stream=stream,
        attempts=" ".join(map(str, attempts)),
        ms=round(seconds * 1000, 1),
        prompt_tokens=total.prompt_tokens,
        completion_tokens=total.completion_tokens,
        cost=round(total.cost, 6),
    )


def observe_refused_route(metrics: Metrics, kind: str, call_id: str) -> None:
    """A call for a name that leads nowhere."""
    metrics.call("unknown", kind)
    log.info("call", call_id=call_id, outcome=kind)


class Circuits:
    """Keeps the metrics of circuits, those whose keys stand in the file."""

    def __init__(self, metrics: Metrics, snapshot: Snapshot) -> None:
        self._metrics = metrics
        self._snapshot = snapshot
        self._latest: dict[str, int] = {}

    def take(self, snapshot: Snapshot) -> None:
        """What left the file is shown no more."""
        self._snapshot = snapshot
        for key in [key for key in self._latest if not self._known(key)]:
            del self._latest[key]
            self._metrics.circuit_shown(key, None)

    def _known(self, key: str) -> bool:
        return key in self._snapshot.entries or key in self._snapshot.config.providers

    def __call__(self, transition: Transition) -> None:
        key = transition.key
        if not self._known(key):
            return
        self._metrics.circuit(key, transition.to, transition.cause)
        # Two threads may tell in the other order than it happened.
        if transition.seq > self._latest.get(key, 0):
            self._latest[key] = transition.seq
            self._metrics.circuit_shown(key, transition.to)


def _labels(entry: str, listed: bool, snapshot: Snapshot) -> tuple[str, str]:
    provider, model = split(entry)
    if listed:
        return provider, model
    return (provider if provider in snapshot.config.providers else "other"), "other"
