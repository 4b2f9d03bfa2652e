"""The matrix: each fault kills one process of the views at a named point, or otherwise, and says when it is over."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from functools import partial

from projector.views.declared import VIEWS
from projector.views.generations import EMPTY, FILLING, PREVIOUS, READY
from projector.views.kafka import SESSION_TIMEOUT_MS
from tests.faults.faults import DidNotFire, Fault, Point, Strike
from tests.faults.stream import POLL_S
from tests.view_faults.world import ViewWorld

FIRE_LIMIT_S = 90.0
LETTERS_LIMIT_S = 60.0
START = ("start", "--yes")
LOG = ("start", "--yes", "--source", "log")
CANCEL = ("cancel", "--yes")


def world_of(strike: Strike) -> ViewWorld:
    assert isinstance(strike.world, ViewWorld)
    return strike.world


# Workers


def _worker_killed_at(point: Point, strike: Strike) -> None:
    """One more joins and dies, or takes the place of one or of all; partitions go to it and come back."""
    world, numbers = world_of(strike), strike.numbers
    world.load.letters = True
    for _ in range(numbers.choice((0, 1, len(world.workers)))):
        world.workers.pop(numbers.randrange(len(world.workers))).kill()
    doomed = world.start_worker(point.crash_at(numbers))
    _await_death(doomed.killed(FIRE_LIMIT_S), point, doomed.tail)
    world.workers.remove(doomed)
    _over(world)


def _workers_killed_at_random(strike: Strike) -> None:
    world, numbers = world_of(strike), strike.numbers
    world.load.letters = True
    time.sleep(numbers.uniform(0, 2))
    for _ in range(numbers.randint(1, len(world.workers))):
        world.workers.pop().kill()
    _over(world)


def _workers_exchanged(strike: Strike) -> None:
    """A new one joins, and the oldest leaves in order."""
    world = world_of(strike)
    world.load.letters = True
    world.start_worker()
    time.sleep(strike.numbers.uniform(0, 4))
    world.workers.pop(0).stop(30)
    _over(world)


def _worker_paused(strike: Strike) -> None:
    """Longer than the group waits for it: another has its partitions when it wakes, and it must change nothing."""
    world = world_of(strike)
    world.load.letters = True
    sleeper = strike.numbers.choice(world.workers)
    sleeper.send(signal.SIGSTOP)
    time.sleep(SESSION_TIMEOUT_MS / 1000 * strike.numbers.uniform(0.8, 2))
    sleeper.send(signal.SIGCONT)
    _over(world)


def _postgres_killed(strike: Strike) -> None:
    world = world_of(strike)
    world.servers.kill_postgres()
    world.servers.start_postgres()
    _over(world)


def _over(world: ViewWorld) -> None:
    world.over = time.monotonic()
    world.complete()


# Retries


def _retry_killed_at(point: Point, strike: Strike) -> float:
    """Beside workers that go on with the same records."""
    world = world_of(strike)
    world.load.letters = True
    limit = time.monotonic() + LETTERS_LIMIT_S
    while world.letters() < point.passes:
        assert time.monotonic() < limit, f"no {point.passes} partitions with dead letters in {LETTERS_LIMIT_S:.0f} s"
        time.sleep(10 * POLL_S)
    doomed = world.begin("dlq", "retry", "--all", crash_at=point.crash_at(strike.numbers))
    _await_death(doomed.killed(FIRE_LIMIT_S), point, doomed.tail)
    began = time.monotonic()
    world.command("dlq", "retry", "--all")
    return time.monotonic() - began


# Rebuilds


def _rebuild_killed_at(
    point: Point, before: tuple[tuple[str, ...], ...], command: tuple[str, ...], strike: Strike
) -> float:
    """One command after another on any view, the last one killed; then the same one to its end, and a comparison."""
    world = world_of(strike)
    view = strike.numbers.choice(sorted(VIEWS))
    if world.generations(view).state != EMPTY:
        _rebuild(world, view, CANCEL)
    for words in before:
        _rebuild(world, view, words)
    doomed = world.begin("rebuild", command[0], view, *command[1:], crash_at=point.crash_at(strike.numbers))
    _await_death(doomed.killed(FIRE_LIMIT_S), point, doomed.tail)
    began = time.monotonic()
    _go_on(world, view, command, killed_at=point.name)
    took = time.monotonic() - began
    state = world.generations(view).state
    if state in (READY, PREVIOUS):
        _rebuild(world, view, ("diff",))
    if state == READY:
        _rebuild(world, view, ("promote",))
        _rebuild(world, view, ("rollback",))
    return took


def _go_on(world: ViewWorld, view: str, command: tuple[str, ...], *, killed_at: str) -> None:
    """Runs the command again, unless it had done all before it died."""
    found = world.generations(view)
    whole = killed_at == "rebuild.promoted"
    expected = {"start": (EMPTY, FILLING), "promote": (PREVIOUS,) if whole else (READY,)}
    assert found.state in expected.get(command[0], (READY, PREVIOUS)), f"killed at {killed_at}: {found}"
    if not whole:
        # What was filling goes on; nothing that is finished may be given up.
        _rebuild(world, view, tuple(word for word in command if command[0] == "cancel" or word != "--yes"))


def _rebuild(world: ViewWorld, view: str, words: tuple[str, ...]) -> None:
    world.command("rebuild", words[0], view, *words[1:])


def _await_death(killed: bool, point: Point, tail: Callable[[], str]) -> None:
    if not killed:
        raise DidNotFire(f"{point.name} did not fire in {FIRE_LIMIT_S:.0f} s:\n{tail()}")


AT_WORK = (
    Point("views.opened", passes=4),
    Point("views.taken", passes=30),
    Point("views.swapped", passes=12),
    Point("views.mid_copy", passes=12),
    Point("views.before_commit", passes=12),
    Point("views.after_commit", passes=12),
)
"""Passed by every worker that gets a share."""

RETRIES = (Point("dlq.before_commit", passes=3), Point("dlq.after_commit", passes=3))

STARTS = (
    Point("rebuild.before_emptied"),
    Point("rebuild.emptied"),
    Point("rebuild.begun"),
    Point("rebuild.mid_fill"),
    Point("views.mid_copy"),
    Point("views.swapped"),
    Point("views.before_commit"),
    Point("views.after_commit"),
    Point("rebuild.before_ready"),
)
"""Passed by a rebuild of the topics."""

FLIPS = (Point("rebuild.held"), Point("rebuild.before_promoted"), Point("rebuild.promoted"))

FAULTS = (
    *(Fault(p.name, partial(_worker_killed_at, p), every=3) for p in AT_WORK),
    Fault("workers killed at random", _workers_killed_at_random, every=3),
    Fault("workers exchanged", _workers_exchanged, every=3),
    Fault("worker paused", _worker_paused, every=2),
    Fault("postgres killed", _postgres_killed, slow=True, every=2),
    *(Fault(p.name, partial(_retry_killed_at, p), every=2) for p in RETRIES),
    *(Fault(f"{p.name} (start)", partial(_rebuild_killed_at, p, (), START), every=3) for p in STARTS),
    Fault("rebuild.mid_log (start)", partial(_rebuild_killed_at, Point("rebuild.mid_log"), (), LOG), every=3),
    *(Fault(f"{p.name} (promote)", partial(_rebuild_killed_at, p, (START,), ("promote",)), every=3) for p in FLIPS),
    *(
        Fault(f"{p.name} (rollback)", partial(_rebuild_killed_at, p, (START, ("promote",)), ("rollback",)), every=3)
        for p in FLIPS
    ),
    Fault(
        "rebuild.before_emptied (cancel)",
        partial(_rebuild_killed_at, Point("rebuild.before_emptied"), (START,), CANCEL),
        every=3,
    ),
)
