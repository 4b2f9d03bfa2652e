"""One circuit breaker, without a clock and without a lock: `now` is given, in seconds of a monotonic clock.

Closed: calls pass. Open: none does, until a time. Half open: one call at a time passes, on trial. What a call
found is told with the generation in which it was admitted, and what an older one found changes nothing.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Literal

from projector.llm.config import BreakerSettings

State = Literal["closed", "open", "half_open"]
Cause = Literal["", "call", "probe", "rate_limit", "auth", "payment", "not_found"]
Reason = Literal["open", "half-open-busy", "cooling"]

LONGEST_COOLING_S = 300.0
SHORTEST_COOLING_S = 1.0
FIXED_WINDOW_S: dict[str, float] = {"auth": 300.0, "payment": 900.0, "not_found": 600.0}


@dataclass(frozen=True, slots=True)
class Skip:
    """Not admitted, for so many seconds."""

    reason: Reason
    retry_after: float


@dataclass(slots=True)
class Circuit:
    """`until` is when an open one becomes half open; `generation` counts the changes of its state."""

    settings: BreakerSettings
    rng: random.Random = field(default_factory=random.Random, repr=False)
    state: State = "closed"
    cause: Cause = ""
    generation: int = 0
    call_failures: int = 0
    probe_failures: int = 0
    until: float = 0.0
    window_s: float = 0.0
    reopened: int = 0
    last_error: str = ""
    owes_trial: bool = False
    """Open by probes, after calls had opened it and none had succeeded since."""
    trial: int | None = None
    trial_until: float = 0.0

    # Admission

    def refusal(self, now: float) -> Skip | None:
        """Why a call would not be admitted; an open one whose time is over becomes half open."""
        if self.state == "open":
            if now < self.until:
                return Skip("cooling" if self.cause == "rate_limit" else "open", self.until - now)
            self._become("half_open")
        if self.state == "half_open" and self.trial is not None and now < self.trial_until:
            return Skip("half-open-busy", self.trial_until - now)
        return None

    def admit(self, lease: int, now: float, hold_s: float) -> int:
        """After `refusal` gave None: the generation of this call. A trial is lost after `hold_s`."""
        if self.state == "half_open":
            self.trial, self.trial_until = lease, now + hold_s
        return self.generation

    def closed_for(self, now: float) -> float:
        """Seconds until a call may be admitted, 0 when one is now. Changes nothing."""
        if self.state == "open":
            return max(self.until - now, 0.0)
        if self.state == "half_open" and self.trial is not None:
            return max(self.trial_until - now, 0.0)
        return 0.0

    # What calls found

    def succeeded(self, generation: int) -> bool:
        """Whether the state changed."""
        if generation != self.generation or self.state == "open":
            return False
        self.call_failures = self.reopened = 0
        self.last_error = ""
        if self.state == "half_open":
            self.close()
            return True
        return False

    def struck(self, generation: int, now: float, reason: str) -> bool:
        """A failure that counts: opens at the threshold, or at once on trial."""
        if generation != self.generation or self.state == "open":
            return False
        self.last_error = reason
        self.call_failures += 1
        if self.state == "half_open":
            self.reopened += 1
            self._open("call", self._window(), now)
            return True
        if self.call_failures >= self.settings.failure_threshold:
            self._open("call", self._window(), now)
            return True
        return False

    def barred(self, generation: int, now: float, cause: Cause, reason: str, seconds: float | None = None) -> bool:
        """Opens at once for a fixed time, whatever was counted."""
        if generation != self.generation or self.state == "open":
            return False
        self.last_error = reason
        if cause == "rate_limit":
            asked = self.settings.rate_limit_default_s if seconds is None else seconds
            window = min(max(asked, SHORTEST_COOLING_S), LONGEST_COOLING_S)
        else:
            window = FIXED_WINDOW_S[cause]
        self._open(cause, window, now)
        return True

    def released(self, lease: int) -> None:
        """A trial that found nothing out."""
        if self.trial == lease:
            self.trial = None

    # What probes, and people, found

    def probe_succeeded(self) -> bool:
        """Closes what probes opened, and lets a call try what calls opened. Never clears a count of calls."""
        self.probe_failures = 0
        if self.state != "open":
            return False
        if self.cause == "call" or (self.cause == "probe" and self.owes_trial):
            self._become("half_open")
            return True
        if self.cause == "probe":
            self.until = self.window_s = 0.0
            self.last_error, self.cause = "", ""
            self._become("closed")
            return True
        return False

    def probe_failed(self, now: float, reason: str) -> bool:
        self.last_error = reason
        self.probe_failures += 1
        if self.state == "open":
            if self.cause == "probe":
                self.until = now + self.window_s
            return False
        if self.probe_failures >= self.settings.failure_threshold:
            owes_trial = self.state == "half_open" and (self.cause != "probe" or self.owes_trial)
            if self.state == "half_open":
                self.reopened += 1
            self._open("probe", self._window(), now)
            self.owes_trial = owes_trial
            return True
        return False

    def failed(self, now: float, reason: str) -> bool:
        """A failure of a call that nobody admitted: counts always, and begins the time of an open one anew."""
        if self.state == "open":
            self.last_error = reason
            self.call_failures += 1
            self.until = now + self.window_s
            return False
        return self.struck(self.generation, now, reason)

    def close(self) -> None:
        """All is forgotten."""
        self.call_failures = self.probe_failures = self.reopened = 0
        self.until = self.window_s = 0.0
        self.last_error = ""
        self.cause = ""
        self.owes_trial = False
        self._become("closed")

    def _open(self, cause: Cause, window_s: float, now: float) -> None:
        self.owes_trial = False
        self.cause, self.window_s, self.until = cause, window_s, now + window_s
        self._become("open")

    def _become(self, state: State) -> None:
        self.state = state
        self.trial = None
        self.generation += 1

    def _window(self) -> float:
        settings = self.settings
        # Capped first: a power of a large count is more than a float can hold.
        window = min(settings.open_s * settings.multiplier ** min(self.reopened, 64), settings.max_open_s)
        return window * (1 + self.rng.uniform(-settings.jitter, settings.jitter))
