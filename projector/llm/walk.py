"""The walk along a chain, without I/O: `next` says what to do, `answered` and `failed` tell what became of it.

while not isinstance(step := walk.next(now), GiveUp): ask, or wait, and tell
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from projector.errors import (
    CapabilityError,
    ContextLengthError,
    DeadlineError,
    ModelTimeoutError,
    NoHealthyProviderError,
    RouteError,
)
from projector.llm.attempt import Attempt, Fallback, Usage
from projector.llm.circuit import Skip
from projector.llm.classify import action_of, may_repeat
from projector.llm.config import Budgets, Entry, Limits, Policy

RETRY_PAUSE_S = (0.5, 2.0)
LONGEST_RETRY_AFTER_S = 10.0
HOLD_MARGIN_S = 1.0
KEPT_MARGIN_S = 0.25
"""What ending one attempt and beginning the next may take: without it the time that is kept is never quite enough."""
SOON_S = (1.0, 5.0)
"""When to come again for an entry that failed and whose circuit is closed still."""
MAY_MEND = {"upstream", "timeout", "unreachable"}


class Lease(Protocol):
    def ok(self) -> None: ...
    def fail(self, error: RouteError) -> None: ...
    def release(self) -> None: ...


class Gate(Protocol):
    """Who lets calls pass: the breaker."""

    def admit(self, provider: str, model: str, hold_s: float) -> Lease | Skip: ...
    def closed_for(self, provider: str, model: str) -> float: ...


class _PastTheGate:
    """A lease from which nothing is concluded."""

    def ok(self) -> None: ...
    def fail(self, error: RouteError) -> None: ...
    def release(self) -> None: ...


class NoGate:
    """Lets every call pass."""

    def admit(self, provider: str, model: str, hold_s: float) -> Lease:
        return _PastTheGate()

    def closed_for(self, provider: str, model: str) -> float:
        return 0.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """`limits` are what it has when there is time enough. `skip`: why it is never asked: unconfigured, capability; ''
    when it may be.
    """

    entry: Entry
    limits: Limits
    skip: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    entry: Entry
    limits: Limits
    started: float


@dataclass(frozen=True, slots=True)
class Wait:
    seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """`error` carries all attempts."""

    error: RouteError


Step = Ask | Wait | GiveUp


class Walk:
    """One call. Times are seconds of one monotonic clock; `deadline` is when the call must have ended."""

    def __init__(
        self,
        requested: str,
        candidates: Sequence[Candidate],
        gate: Gate,
        budgets: Budgets,
        policy: Policy,
        deadline: float,
        rng: random.Random,
    ) -> None:
        self.requested = requested
        self.attempts: list[Attempt] = []
        self.fallbacks: list[Fallback] = []
        self._candidates = candidates
        self._gate = gate
        self._budgets = budgets
        self._policy = policy
        self._deadline = deadline
        self._rng = rng
        self._index = 0
        self._made = 0
        self._repeats = 0
        self._asked: Candidate | None = None
        self._ask: Ask | None = None
        self._lease: Lease = _PastTheGate()
        self._wait_s: float | None = None
        self._outcome: RouteError | None = None
        self._last_error: RouteError | None = None
        self._too_long = False
        self._asked_later: list[float] = []
        self._may_mend: set[str] = set()
        self._not_served: list[tuple[str, str]] = []

    # What to do

    def next(self, now: float) -> Step:
        if self._outcome is not None:
            return self._give_up(self._outcome)
        if self._wait_s is not None:
            wait_s, self._wait_s = self._wait_s, None
            return Wait(wait_s)
        while self._index < len(self._candidates):
            if self._made and self._made >= self._budgets.max_attempts:
                break
            if self._deadline - now < self._budgets.min_attempt_s:
                return self._give_up(self._too_late())
            candidate = self._candidates[self._index]
            self._index += 1
            if candidate.skip:
                self._skipped(candidate.entry, candidate.skip)
                continue
            limits = self._limits(candidate, now)
            admitted = self._gate.admit(candidate.entry.provider, candidate.entry.model, limits.total_s + HOLD_MARGIN_S)
            if isinstance(admitted, Skip):
                self._asked_later.append(admitted.retry_after)
                self._skipped(candidate.entry, admitted.reason)
                continue
            return self._begin(candidate, limits, admitted, now)
        return self._end_of_chain(now)

    def _begin(self, candidate: Candidate, limits: Limits, lease: Lease, now: float) -> Ask:
        entry = candidate.entry
        self._asked = candidate
        self._made += 1
        for source, reason in self._not_served:
            if source != entry.name:
                self.fallbacks.append(Fallback(source, entry.name, reason))
        self._not_served.clear()
        self._lease = lease
        self._ask = Ask(entry, limits, now)
        return self._ask

    def spare_s(self, now: float) -> float:
        """Seconds that may pass before an attempt has no time left."""
        return self._deadline - now - self._budgets.min_attempt_s

    def held_up(self, now: float) -> Ask | None:
        """A place at the provider was waited for: what is asked in the time that is left; None: `next` goes on."""
        assert self._asked is not None
        entry = self._asked.entry
        self._made -= 1
        if self.spare_s(now) < 0:
            self._withdraw(entry, "busy")
            self._outcome = self._too_late()
            return None
        limits = self._limits(self._asked, now)
        if not isinstance(self._lease, _PastTheGate):
            self._lease.release()
            admitted = self._gate.admit(entry.provider, entry.model, limits.total_s + HOLD_MARGIN_S)
            if isinstance(admitted, Skip):
                self._asked_later.append(admitted.retry_after)
                self._withdraw(entry, admitted.reason)
                return None
            self._lease = admitted
        self._made += 1
        self._ask = Ask(entry, limits, now)
        return self._ask

    def _withdraw(self, entry: Entry, reason: str) -> None:
        self._lease.release()
        self._not_served = [(step.source, step.reason) for step in self.fallbacks if step.target == entry.name]
        self.fallbacks = [step for step in self.fallbacks if step.target != entry.name]
        self._skipped(entry, reason)

    def _limits(self, candidate: Candidate, now: float) -> Limits:
        budgets, own = self._budgets, candidate.limits
        left = self._deadline - now
        others = min(len(self._admissible_after()), max(budgets.max_attempts - self._made - 1, 0))
        # Each entry that is left keeps enough for an attempt of its own.
        most = min(left, max(left - (budgets.min_attempt_s + KEPT_MARGIN_S) * others, budgets.min_attempt_s))
        return Limits(
            connect_s=min(own.connect_s, most),
            first_byte_s=min(own.first_byte_s, most),
            idle_s=own.idle_s,
            total_s=min(own.total_s, most),
        )

    def _cut_short(self, own: Limits, limits: Limits, took_s: float) -> bool:
        """Whether it was the time of the call that ran out, before the entry had its own."""
        silent_s = min(own.first_byte_s, own.total_s)
        own_s = silent_s if took_s <= silent_s + KEPT_MARGIN_S else own.total_s
        return took_s + 0.01 >= limits.total_s and took_s + KEPT_MARGIN_S < own_s

    def _admissible_after(self) -> list[Candidate]:
        return [
            candidate
            for candidate in self._candidates[self._index :]
            if not candidate.skip and not self._gate.closed_for(candidate.entry.provider, candidate.entry.model)
        ]

    # What became of it

    def answered(self, now: float, usage: Usage = Usage()) -> None:  # noqa: B008
        """It was answered, or a stream has begun, whose `finished` is still to come."""
        assert self._ask is not None
        self.attempts.append(
            Attempt(self._ask.entry.name, "ok", status=200, ms=(now - self._ask.started) * 1000, usage=usage)
        )

    def finished(self, usage: Usage | None = None, error: RouteError | None = None) -> None:
        """What was `answered` is complete, or broke off with `error`."""
        last = self.attempts[-1]
        if error is None:
            self._lease.ok()
        else:
            self._lease.fail(error)
            self.attempts[-1] = last = replace(last, outcome="failed", kind=error.kind)
            self._attach(error)
        if usage is not None:
            self.attempts[-1] = replace(last, usage=usage)

    def failed(self, error: RouteError, now: float, usage: Usage = Usage()) -> None:  # noqa: B008
        """The attempt failed before its first byte, or its answer was of no use and cost `usage` all the same."""
        assert self._ask is not None
        assert self._asked is not None
        ask = self._ask
        ms = (now - ask.started) * 1000
        self.attempts.append(Attempt(ask.entry.name, "failed", error.kind, error.status, ms, usage))
        action = action_of(error.kind, self._policy)
        if isinstance(error, ContextLengthError):
            # A longer one may be next; that a third is longer still is not worth its price.
            action = "propagate" if self._too_long else "next"
            self._too_long = True
        if action == "propagate":
            self._lease.release()
            self._outcome = error
            return
        if isinstance(error, ModelTimeoutError) and self._cut_short(self._asked.limits, ask.limits, now - ask.started):
            self._lease.release()
        else:
            self._lease.fail(error)
        self._last_error = error
        self._not_served.append((ask.entry.name, error.kind))
        if error.retry_after is not None:
            self._asked_later.append(error.retry_after)
        elif error.kind in MAY_MEND:
            self._may_mend.add(ask.entry.name)
        if self._repeats < self._policy.last_retry and may_repeat(error.kind) and not self._admissible_after():
            self._repeat(error, now)

    def cancelled(self) -> None:
        """Nobody waits for the answer any more, or a fault of ours came between: nothing was found out."""
        self._lease.release()

    def _repeat(self, error: RouteError, now: float) -> None:
        assert self._asked is not None
        entry = self._asked.entry
        asked_s = error.retry_after
        if asked_s is not None and asked_s > LONGEST_RETRY_AFTER_S:
            return
        if self._gate.closed_for(entry.provider, entry.model):
            return
        pause_s = self._rng.uniform(*RETRY_PAUSE_S) if asked_s is None else asked_s
        if now + pause_s + self._budgets.min_attempt_s > self._deadline or self._made >= self._budgets.max_attempts:
            return
        self._repeats += 1
        self._wait_s = pause_s
        self._index = self._candidates.index(self._asked)

    # The end

    def _end_of_chain(self, now: float) -> Step:
        usable = [candidate for candidate in self._candidates if not candidate.skip]
        if not usable and any(candidate.skip == "capability" for candidate in self._candidates):
            return self._give_up(CapabilityError(f"no entry of {self.requested[:100]} can do what was asked"))
        if usable and not self._made and self._policy.last_resort:
            return self._begin(usable[0], self._limits(usable[0], now), _PastTheGate(), now)
        if isinstance(self._last_error, ContextLengthError):
            return self._give_up(self._last_error)
        if self._made and self._deadline - now < self._budgets.min_attempt_s:
            return self._give_up(self._too_late())
        return self._give_up(self._nobody([candidate.entry for candidate in usable]))

    def _nobody(self, usable: Sequence[Entry]) -> NoHealthyProviderError:
        told = ", ".join(str(attempt) for attempt in self.attempts)
        closed = {entry.name: self._gate.closed_for(entry.provider, entry.model) for entry in usable}
        waits = [*self._asked_later, *closed.values()]
        if any(not closed[name] for name in self._may_mend):
            waits.append(self._rng.uniform(*SOON_S))
        error = NoHealthyProviderError(
            f"no provider answered for {self.requested[:100]}: {told}"
            if usable
            else f"no provider of {self.requested[:100]} is configured: {told}",
            retry_after=min((wait for wait in waits if wait > 0), default=None),
        )
        error.last_error = self._last_error
        return error

    def _too_late(self) -> DeadlineError:
        told = ", ".join(str(attempt) for attempt in self.attempts) or "nobody was asked"
        error = DeadlineError(f"the time for {self.requested[:100]} ran out: {told}")
        error.last_error = self._last_error
        return error

    def _skipped(self, entry: Entry, reason: str) -> None:
        self.attempts.append(Attempt(entry.name, "skipped", reason))
        self._not_served.append((entry.name, reason))

    def _give_up(self, error: RouteError) -> GiveUp:
        self._outcome = error
        self.fallbacks += [Fallback(source, "", reason) for source, reason in self._not_served]
        self._not_served.clear()
        self._attach(error)
        return GiveUp(error)

    def _attach(self, error: RouteError) -> None:
        error.requested = self.requested
        error.attempts = tuple(self.attempts)
