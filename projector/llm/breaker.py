"""The circuits of all providers and models. A call needs both, its provider's and its model's.

Any thread may use it: one lock, no waiting and no logging under it.
"""

from __future__ import annotations

import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from projector.errors import RouteError
from projector.llm.circuit import Cause, Circuit, Skip, State
from projector.llm.classify import blame_of
from projector.llm.config import BreakerSettings
from projector.logging import get

MOST_MODELS = 1000
"""Anybody who knows the key may ask for any `provider/model`, and each that fails would be kept."""

log = get("llm")


@dataclass(frozen=True, slots=True)
class ProviderState:
    """How one stands, for people. Times are Unix time, None when it never was or is not so."""

    healthy: bool = True
    state: State = "closed"
    cause: Cause = ""
    generation: int = 0
    consecutive_failures: int = 0
    probe_failures: int = 0
    last_error: str | None = None
    last_check: float = 0.0
    unhealthy_until: float = 0.0
    open_for_s: float = 0.0
    window_s: float = 0.0
    half_open_lease: bool = False
    auth_suspect: bool = False


@dataclass(frozen=True, slots=True)
class Transition:
    """`seq` grows with each: listeners may be called out of order, and the latest counts."""

    key: str
    to: State
    cause: Cause
    seq: int

    @property
    def healthy(self) -> bool:
        return self.to != "open"


Listener = Callable[[Transition], None]


class Lease:
    """The right to ask once. Exactly one of `ok`, `fail` and `release` ends it; what comes later is ignored."""

    __slots__ = ("_breaker", "_ended", "_generations", "_number", "_provider", "_target")

    def __init__(self, breaker: Breaker, number: int, provider: str, target: str, generations: tuple[int, int]) -> None:
        self._breaker = breaker
        self._number = number
        self._provider = provider
        self._target = target
        self._generations = generations
        self._ended = False

    def ok(self) -> None:
        """The call was answered."""
        if not self._end():
            self._breaker._succeeded(self._provider, self._target, self._generations)

    def fail(self, error: RouteError) -> None:
        """The call failed; what that says of provider and model is `classify`'s to decide."""
        if not self._end():
            self._breaker._failed(self._provider, self._target, self._generations, self._number, error)

    def release(self) -> None:
        """The call found nothing out: it was cancelled, or the request was at fault."""
        if not self._end():
            self._breaker._released(self._provider, self._target, self._number)

    def _end(self) -> bool:
        ended, self._ended = self._ended, True
        return ended


