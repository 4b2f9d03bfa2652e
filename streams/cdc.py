"""WAL → Kafka, for ever: one session after another, each going on where the topics end."""

from __future__ import annotations

import asyncio

import psycopg
from aiokafka.errors import KafkaError
from psycopg import errors

from projector import waiting
from projector.cdc.guardian import Guardian
from projector.cdc.pump import PUMP
from projector.cdc.session import stream
from projector.config import Settings
from projector.errors import (
    BrokerUnavailableError,
    DatabaseUnavailableError,
    ProjectorError,
    ReplicationError,
)
from projector.health.parts import expect
from projector.logging import get
from projector.metrics import CDC_RESTARTS
from projector.sql.connection import DATABASE_AWAY

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
GRACE_S = 10.0
"""Longer than a session takes to end in order; one whose servers do not answer is left, as by a kill."""
_SOUND_S = 3.0

_PASSING = (
    *DATABASE_AWAY,
    psycopg.InterfaceError,
    # A server is read-only while it is a standby, or as managed ones are while their disk is full.
    errors.ReadOnlySqlTransaction,
)

log = get("cdc")


async def run(settings: Settings, stop: asyncio.Event, *, adopt: bool = False) -> None:
    """Runs until `stop` is set. With `adopt`, a server that is not the one known becomes the source from now on.

    A session that ends by itself (a server restarted, a connection cut, a producer that cannot go on) is begun again
    after a pause that grows while it keeps failing. What a person must mend is raised as the ProjectorError it is;
    so is everything that goes wrong before both servers were reached once, when a wrong setting is the likely cause.
    The guardian looks at the slot all the while, also between sessions.
    """
    expect(PUMP)
    await waiting.alongside(Guardian(settings).run(), _sessions(settings, stop, adopt))


async def _sessions(settings: Settings, stop: asyncio.Event, adopt: bool) -> None:
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()
    pause = FIRST_PAUSE_S
    while not stop.is_set():
        started = loop.time()
        try:
            await waiting.unless_stopped(stream(settings, stop, reached, adopt=adopt), stop, GRACE_S)
        except (psycopg.Error, KafkaError, TimeoutError, ProjectorError) as error:
            if not (reached.is_set() and passes(error)):
                raise
            if loop.time() - started > _SOUND_S:
                pause = FIRST_PAUSE_S
            CDC_RESTARTS.labels(type(error).__name__).inc()
            log.warning("session ended", reason=type(error).__name__, error=str(error), again_in_s=pause)
            if not await waiting.pause(pause, stop):
                pause = min(pause * 2, LONGEST_PAUSE_S)


def passes(error: Exception) -> bool:
    """Whether trying again may help: a server that is away comes back, a setting does not change by itself."""
    if isinstance(error, ProjectorError):
        return type(error) is ReplicationError or isinstance(error, (DatabaseUnavailableError, BrokerUnavailableError))
    if isinstance(error, psycopg.Error):
        return isinstance(error, _PASSING)
    return True
