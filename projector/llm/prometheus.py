"""The router's metrics for Prometheus."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

from projector import metrics
from projector.llm.attempt import Outcome, Usage
from projector.llm.circuit import Cause, State
from projector.llm.metrics import Metrics

_STATES = {"closed": 0, "open": 1, "half_open": 2}


class PrometheusMetrics(Metrics):
    """In the registry of the process, under the names of `projector.metrics`; any number of routers may share them."""

    def call(self, alias: str, outcome: str) -> None:
        _requests(alias, outcome).inc()

    def attempt(self, provider: str, model: str, outcome: Outcome, kind: str, seconds: float) -> None:
        _attempts(provider, model, outcome, kind).inc()
        if outcome != "skipped":
            _seconds(provider, model, outcome).observe(seconds)

    def spent(self, alias: str, provider: str, model: str, usage: Usage) -> None:
        if usage.prompt_tokens or usage.completion_tokens:
            _tokens(alias, provider, model, "prompt").inc(usage.prompt_tokens)
            _tokens(alias, provider, model, "completion").inc(usage.completion_tokens)
        if usage.cost:
            metrics.LLM_COST.labels(alias, provider, model).inc(usage.cost)

    def fallback(self, source: str, target: str, reason: str) -> None:
        metrics.LLM_FALLBACKS.labels(source, target, reason).inc()

    def alarm(self, provider: str, kind: str) -> None:
        metrics.LLM_ALARMS.labels(provider, kind).inc()

    def first_byte(self, alias: str, seconds: float) -> None:
        metrics.LLM_FIRST_BYTE_SECONDS.labels(alias).observe(seconds)

    def skipped_event(self, provider: str) -> None:
        metrics.LLM_SKIPPED_EVENTS.labels(provider).inc()

    def circuit(self, key: str, to: State, cause: Cause) -> None:
        metrics.LLM_CIRCUIT_CHANGES.labels(key, to, cause).inc()

    def circuit_shown(self, key: str, state: State | None) -> None:
        if state is None:
            metrics.LLM_CIRCUIT_STATE.remove(key)
        else:
            metrics.LLM_CIRCUIT_STATE.labels(key).set(_STATES[state])

    def probe(self, provider: str, result: Literal["ok", "auth", "failed"]) -> None:
        metrics.LLM_PROBES.labels(provider, result).inc()

    def reload(self, result: Literal["ok", "failed"]) -> None:
        metrics.LLM_RELOADS.labels(result).inc()

    def generation(self, number: int) -> None:
        metrics.LLM_GENERATION.set(number)


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
