"""The walk without I/O, under a clock of our own."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Sequence

import pytest

from projector.errors import (
    BadRequestError,
    CapabilityError,
    ContextLengthError,
    DeadlineError,
    ModelTimeoutError,
    NoHealthyProviderError,
    RateLimitError,
    RouteError,
    UnreachableError,
    UpstreamError,
)
from projector.llm.attempt import Fallback
from projector.llm.breaker import Breaker, Lease
from projector.llm.circuit import Skip
from projector.llm.config import BreakerSettings, Budgets, Entry, Limits, Policy
from projector.llm.walk import Ask, Candidate, GiveUp, Wait, Walk
from tests.llm.clock import Clock


class World:
    """One walk over entries `p1/m`, `p2/m`, ...; a provider's failures are told as `fail` says."""

    def __init__(
        self,
        *candidates: str,
        deadline_s: float = 120.0,
        policy: Policy = Policy(),  # noqa: B008
        budgets: Budgets = Budgets(),  # noqa: B008
        threshold: int = 2,
        skip: dict[str, str] | None = None,
        limits: dict[str, Limits] | None = None,
    ) -> None:
        self.clock = Clock()
        self.breaker = Breaker(BreakerSettings(failure_threshold=threshold, jitter=0.0), clock=self.clock)
        self.entries = [Entry(name, "m") for name in candidates]
        self.walk = Walk(
            "mana/x",
            [
                Candidate(e, (limits or {}).get(e.provider, budgets.limits), (skip or {}).get(e.provider, ""))
                for e in self.entries
            ],
            self.breaker,
            budgets,
            policy,
            self.clock.now + deadline_s,
            random.Random(1),
        )

    def ask(self) -> Ask:
        step = self.walk.next(self.clock())
        assert isinstance(step, Ask), step
        return step

    def fail(self, error: RouteError, after_s: float = 0.1) -> None:
        self.clock.pass_s(after_s)
        self.walk.failed(error, self.clock())

    def given_up(self) -> RouteError:
        step = self.walk.next(self.clock())
        assert isinstance(step, GiveUp), step
        return step.error

    def told(self) -> list[tuple[str, str, str]]:
        return [(attempt.entry, attempt.outcome, attempt.kind) for attempt in self.walk.attempts]


def open_circuit(breaker: Breaker, provider: str) -> None:
    for _ in range(2):
        breaker.mark_unhealthy(provider, "down")


def test_the_order_of_the_chain_is_the_policy():
    world = World("p1", "p2", "p3")
    assert world.ask().entry.provider == "p1"
    world.fail(UnreachableError("down"))
    assert world.ask().entry.provider == "p2"
    world.walk.answered(world.clock())
    world.walk.finished()
    assert world.told() == [("p1/m", "failed", "unreachable"), ("p2/m", "ok", "")]
    assert world.walk.fallbacks == [Fallback("p1/m", "p2/m", "unreachable")]


def test_18_2_7_a_fallback_names_the_entry_that_was_asked_in_truth():
    world = World("p1", "p2", "p3", "p4", skip={"p2": "unconfigured"})
    open_circuit(world.breaker, "p3")
    world.ask()
    world.fail(UnreachableError("down"))
    assert world.ask().entry.provider == "p4"
    assert world.walk.fallbacks == [
        Fallback("p1/m", "p4/m", "unreachable"),
        Fallback("p2/m", "p4/m", "unconfigured"),
        Fallback("p3/m", "p4/m", "open"),
    ]
    world.fail(RateLimitError("slow down", retry_after=9))
    world.given_up()
    assert world.walk.fallbacks[3:] == [Fallback("p4/m", "", "rate_limit")]


def test_F9_the_walk_ends_before_its_deadline_however_long_everybody_is_silent():
    world = World("p1", "p2", "p3", "p4", deadline_s=5.0)
    began = world.clock()
    asked = 0
    while isinstance(step := world.walk.next(world.clock()), Ask):
        asked += 1
        world.fail(ModelTimeoutError("silent"), after_s=step.limits.total_s)
    assert isinstance(step, GiveUp)
    assert isinstance(step.error, DeadlineError)
    assert world.clock() - began <= 5.0
    assert asked >= 2, "the first has not eaten up the time of the second"
    assert world.breaker.snapshot() == {}, "our time ran out, not theirs"
    assert isinstance(step.error.last_error, ModelTimeoutError)
    alone = World("p1", deadline_s=5.0)
    alone.fail(ModelTimeoutError("silent"), after_s=alone.ask().limits.total_s)
    assert isinstance(alone.given_up(), DeadlineError), "though nobody else was left to be asked"


