"""Circuits under a clock of our own. Numbers: facts of the reference (13.2, 13.5), and new ones (B, H)."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from projector.errors import (
    BadRequestError,
    ModelNotFoundError,
    PaymentError,
    ProviderAuthError,
    RateLimitError,
    RouteError,
    UnreachableError,
    UpstreamError,
)
from projector.llm import breaker as breaker_module
from projector.llm.breaker import Breaker, Lease, Transition
from projector.llm.circuit import Skip
from projector.llm.config import BreakerSettings
from tests.llm.clock import Clock

PARITY = BreakerSettings(multiplier=1.0, jitter=0.0)


def made(clock: Clock, *, wall: Callable[[], float] = lambda: 5000.0, **settings: float) -> Breaker:
    values = {"multiplier": 1.0, "jitter": 0.0} | settings
    return Breaker(BreakerSettings(**values), clock=clock, wall=wall, rng=random.Random(1))


def admitted(breaker: Breaker, target: str = "p/m") -> Lease:
    lease = breaker.admit(*target.split("/"))
    assert isinstance(lease, Lease), lease
    return lease


def refused(breaker: Breaker, target: str = "p/m") -> Skip:
    skip = breaker.admit(*target.split("/"))
    assert isinstance(skip, Skip)
    return skip


def fail(breaker: Breaker, error: RouteError, times: int = 1, target: str = "p/m") -> None:
    for _ in range(times):
        admitted(breaker, target).fail(error)


def test_13_2_1_to_5_before_anything_happened():
    defaults = BreakerSettings()
    assert (defaults.failure_threshold, defaults.open_s) == (2, 60.0)
    with pytest.raises(ValueError, match="failure_threshold"):
        Breaker(BreakerSettings(failure_threshold=0))
    with pytest.raises(ValueError, match="backoff"):
        Breaker(BreakerSettings(open_s=-1))
    breaker = made(Clock())
    assert breaker.is_healthy("p")
    assert breaker.get_state("p") is None


def test_13_2_6_15_16_17_a_snapshot_shows_what_is_known_and_what_is_expected():
    breaker = made(Clock())
    expected = breaker.snapshot(["a", "b"])
    assert {name: (state.healthy, state.consecutive_failures) for name, state in expected.items()} == {
        "a": (True, 0),
        "b": (True, 0),
    }
    breaker.mark_unhealthy("a", "first")
    state = breaker.snapshot(["a", "b"])["a"]
    assert (state.consecutive_failures, state.last_error, state.last_check) == (1, "first", 5000.0)
    with pytest.raises(AttributeError):
        state.consecutive_failures = 9  # type: ignore[misc]


def test_13_2_7_8_9_a_provider_is_unhealthy_from_the_threshold_on():
    clock = Clock()
    breaker = made(clock)
    breaker.mark_unhealthy("p", "first")
    assert breaker.is_healthy("p")
    breaker.mark_unhealthy("p", "second")
    state = breaker.get_state("p")
    assert state is not None
    assert not breaker.is_healthy("p")
    assert (state.consecutive_failures, state.last_error, state.unhealthy_until) == (2, "second", 5060.0)
    quick = made(clock, failure_threshold=1)
    quick.mark_unhealthy("p", "only")
    assert not quick.is_healthy("p")


def test_13_2_10_11_12_it_may_be_tried_when_its_time_is_over_and_is_well_when_somebody_says_so():
    clock = Clock()
    breaker = made(clock, failure_threshold=1)
    breaker.mark_unhealthy("p", "down")
    for passed, healthy in ((0, False), (30, False), (31, True)):
        clock.pass_s(passed)
        assert breaker.is_healthy("p") is healthy
    breaker.mark_healthy("p")
    state = breaker.get_state("p")
    assert state is not None
    assert (state.healthy, state.consecutive_failures, state.last_error, state.unhealthy_until) == (True, 0, None, 0.0)


def test_13_2_13_another_failure_begins_the_time_anew():
    clock = Clock()
    breaker = made(clock, failure_threshold=1)
    breaker.mark_unhealthy("p", "down")
    clock.pass_s(20)
    breaker.mark_unhealthy("p", "still")
    state = breaker.get_state("p")
    assert state is not None
    assert state.open_for_s == 60.0


def test_13_2_14_13_5_1_to_5_listeners_hear_of_changes_alone_and_cannot_break_anything(monkeypatch):
    complaints: list[str] = []
    lines: list[str] = []

    class Log:
        exception = staticmethod(lambda event, **_: complaints.append(event))
        warning = info = staticmethod(lambda event, **_: lines.append(event))

    monkeypatch.setattr(breaker_module, "log", Log)
    breaker = made(Clock())
    heard: list[tuple[str, bool]] = []
    twice: list[Transition] = []

    def broken(transition: Transition) -> None:
        raise RuntimeError(transition.key)

    breaker.add_listener(broken)
    breaker.add_listener(lambda t: heard.append((t.key, t.healthy)))
    breaker.add_listener(twice.append)
    breaker.mark_healthy("p")
    breaker.mark_unhealthy("p", "first")
    assert heard == []
    breaker.mark_unhealthy("p", "second")
    breaker.mark_unhealthy("p", "third")
    assert heard == [("p", False)]
    for _ in range(3):
        breaker.mark_healthy("p")
    assert heard == [("p", False), ("p", True)]
    assert [t.seq for t in twice] == sorted({t.seq for t in twice}), "H7: the order can be told"
    assert len(complaints) == 2
    assert lines == ["circuit open", "circuit closed"]


def test_B1_H1_a_probe_that_is_answered_does_not_excuse_calls_that_fail():
    breaker = made(Clock())
    fail(breaker, UnreachableError("down"))
    breaker.probe_ok("p")
    fail(breaker, UnreachableError("down"))
    assert refused(breaker).reason == "open"


def test_3_6_what_probes_found_and_what_calls_found_is_not_added_up():
    breaker = made(Clock(), failure_threshold=3)
    for _ in range(2):
        breaker.probe_fail("p", "no answer")
        fail(breaker, UnreachableError("down"))
    state = breaker.get_state("p")
    assert state is not None
    assert (state.state, state.consecutive_failures, state.probe_failures) == ("closed", 2, 2)
    breaker.probe_fail("p", "no answer")
    state = breaker.get_state("p")
    assert state is not None
    assert (state.state, state.cause) == ("open", "probe")
    called = made(Clock())
    fail(called, UnreachableError("down"), 2)
    state = called.get_state("p")
    assert state is not None
    assert (state.state, state.cause) == ("open", "call")


def test_B2_what_probes_opened_a_probe_closes():
    breaker = made(Clock())
    for _ in range(2):
        breaker.probe_fail("p", "no answer")
    assert refused(breaker) == Skip("open", 60.0)
    breaker.probe_ok("p")
    state = breaker.get_state("p")
    assert state is not None
    assert state.state == "closed"


def test_H1_a_probe_that_opens_and_closes_forgets_nothing_of_calls():
    clock = Clock()
    breaker = made(clock)

    def flap() -> str:
        for _ in range(2):
            breaker.probe_fail("p", "no answer")
        breaker.probe_ok("p")
        state = breaker.get_state("p")
        assert state is not None
        return state.state

    fail(breaker, UnreachableError("down"))
    assert flap() == "closed"
    fail(breaker, UnreachableError("down"))
    assert refused(breaker).reason == "open", "the second call in a row"
    clock.pass_s(60)
    trial = admitted(breaker)
    assert [flap(), flap()] == ["half_open", "half_open"], "no call has succeeded yet"
    trial.ok()
    admitted(breaker).ok()
    state = breaker.get_state("p")
    assert state is not None
    assert (state.state, state.consecutive_failures) == ("closed", 0)
    for _ in range(2):
        breaker.probe_fail("p", "no answer")
    clock.pass_s(60)
    breaker.admit("p", "m")
    assert flap() == "closed", "no call has failed since"


def test_what_went_wrong_is_told_until_a_call_succeeds():
    breaker = made(Clock())
    fail(breaker, UnreachableError("down"))
    admitted(breaker).ok()
    state = breaker.get_state("p")
    assert state is not None
    assert (state.last_error, state.consecutive_failures) == (None, 0)


def test_B3_H3_what_calls_opened_a_probe_puts_on_trial():
    breaker = made(Clock())
    fail(breaker, UnreachableError("down"), 2)
    breaker.probe_ok("p")
    assert breaker.is_healthy("p")
    state = breaker.get_state("p")
    assert state is not None
    assert (state.state, state.healthy) == ("half_open", False)
    lease = admitted(breaker)
    assert refused(breaker).reason == "half-open-busy"
    lease.ok()
    assert isinstance(breaker.admit("p", "m"), Lease)


def test_B4_H2_one_call_alone_is_on_trial():
    clock = Clock()
    breaker = made(clock)
    fail(breaker, UnreachableError("down"), 2)
    clock.pass_s(61)
    results = [breaker.admit("p", "m") for _ in range(20)]
    assert sum(isinstance(result, Lease) for result in results) == 1
    assert {result.reason for result in results if isinstance(result, Skip)} == {"half-open-busy"}


def test_B5_a_trial_that_found_nothing_out_makes_room_for_the_next():
    clock = Clock()
    breaker = made(clock)
    fail(breaker, UnreachableError("down"), 2)
    clock.pass_s(61)
    admitted(breaker).release()
    admitted(breaker).fail(BadRequestError("not ours"))
    lost = admitted(breaker)
    clock.pass_s(121)
    next_one = admitted(breaker)
    lost.release()
    assert refused(breaker).reason == "half-open-busy", "the lost one takes no place of the next"
    next_one.ok()
    admitted(breaker)


def test_B6_each_trial_that_fails_makes_the_window_longer_up_to_the_cap():
    clock = Clock()
    breaker = made(clock, multiplier=2.0, jitter=0.1)
    windows = []
    fail(breaker, UnreachableError("down"), 2)
    for _ in range(5):
        windows.append(refused(breaker).retry_after)
        clock.pass_s(windows[-1])
        admitted(breaker).fail(UnreachableError("down"))
    for window, base in zip(windows, (60, 120, 240, 300, 300), strict=True):
        assert 0.9 * base <= window <= 1.1 * base
    assert len({window / base for window, base in zip(windows, (60, 120, 240, 300, 300), strict=True)}) > 1
    clock.pass_s(400)
    admitted(breaker).ok()
    fail(breaker, UnreachableError("down"), 2)
    assert refused(breaker).retry_after <= 66, "a success forgets"


def test_3_6_a_trial_whose_model_fails_opens_its_provider_again():
    clock = Clock()
    breaker = made(clock)
    fail(breaker, UnreachableError("down"), 2)
    clock.pass_s(60)
    admitted(breaker).fail(UpstreamError("500"))
    assert refused(breaker, "p/other") == Skip("open", 60.0)


@pytest.mark.parametrize(("asked", "window"), [(7.0, 7.0), (None, 15.0), (9999.0, 300.0), (0.0, 1.0)])
def test_B7_H4_a_limit_of_rate_cools_the_model_alone(asked: float | None, window: float):
    clock = Clock()
    breaker = made(clock)
    admitted(breaker).fail(RateLimitError("slow down", retry_after=asked))
    assert refused(breaker) == Skip("cooling", window)
    admitted(breaker, "p/other")
    clock.pass_s(window)
    admitted(breaker).ok()
    fail(breaker, UnreachableError("down"))
    admitted(breaker)


def test_B8_what_began_before_a_recovery_changes_nothing_after_it():
    breaker = made(Clock())
    late = [admitted(breaker) for _ in range(3)]
    fail(breaker, UnreachableError("down"), 2)
    breaker.mark_healthy("p")
    for lease in late:
        lease.fail(UnreachableError("long ago"))
    admitted(breaker)
    fail(breaker, UnreachableError("down"))
    late_success = admitted(breaker)
    fail(breaker, UnreachableError("down"))
    late_success.ok()
    assert refused(breaker).reason == "open"


def test_B8_a_late_success_closes_no_circuit_that_is_on_trial():
    clock = Clock()
    breaker = made(clock)
    late = admitted(breaker)
    fail(breaker, UnreachableError("down"), 2)
    clock.pass_s(60)
    admitted(breaker)
    late.ok()
    assert refused(breaker).reason == "half-open-busy"


def test_B9_H5_a_wall_clock_that_jumps_changes_nothing():
    clock, wall = Clock(), Clock()
    breaker = made(clock, wall=wall)
    fail(breaker, UnreachableError("down"), 2)
    for jump in (3600, -7200):
        wall.pass_s(jump)
        assert refused(breaker) == Skip("open", 60.0)
    clock.pass_s(60)
    wall.pass_s(-3600)
    admitted(breaker)


def test_H6_a_failing_model_does_not_condemn_the_others_of_its_provider():
    breaker = made(Clock())
    fail(breaker, UpstreamError("500"), 2, "p/bad")
    assert refused(breaker, "p/bad").reason == "open"
    admitted(breaker, "p/good")
    fail(breaker, UpstreamError("500"), 2, "p/worse")
    assert refused(breaker, "p/good").reason == "open", "two that opened are a provider that is ill"


@pytest.mark.parametrize(
    ("error", "window", "whole_provider"),
    [(ModelNotFoundError("no"), 600, False), (ProviderAuthError("no"), 300, True), (PaymentError("no"), 900, True)],
)
def test_what_only_a_person_mends_bars_at_once_and_for_long(error: RouteError, window: float, whole_provider: bool):
    breaker = made(Clock())
    fail(breaker, error)
    assert refused(breaker) == Skip("open", window)
    assert isinstance(breaker.admit("p", "other"), Skip) is whole_provider
    breaker.probe_ok("p")
    assert refused(breaker).reason == "open", "a provider may list its models to anybody"
    breaker.reset()
    admitted(breaker)


def test_a_lease_counts_once():
    breaker = made(Clock())
    lease = admitted(breaker)
    lease.fail(UnreachableError("down"))
    lease.fail(UnreachableError("down"))
    lease.ok()
    admitted(breaker).fail(UnreachableError("down"))
    assert refused(breaker).reason == "open"


def test_names_of_models_that_callers_make_up_are_not_kept_for_ever():
    breaker = made(Clock())
    admitted(breaker, "p/real").fail(ModelNotFoundError("no"))
    for number in range(breaker_module.MOST_MODELS + 50):
        assert refused(breaker, "p/real").reason == "open", "what is asked for again and again is kept"
        breaker.admit("p", f"m{number}").fail(ModelNotFoundError("no"))
    assert len(breaker.models()) == breaker_module.MOST_MODELS