class Breaker:
    """`clock` decides, and never goes back; `wall` is only shown."""

    def __init__(
        self,
        settings: BreakerSettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._settings = settings or BreakerSettings()
        if self._settings.failure_threshold < 1:
            raise ValueError("failure_threshold must be 1 or more")
        if self._settings.open_s < 0:
            raise ValueError("open_s, the backoff, must be 0 or more")
        self._clock = clock
        self._wall = wall
        self._rng = rng or random.Random()  # noqa: S311
        self._lock = threading.Lock()
        self._providers: dict[str, Circuit] = {}
        self._models: OrderedDict[str, Circuit] = OrderedDict()
        self._checked: dict[str, float] = {}
        self._answered: dict[str, float] = {}
        self._auth_suspect: set[str] = set()
        self._listeners: list[Listener] = []
        self._seq = 0
        self._leases = 0

    def reconfigure(self, settings: BreakerSettings) -> None:
        """For what happens from now on; what is open stays so for its time."""
        with self._lock:
            self._settings = settings
            for circuit in (*self._providers.values(), *self._models.values()):
                circuit.settings = settings

    def add_listener(self, listener: Listener) -> None:
        """Called after each change of a state, outside the lock; what it raises is logged."""
        self._listeners.append(listener)

    # Calls

    def admit(self, provider: str, model: str, hold_s: float = 120.0) -> Lease | Skip:
        """The right to ask this model once, to be ended within `hold_s` seconds, or why not now."""
        target = f"{provider}/{model}"
        changed: list[Transition] = []
        with self._lock:
            now = self._clock()
            if target in self._models:
                # The names that are asked for again and again are not the ones to be dropped.
                self._models.move_to_end(target)
            keys = ((provider, self._providers.get(provider)), (target, self._models.get(target)))
            refusals = []
            for key, circuit in keys:
                if circuit is None:
                    continue
                before = circuit.generation
                refusals.append(circuit.refusal(now))
                self._note(changed, key, circuit, before)
            refused = [refusal for refusal in refusals if refusal is not None]
            if not refused:
                self._leases += 1
                generations = [circuit.admit(self._leases, now, hold_s) if circuit else 0 for _, circuit in keys]
                lease = Lease(self, self._leases, provider, target, (generations[0], generations[1]))
        self._tell(changed)
        # Both must be over before it is worth asking again.
        return max(refused, key=lambda skip: skip.retry_after) if refused else lease

    def closed_for(self, provider: str, model: str) -> float:
        """Seconds until a call may be admitted, 0 when one is now."""
        with self._lock:
            circuits = (self._providers.get(provider), self._models.get(f"{provider}/{model}"))
            now = self._clock()
            return max((circuit.closed_for(now) for circuit in circuits if circuit is not None), default=0.0)

    def _succeeded(self, provider: str, target: str, generations: tuple[int, int]) -> None:
        changed: list[Transition] = []
        with self._lock:
            self._checked[provider] = self._wall()
            self._answered[provider] = self._clock()
            keys = ((provider, self._providers.get(provider)), (target, self._models.get(target)))
            for (key, circuit), generation in zip(keys, generations, strict=True):
                if circuit is not None and circuit.succeeded(generation):
                    self._note(changed, key, circuit)
        self._tell(changed)

    def _failed(self, provider: str, target: str, generations: tuple[int, int], number: int, error: RouteError) -> None:
        reason = str(error.message)[:200]
        blame = blame_of(error.kind)
        if blame == "none":
            self._released(provider, target, number)
            return
        changed: list[Transition] = []
        with self._lock:
            now = self._clock()
            self._checked[provider] = self._wall()
            if blame == "provider":
                self._strike(changed, provider, generations[0], now, reason)
            elif blame == "model":
                opened = self._strike(changed, target, generations[1], now, reason)
                on_trial = self._of(provider).state == "half_open"
                if opened or on_trial:
                    self._strike(changed, provider, generations[0], now, reason)
            else:
                key, generation = (
                    (provider, generations[0]) if blame in ("auth", "payment") else (target, generations[1])
                )
                circuit = self._of(key)
                if circuit.barred(generation, now, blame, reason, error.retry_after):
                    self._note(changed, key, circuit)
            self._release(provider, target, number)
        self._tell(changed)

    def _strike(self, changed: list[Transition], key: str, generation: int, now: float, reason: str) -> bool:
        circuit = self._of(key)
        opened = circuit.struck(generation, now, reason)
        if opened:
            self._note(changed, key, circuit)
        return opened

    def _released(self, provider: str, target: str, number: int) -> None:
        with self._lock:
            self._release(provider, target, number)

    def _release(self, provider: str, target: str, number: int) -> None:
        for circuit in (self._providers.get(provider), self._models.get(target)):
            if circuit is not None:
                circuit.released(number)

    # Probes and people

    def probe_ok(self, provider: str) -> None:
        changed: list[Transition] = []
        with self._lock:
            self._checked[provider] = self._wall()
            circuit = self._of(provider)
            if circuit.probe_succeeded():
                self._note(changed, provider, circuit)
        self._tell(changed)

    def probe_fail(self, provider: str, reason: str) -> None:
        changed: list[Transition] = []
        with self._lock:
            self._checked[provider] = self._wall()
            circuit = self._of(provider)
            if circuit.probe_failed(self._clock(), reason):
                self._note(changed, provider, circuit)
        self._tell(changed)

    def mark_healthy(self, provider: str) -> None:
        """It is well: closes its circuit, and forgets what was counted."""
        changed: list[Transition] = []
        with self._lock:
            self._checked[provider] = self._wall()
            circuit = self._of(provider)
            was = circuit.state
            circuit.close()
            if was != "closed":
                self._note(changed, provider, circuit)
        self._tell(changed)

    def mark_unhealthy(self, provider: str, reason: str) -> None:
        """One failure of the provider, found outside a lease."""
        changed: list[Transition] = []
        with self._lock:
            self._checked[provider] = self._wall()
            circuit = self._of(provider)
            if circuit.failed(self._clock(), reason):
                self._note(changed, provider, circuit)
        self._tell(changed)

    def reset(self, providers: Collection[str] | None = None) -> None:
        """Closes everything, or what belongs to these providers."""
        with self._lock:
            keys = [*self._providers, *self._models]
            if providers is not None:
                keys = [key for key in keys if key.partition("/")[0] in providers]
                self._auth_suspect.difference_update(providers)
        changed: list[Transition] = []
        for key in keys:
            with self._lock:
                circuit = self._of(key)
                was = circuit.state
                circuit.close()
                if was != "closed":
                    self._note(changed, key, circuit)
        self._tell(changed)

    def suspect_auth(self, provider: str, suspect: bool) -> None:
        """Whether a probe was refused the key, which says nothing of the provider's health."""
        with self._lock:
            (self._auth_suspect.add if suspect else self._auth_suspect.discard)(provider)

    # Reads

    def answered_within(self, provider: str, seconds: float) -> bool:
        """Whether a call of it was answered so short ago, and none has opened it since."""
        with self._lock:
            at = self._answered.get(provider)
            circuit = self._providers.get(provider)
            return at is not None and self._clock() - at < seconds and (circuit is None or circuit.state == "closed")

    def is_healthy(self, provider: str) -> bool:
        """False while its circuit is open."""
        with self._lock:
            circuit = self._providers.get(provider)
            return circuit is None or circuit.state != "open" or circuit.until <= self._clock()

    def get_state(self, key: str) -> ProviderState | None:
        """Of a provider or a `provider/model`; None when nothing was ever found out about it."""
        with self._lock:
            circuit = self._providers.get(key) or self._models.get(key)
            if circuit is None and key not in self._checked:
                return None
            return self._state(key, circuit)

    def snapshot(self, expected: Collection[str] = ()) -> dict[str, ProviderState]:
        """The states of all providers that are known or expected."""
        with self._lock:
            keys = dict.fromkeys((*expected, *self._providers, *self._checked))
            return {key: self._state(key, self._providers.get(key)) for key in keys}

    def models(self) -> dict[str, ProviderState]:
        """The states of the models that are not simply well."""
        with self._lock:
            return {key: self._state(key, circuit) for key, circuit in self._models.items()}

    def _state(self, key: str, circuit: Circuit | None) -> ProviderState:
        shown = ProviderState(last_check=self._checked.get(key, 0.0), auth_suspect=key in self._auth_suspect)
        if circuit is None:
            return shown
        open_for_s = max(circuit.until - self._clock(), 0.0) if circuit.state == "open" else 0.0
        state: State = "half_open" if circuit.state == "open" and not open_for_s else circuit.state
        return replace(
            shown,
            healthy=state == "closed",
            state=state,
            cause=circuit.cause,
            generation=circuit.generation,
            consecutive_failures=circuit.call_failures,
            probe_failures=circuit.probe_failures,
            last_error=circuit.last_error or None,
            unhealthy_until=self._wall() + open_for_s if open_for_s else 0.0,
            open_for_s=open_for_s,
            window_s=circuit.window_s,
            half_open_lease=circuit.trial is not None and self._clock() < circuit.trial_until,
        )

    def _of(self, key: str) -> Circuit:
        circuits = self._models if "/" in key else self._providers
        circuit = circuits.get(key)
        if circuit is None:
            circuit = circuits[key] = Circuit(self._settings, self._rng)
            if circuits is self._models and len(self._models) > MOST_MODELS:
                self._models.popitem(last=False)
        return circuit

    def _note(self, changed: list[Transition], key: str, circuit: Circuit, before: int | None = None) -> None:
        if before != circuit.generation:
            self._seq += 1
            changed.append(Transition(key, circuit.state, circuit.cause, self._seq))

    def _tell(self, changed: list[Transition]) -> None:
        for transition in changed:
            level = log.warning if transition.to == "open" else log.info
            level("circuit " + transition.to, key=transition.key, cause=transition.cause)
            for listener in self._listeners:
                try:
                    listener(transition)
                except Exception:
                    log.exception("a listener failed", key=transition.key)