@pytest.mark.parametrize(
    ("others", "deadline_s", "total_s"),
    [(0, 120, 60), (3, 120, 60), (1, 30, 27.75), (3, 30, 23.25), (3, 7, 2), (0, 5, 5)],
)
def test_an_attempt_leaves_two_seconds_to_each_entry_after_it(others: int, deadline_s: float, total_s: float):
    world = World(*(f"p{n}" for n in range(others + 1)), deadline_s=deadline_s)
    limits = world.ask().limits
    assert limits.total_s == total_s
    assert limits.first_byte_s == min(30, total_s)
    assert limits.connect_s == min(3, total_s)


def test_every_entry_is_asked_in_the_time_that_was_kept_for_it_though_asking_takes_some_itself():
    world = World("p1", "p2", "p3", "p4", deadline_s=12.0)
    asked = []
    while isinstance(step := world.walk.next(world.clock()), Ask):
        asked.append(step.entry.provider)
        world.fail(ModelTimeoutError("silent"), after_s=step.limits.total_s + 0.02)
    assert asked == ["p1", "p2", "p3", "p4"]


@pytest.mark.parametrize(
    ("deadline_s", "took_s", "failures"),
    [(120, 30, 1), (120, 60, 1), (30, 27.75, 0), (50, 47.75, 0), (30, 3, 1), (32.25, 30, 1)],
    ids=["silent", "never whole", "silent, cut", "not whole, cut", "no connection", "just not cut"],
)
def test_a_time_that_was_cut_for_the_sake_of_others_is_no_strike(deadline_s: float, took_s: float, failures: int):
    world = World("p1", "p2", deadline_s=deadline_s)
    world.ask()
    world.fail(ModelTimeoutError("silent"), after_s=took_s)
    state = world.breaker.get_state("p1")
    assert (state.consecutive_failures if state else 0) == failures


def test_10_what_a_provider_has_for_itself_is_what_its_silence_is_measured_by():
    world = World("p1", "p2", deadline_s=30.0, limits={"p1": Limits(1, 9, 7, 9)})
    assert world.ask().limits == Limits(1, 9, 7, 9)
    world.fail(ModelTimeoutError("silent"), after_s=9)
    state = world.breaker.get_state("p1")
    assert state is not None
    assert state.consecutive_failures == 1, "it had all of its time, short as that is"
    assert world.ask().limits == Limits(3, 21, 20, 21), "the other has that of everybody"
    world = World("p1", "p2", deadline_s=30.0, limits={"p1": Limits(1, 50, 7, 90)})
    assert world.ask().limits == Limits(1, 27.75, 7, 27.75), "never more than the call has"
    world.fail(ModelTimeoutError("silent"), after_s=27.75)
    assert world.breaker.get_state("p1") is None


def test_no_attempt_begins_without_time_for_it_and_a_deadline_may_be_too_short_for_any():
    world = World("p1", deadline_s=1.5)
    error = world.given_up()
    assert (error.kind, error.attempts) == ("deadline", ())


def test_at_most_so_many_attempts_are_made_across_the_chain():
    world = World(*(f"p{n}" for n in range(6)))
    for _ in range(4):
        world.ask()
        world.fail(UnreachableError("down"))
    assert isinstance(world.given_up(), NoHealthyProviderError)
    assert len(world.told()) == 4


@pytest.mark.parametrize("kind", [UpstreamError, UnreachableError])
def test_F10_the_last_entry_is_asked_once_more_after_a_pause(kind: type[RouteError]):
    world = World("p1", "p2")
    world.ask()
    world.fail(kind("first"))
    assert world.ask().entry.provider == "p2", "no repetition while another is left"
    world.fail(kind("second"))
    wait = world.walk.next(world.clock())
    assert isinstance(wait, Wait)
    assert 0.5 <= wait.seconds <= 2.0
    world.clock.pass_s(wait.seconds)
    assert world.ask().entry.provider == "p2"
    world.fail(kind("third"))
    assert isinstance(world.given_up(), NoHealthyProviderError)


