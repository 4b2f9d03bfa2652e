"""What is told of a call: its metrics, and one line in the log, without a word of what was asked or answered."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from projector import metrics
from projector.llm.attempt import Attempt, Fallback, Usage
from projector.llm.breaker import Transition
from projector.llm.config import split
from projector.llm.registry import Snapshot
from projector.logging import get

_STATES = {"closed": 0, "open": 1, "half_open": 2}
_ALARMS = {"auth", "payment", "not_found"}
LONGEST_NAME = 100

log = get("llm")


def observe_call(
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
        _attempts(provider, model, attempt.outcome, attempt.kind).inc()
        if attempt.outcome != "skipped":
            _seconds(provider, model, attempt.outcome).observe(attempt.ms / 1000)
        if attempt.kind in _ALARMS and attempt.outcome == "failed":
            metrics.LLM_ALARMS.labels(provider, attempt.kind).inc()
            log.error("provider needs attention", provider=provider, kind=attempt.kind, entry=attempt.entry)
        if attempt.outcome == "ok":
            resolved = attempt.entry
        usage = attempt.usage
        if usage.prompt_tokens or usage.completion_tokens:
            _tokens(alias, provider, model, "prompt").inc(usage.prompt_tokens)
            _tokens(alias, provider, model, "completion").inc(usage.completion_tokens)
        if usage.cost:
            metrics.LLM_COST.labels(alias, provider, model).inc(usage.cost)
        total += usage
    for step in fallbacks:
        source, target = (name if name in entries else "other" if name else "" for name in (step.source, step.target))
        metrics.LLM_FALLBACKS.labels(source, target, step.reason).inc()
    _requests(alias, outcome).inc()
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


def observe_refused_route(kind: str, call_id: str) -> None:
    """A call for a name that leads nowhere."""
    _requests("unknown", kind).inc()
    log.info("call", call_id=call_id, outcome=kind)


class Circuits:
    """Keeps the metrics of circuits, those whose keys stand in the file."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._latest: dict[str, int] = {}

    def take(self, snapshot: Snapshot) -> None:
        """What left the file is shown no more."""
        self._snapshot = snapshot
        for key in [key for key in self._latest if not self._known(key)]:
            del self._latest[key]
            metrics.LLM_CIRCUIT_STATE.remove(key)

    def _known(self, key: str) -> bool:
        return key in self._snapshot.entries or key in self._snapshot.config.providers

    def __call__(self, transition: Transition) -> None:
        key = transition.key
        if not self._known(key):
            return
        metrics.LLM_CIRCUIT_CHANGES.labels(key, transition.to, transition.cause).inc()
        # Two threads may tell in the other order than it happened.
        if transition.seq > self._latest.get(key, 0):
            self._latest[key] = transition.seq
            metrics.LLM_CIRCUIT_STATE.labels(key).set(_STATES[transition.to])


def _labels(entry: str, listed: bool, snapshot: Snapshot) -> tuple[str, str]:
    provider, model = split(entry)
    if listed:
        return provider, model
    return (provider if provider in snapshot.config.providers else "other"), "other"


# Labels are looked up under a lock and through a hash of strings each time; the children stay the same.


@lru_cache(maxsize=4096)
def _attempts(provider: str, model: str, outcome: str, kind: str) -> Any:
    return metrics.LLM_ATTEMPTS.labels(provider, model, outcome, kind)


@lru_cache(maxsize=4096)
def _seconds(provider: str, model: str, outcome: str) -> Any:
    return metrics.LLM_ATTEMPT_SECONDS.labels(provider, model, outcome)


@lru_cache(maxsize=4096)
def _tokens(alias: str, provider: str, model: str, kind: str) -> Any:
    return metrics.LLM_ROUTED_TOKENS.labels(alias, provider, model, kind)


@lru_cache(maxsize=4096)
def _requests(alias: str, outcome: str) -> Any:
    return metrics.LLM_REQUESTS.labels(alias, outcome)
