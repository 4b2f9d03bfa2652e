"""The matrix: each fault is a function that strikes and returns when it is over; recovery is measured from there."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tests.faults.judge import NOTHING, Allowed
from tests.faults.postgres_proxy import RowCut
from tests.faults.rebalance import read_in_a_changing_group
from tests.faults.world import SENDER_TIMEOUT_S, World

FIRE_LIMIT_S = 30.0
GAP_S = 0.3
GAP_ROWS = 300
"""So many that a fill has to wait for acknowledgements before it can send the rest."""
HISTORY_ROWS = 2000
LOAD_ROWS, BULK_ROWS = 400, 3000
"""More rows than a transaction of the load has, and those of one that has more."""

GAP = Allowed(gap=True)


class DidNotFire(AssertionError):
    """The fault was not provoked, so it shows nothing."""


@dataclass(frozen=True, slots=True)
class Strike:
    """What a fault may draw from: numbers that follow from the seed, and how long a server stays away."""

    world: World
    numbers: random.Random
    away_s: float


@dataclass(frozen=True, slots=True)
class Fault:
    """`strike` returns None when the world is to recover, or the seconds of a recovery that it saw itself.

    `every`: strikes between two verifications. `slow`: repeated as often as --slow-repeats says. `share`: of those
    repeats, for what is struck under several names. `took_s`: what a strike takes, as `Budget` means it, beside the
    `away` times --away that a server stays away.
    """

    name: str
    strike: Callable[[Strike], float | None]
    slow: bool = False
    share: float = 1.0
    every: int = 5
    allowed: Allowed = NOTHING
    took_s: float = 1.5
    away: float = 0.0


@dataclass(frozen=True, slots=True)
class Point:
    """A crash point, and the pass at which it fires: drawn from 1 to `passes`."""

    name: str
    passes: int = 1

    def crash_at(self, numbers: random.Random) -> str:
        return f"{self.name}:{numbers.randint(1, self.passes)}"


# Kills


def _killed_at(point: Point, strike: Strike) -> None:
    strike.world.kill_streams()
    strike.world.wait_released()
    _die_at(point, strike.world, strike.numbers)
    _next_stream(strike.world)


def _killed_at_without_slot(point: Point, strike: Strike) -> None:
    """Somebody dropped the slot while the stream was down, and what is committed now is in none."""
    strike.world.lose_slot()
    time.sleep(GAP_S)
    # The writers of the load may rest all at once, each after a large transaction.
    strike.world.load.bulk(rows=GAP_ROWS, octets=200)
    _killed_at(point, strike)


def _killed_at_with_history(point: Point, strike: Strike) -> float:
    """A new installation whose table has rows already, and gets more all the while."""
    servers, numbers = strike.world.servers, strike.numbers
    fresh = World(servers, f"fresh_{numbers.getrandbits(48):x}", str(numbers.random()), rate=100)
    try:
        fresh.load.start()
        fresh.load.bulk(rows=HISTORY_ROWS, octets=200)
        _die_at(point, fresh, numbers)
        _next_stream(fresh)
        took = fresh.recover()
        fresh.finish(GAP)
        return took
    finally:
        fresh.drop()


def _die_at(point: Point, world: World, numbers: random.Random) -> None:
    doomed = world.start_stream(point.crash_at(numbers))
    if not doomed.killed(FIRE_LIMIT_S):
        raise DidNotFire(f"{point.name} did not fire in {FIRE_LIMIT_S:.0f} s:\n{doomed.tail()}")


def _killed_at_random(strike: Strike) -> None:
    time.sleep(strike.numbers.uniform(0, 1.5))
    strike.world.kill_streams()
    _next_stream(strike.world)


def _killed_while_starting(strike: Strike) -> None:
    strike.world.kill_streams()
    strike.world.start_stream()
    time.sleep(strike.numbers.uniform(0, 0.4))
    strike.world.kill_streams()
    _next_stream(strike.world)


def _stopped_in_order(strike: Strike) -> None:
    strike.world.stream.stop()
    _next_stream(strike.world)


def _next_stream(world: World) -> None:
    world.over = time.monotonic()
    world.start_stream()


def _paused(strike: Strike) -> None:
    stream = strike.world.stream
    stream.send(signal.SIGSTOP)
    time.sleep(strike.numbers.uniform(0.5, 1.5 * SENDER_TIMEOUT_S))
    stream.send(signal.SIGCONT)
    strike.world.over = time.monotonic()


def _overtaken(strike: Strike) -> None:
    world = strike.world
    first = world.stream
    overtake(world, strike.numbers, lambda: world.load.bulk(rows=6000, octets=2000))
    world.recover()
    first.kill()


def overtake(
    world: World, numbers: random.Random, write: Callable[[], None], meanwhile: Callable[[], None] = lambda: None
) -> None:
    """Paused with full batches, a request of them on its way; its successor runs under load when it wakes.

    `write` commits several megabytes at once; `meanwhile` is called when the successor is at work.
    """
    first = world.stream
    write()
    time.sleep(numbers.uniform(0, 0.2))
    world.servers.kafka_proxy.freeze(answers=False)
    time.sleep(numbers.uniform(0.1, 0.5))
    first.send(signal.SIGSTOP)
    second = world.start_stream()
    second.wait_ready()
    meanwhile()
    time.sleep(numbers.uniform(0, 0.5))
    world.servers.kafka_proxy.thaw()
    first.send(signal.SIGCONT)
    world.over = time.monotonic()


# Servers


def _postgres_restarted(strike: Strike) -> None:
    strike.world.servers.postgres.stop()
    strike.world.servers.start_postgres()
    strike.world.over = time.monotonic()


def _postgres_killed(strike: Strike) -> None:
    strike.world.servers.kill_postgres()
    strike.world.servers.start_postgres()
    strike.world.over = time.monotonic()


def _standby_away(strike: Strike) -> None:
    """Commits are in the WAL and wait for a standby, where nobody sees them; the stream may be killed meanwhile."""
    world = strike.world
    _wait_for_standby(world, "nobody")
    try:
        time.sleep(strike.numbers.uniform(0.3, 1.5))
        if strike.numbers.random() < 0.5:
            world.stream.kill()
            world.start_stream()
            time.sleep(strike.numbers.uniform(0, 2))
    finally:
        _wait_for_standby(world, "")
    world.over = time.monotonic()


def _wait_for_standby(world: World, name: str) -> None:
    world.ask(f"alter system set synchronous_standby_names = '{name}'")
    world.ask("select pg_reload_conf()")


def _broker_stopped(strike: Strike) -> None:
    strike.world.servers.kafka.stop()
    time.sleep(strike.away_s)
    strike.world.servers.start_kafka()
    strike.world.over = time.monotonic()


def _broker_killed(strike: Strike) -> None:
    strike.world.servers.kill_kafka()
    strike.world.servers.start_kafka()
    strike.world.over = time.monotonic()


def _broker_paused(strike: Strike) -> None:
    strike.world.servers.pause_kafka()
    time.sleep(strike.numbers.uniform(0.5, 1) * strike.away_s)
    strike.world.servers.wake_kafka()
    strike.world.over = time.monotonic()


def _broker_disk_refuses(strike: Strike) -> None:
    """The broker gives up when it cannot write; its disk has room again when it is started anew."""
    servers = strike.world.servers
    servers.refuse_kafka_writes()
    assert servers.kafka.process is not None
    if servers.kafka.process.wait(FIRE_LIMIT_S) is None:
        raise DidNotFire("the broker goes on although no file of it can grow")
    servers.kafka.process = None
    time.sleep(strike.numbers.uniform(0, 0.2) * strike.away_s)
    servers.start_kafka()
    strike.world.over = time.monotonic()


# Network


def _postgres_cut(strike: Strike) -> None:
    """All connections, wherever they are: between or within messages of the stream and answers to queries."""
    after = strike.numbers.randint(1, 200_000)
    _cut(strike, after, upwards=False, postgres=True)


def _postgres_cut_in_a_row(strike: Strike) -> None:
    """The replication connection alone, in the middle of a COPY message of a large transaction."""
    world, proxy = strike.world, strike.world.servers.postgres_proxy
    # No transaction of the load has so many rows, so none of them is struck.
    cut = RowCut(strike.numbers.randint(LOAD_ROWS, BULK_ROWS), strike.numbers.random())
    proxy.cut_in(cut)
    try:
        world.load.bulk(rows=BULK_ROWS, octets=2000)
        if not cut.happened.wait(FIRE_LIMIT_S):
            raise DidNotFire(f"row {cut.number} of a transaction did not pass in {FIRE_LIMIT_S:.0f} s")
    finally:
        proxy.cut_in(None)
    world.over = time.monotonic()


def _kafka_cut(strike: Strike) -> None:
    """In the middle of a request to produce, or of its answer."""
    upwards = strike.numbers.random() < 0.7
    after = strike.numbers.randint(1, 100_000 if upwards else 500)
    _cut(strike, after, upwards=upwards, postgres=False)


def _cut(strike: Strike, after: int, *, upwards: bool, postgres: bool) -> None:
    servers = strike.world.servers
    proxy = servers.postgres_proxy if postgres else servers.kafka_proxy
    if not proxy.cut(after, upwards=upwards, limit_s=FIRE_LIMIT_S):
        raise DidNotFire(f"fewer than {after} bytes passed in {FIRE_LIMIT_S:.0f} s")
    strike.world.over = time.monotonic()


def _postgres_frozen(strike: Strike) -> None:
    _frozen(strike, postgres=True)


def _kafka_frozen(strike: Strike) -> None:
    _frozen(strike, postgres=False)


def _frozen(strike: Strike, *, postgres: bool) -> None:
    """Nothing passes for longer than Postgres waits for its reader, and then all of it."""
    servers = strike.world.servers
    proxy = servers.postgres_proxy if postgres else servers.kafka_proxy
    proxy.freeze()
    time.sleep(strike.numbers.uniform(0.2, 1.5) * SENDER_TIMEOUT_S)
    proxy.thaw()
    strike.world.over = time.monotonic()


def _postgres_vanished(strike: Strike) -> float:
    """The present connections never bring anything again, and nobody says so, as behind a router that forgot them."""
    proxy = strike.world.servers.postgres_proxy
    proxy.freeze()
    strike.world.over = time.monotonic()
    try:
        time.sleep(GAP_S)  # so that there is something to recover
        return strike.world.recover()
    finally:
        proxy.close_frozen()


# Readers


def _group_rebalanced(strike: Strike) -> None:
    strike.world.over = time.monotonic()
    asyncio.run(read_in_a_changing_group(strike.world.reader, f"{strike.world.name}-{strike.numbers.random()}"))


UNDER_LOAD = (
    Point("cdc.after_receive", passes=60),
    Point("cdc.after_append", passes=200),
    Point("cdc.mid_transaction", passes=150),
    Point("cdc.before_send", passes=60),
    Point("cdc.after_send_before_ack", passes=60),
    Point("cdc.after_ack_before_confirm", passes=60),
    Point("cdc.after_confirm", passes=4),
    Point("cdc.before_tails", passes=2),
    Point("cdc.mid_tails", passes=2),
    Point("cdc.heartbeat_sent", passes=2),
    Point("cdc.watermark_before_send", passes=10),
    Point("cdc.watermark_after_ack", passes=10),
)
"""Passed by every stream that runs under load."""

WITHOUT_SLOT = (
    Point("cdc.before_slot"),
    Point("cdc.after_slot_before_recorded"),
    Point("cdc.after_recorded"),
    Point("cdc.fill_before_send", passes=3),
    Point("cdc.fill_after_ack_before_checkpoint", passes=2),
    Point("cdc.fill_after_checkpoint", passes=2),
    Point("cdc.fill_finished"),
)
"""Passed by a stream that finds its slot gone."""

WITH_HISTORY = (
    Point("cdc.before_slot"),
    Point("cdc.after_slot_before_recorded"),
    Point("cdc.after_recorded"),
    Point("cdc.fill_before_send", passes=12),
    Point("cdc.fill_after_ack_before_checkpoint", passes=2),
    Point("cdc.fill_after_checkpoint", passes=2),
    Point("cdc.fill_finished"),
)
"""Passed by the first stream of a table that has rows."""

FAULTS = (
    *(Fault(p.name, partial(_killed_at, p)) for p in UNDER_LOAD),
    *(Fault(f"{p.name} (slot lost)", partial(_killed_at_without_slot, p), allowed=GAP) for p in WITHOUT_SLOT),
    *(Fault(f"{p.name} (history)", partial(_killed_at_with_history, p), share=0.2, took_s=3) for p in WITH_HISTORY),
    Fault("kill at random", _killed_at_random),
    Fault("kill while starting", _killed_while_starting),
    Fault("stop in order", _stopped_in_order),
    Fault("stream paused", _paused, slow=True, every=2, took_s=4.5),
    Fault("stream overtaken", _overtaken, slow=True, every=1, allowed=Allowed(repeats=True), took_s=8.5),
    Fault("postgres restarted", _postgres_restarted, every=2),
    Fault("postgres killed", _postgres_killed, every=2),
    Fault("postgres cut", _postgres_cut, took_s=4),
    Fault("postgres cut in a row", _postgres_cut_in_a_row, took_s=2.5),
    Fault("postgres frozen", _postgres_frozen, slow=True, every=2, took_s=4.5),
    Fault("postgres vanished", _postgres_vanished, slow=True, every=2, took_s=15),
    Fault("standby away", _standby_away, every=2, took_s=2),
    Fault("broker stopped", _broker_stopped, slow=True, every=1, took_s=12, away=1),
    Fault("broker killed", _broker_killed, slow=True, every=1, took_s=13),
    Fault("broker paused", _broker_paused, slow=True, every=1, took_s=5, away=0.75),
    Fault("broker disk refuses", _broker_disk_refuses, slow=True, every=1, took_s=16, away=0.1),
    Fault("kafka cut", _kafka_cut),
    Fault("kafka frozen", _kafka_frozen, slow=True, every=2, took_s=4.5),
    Fault("group rebalanced", _group_rebalanced, slow=True, every=1, took_s=3),
)