@pytest.mark.parametrize(
    "error",
    [
        ModelTimeoutError("silent"),
        RateLimitError("slow down"),
        UpstreamError("come back", retry_after=11.0),
    ],
    ids=["timeout", "rate", "long wait"],
)
def test_what_does_not_mend_within_seconds_is_not_asked_again(error: RouteError):
    world = World("p1")
    world.ask()
    world.fail(error)
    assert isinstance(world.given_up(), NoHealthyProviderError)


def test_the_pause_is_what_the_provider_asks_for_up_to_ten_seconds():
    world = World("p1")
    world.ask()
    world.fail(UpstreamError("come back", retry_after=10.0))
    assert world.walk.next(world.clock()) == Wait(10.0)


def test_pauses_are_spread_evenly_over_their_range():
    pauses = []
    for seed in range(40):
        world = World("p1")
        world.walk._rng = random.Random(seed)
        world.ask()
        world.fail(UpstreamError("500"))
        step = world.walk.next(world.clock())
        assert isinstance(step, Wait)
        pauses.append(step.seconds)
    assert min(pauses) < 0.8
    assert max(pauses) > 1.7


def test_F5_what_is_too_long_is_asked_of_one_other_and_then_told():
    world = World("p1", "p2", "p3")
    world.ask()
    world.fail(ContextLengthError("too long"))
    assert world.ask().entry.provider == "p2"
    world.fail(ContextLengthError("too long there too"))
    assert isinstance(world.given_up(), ContextLengthError)
    assert world.breaker.snapshot() == {}
    alone = World("p1")
    alone.ask()
    alone.fail(ContextLengthError("too long"))
    assert isinstance(alone.given_up(), ContextLengthError), "asking again later would not help"


def test_B5_an_error_that_propagates_gives_the_trial_back():
    world = World("p1", "p2")
    open_circuit(world.breaker, "p1")
    world.clock.pass_s(61)
    assert world.ask().entry.provider == "p1"
    world.fail(BadRequestError("wrong"))
    assert isinstance(world.given_up(), BadRequestError)
    assert isinstance(world.breaker.admit("p1", "m"), Lease)


def test_B5_a_cancelled_call_gives_the_trial_back():
    world = World("p1")
    open_circuit(world.breaker, "p1")
    world.clock.pass_s(61)
    world.ask()
    world.walk.cancelled()
    assert isinstance(world.breaker.admit("p1", "m"), Lease)


def test_3_6_a_trial_that_nobody_ends_is_lost_after_the_time_of_its_attempt():
    world = World("p1", limits={"p1": Limits(1, 5, 7, 9)})
    open_circuit(world.breaker, "p1")
    world.clock.pass_s(61)
    world.ask()
    world.clock.pass_s(9)
    assert isinstance(world.breaker.admit("p1", "m"), Skip)
    world.clock.pass_s(1)
    assert isinstance(world.breaker.admit("p1", "m"), Lease)


def test_F7_R3_an_entry_that_cannot_is_passed_over_and_only_a_chain_of_such_is_refused():
    world = World("p1", "p2", skip={"p1": "capability"})
    assert world.ask().entry.provider == "p2"
    assert world.told() == [("p1/m", "skipped", "capability")]
    world = World("p1", "p2", skip={"p1": "capability", "p2": "unconfigured"})
    assert isinstance(world.given_up(), CapabilityError)
    world = World("p1", skip={"p1": "unconfigured"})
    error = world.given_up()
    assert (error.kind, error.retry_after) == ("no_healthy_provider", None)
    assert "configured" in error.message


def test_F11_when_all_rest_nobody_is_asked_and_the_first_to_come_back_is_told():
    world = World("p1", "p2")
    open_circuit(world.breaker, "p1")
    world.clock.pass_s(25)
    open_circuit(world.breaker, "p2")
    error = world.given_up()
    assert isinstance(error, NoHealthyProviderError)
    assert error.retry_after == 35.0
    assert [attempt.outcome for attempt in error.attempts] == ["skipped", "skipped"]


def test_the_time_to_come_back_is_the_soonest_of_what_circuits_and_providers_say():
    world = World("p1", "p2", threshold=1)
    world.ask()
    world.fail(UnreachableError("down"))
    world.ask()
    world.fail(RateLimitError("slow down", retry_after=40))
    assert world.given_up().retry_after == 40
    world = World("p1", policy=Policy(last_retry=0))
    world.ask()
    world.fail(UpstreamError("500"))
    assert 1 <= (world.given_up().retry_after or 0) <= 5, "its circuit is closed still"


def test_after_a_wait_for_a_place_what_is_left_counts_and_the_breaker_is_asked_anew():
    world = World("p1", "p2", deadline_s=30.0)
    assert world.ask().limits.total_s == 27.75
    world.clock.pass_s(20)
    step = world.walk.held_up(world.clock())
    assert step is not None
    assert step.limits.total_s == 7.75
    world.walk.answered(world.clock())
    assert world.walk.attempts[0].ms == 0, "no time of the provider's"
    world = World("p1", "p2", "p3", skip={"p1": "unconfigured"}, budgets=Budgets(max_attempts=1))
    world.ask()
    open_circuit(world.breaker, "p2")
    assert world.walk.held_up(world.clock()) is None, "others found out meanwhile that it is down"
    assert world.ask().entry.provider == "p3", "as the first attempt"
    assert world.told() == [("p1/m", "skipped", "unconfigured"), ("p2/m", "skipped", "open")]
    assert world.walk.fallbacks == [Fallback("p1/m", "p3/m", "unconfigured"), Fallback("p2/m", "p3/m", "open")]
    world = World("p1", "p2", deadline_s=10.0)
    world.ask()
    assert world.walk.spare_s(world.clock()) == 8.0
    world.clock.pass_s(8.01)
    assert world.walk.held_up(world.clock()) is None
    assert (world.given_up().kind, world.told()) == ("deadline", [("p1/m", "skipped", "busy")])


def test_a_last_resort_is_asked_once_past_an_open_circuit():
    world = World("p1", "p2", policy=Policy(last_resort=True))
    for provider in ("p1", "p2"):
        open_circuit(world.breaker, provider)
    assert world.ask().entry.provider == "p1"
    world.fail(UnreachableError("down"))
    assert isinstance(world.given_up(), NoHealthyProviderError)
    world = World("p1", policy=Policy(last_resort=True))
    open_circuit(world.breaker, "p1")
    world.ask()
    assert world.walk.held_up(world.clock()), "whatever its circuit says"


@pytest.mark.parametrize("make", [lambda w: w.given_up()], ids=["exhausted"])
def test_an_error_survives_the_way_to_another_process(make: Callable[[World], RouteError]):
    world = World("p1", policy=Policy(last_retry=0))
    world.ask()
    world.fail(UpstreamError("500", status=500, retry_after=3.0, upstream_code="boom", request_id="r1"))
    error = make(world)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (again.message, again.attempts, again.retry_after) == (error.message, error.attempts, 3.0)
    assert again.last_error.upstream_code == "boom"


@pytest.mark.parametrize("kind", RouteError.__subclasses__())
def test_6_every_error_says_who_it_was_in_another_process_too(kind: type[RouteError]):
    told = {"provider": "p", "model": "m", "status": 429, "retry_after": 3.0, "upstream_code": "c", "request_id": "r"}
    again = pickle.loads(pickle.dumps(kind("what", **told)))  # noqa: S301
    assert type(again) is kind
    assert {name: getattr(again, name) for name in told} == told
    assert again.message == "what"


def test_R_chaos_every_walk_ends_in_time_with_each_lease_given_back():
    """Random failures, clocks and chains: no walk passes its deadline, asks more than it may, or keeps a trial."""
    rng = random.Random(7)
    kinds: Sequence[type[RouteError]] = (UnreachableError, ModelTimeoutError, RateLimitError, UpstreamError)
    for _ in range(300):
        world = World(*(f"p{n}" for n in range(rng.randint(1, 5))), deadline_s=rng.uniform(0.5, 90), threshold=1)
        for entry in world.entries:
            if rng.random() < 0.4:
                open_circuit(world.breaker, entry.provider)
        world.clock.pass_s(rng.choice([0, 70]))
        world.walk._deadline = deadline = world.clock() + rng.uniform(0.5, 90)
        asked = 0
        while not isinstance(step := world.walk.next(world.clock()), GiveUp):
            if isinstance(step, Wait):
                world.clock.pass_s(step.seconds)
                continue
            asked += 1
            after_s = rng.choice([0.01, step.limits.total_s])
            world.fail(rng.choice(kinds)("x", retry_after=rng.choice([None, 1.0])), after_s)
        assert world.clock() <= deadline
        assert asked <= 4
        busy = [state.half_open_lease for state in world.breaker.snapshot().values()]
        assert not any(busy)
