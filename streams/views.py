"""The views, for ever: each folds its part of the log into its table, independent of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import psycopg
from aiokafka.errors import KafkaError

from projector import collector, metrics, waiting
from projector.config import Settings
from projector.errors import BrokerUnavailableError, DatabaseUnavailableError, ProjectorError
from projector.health.parts import expect, failed
from projector.logging import get
from projector.views import deadletters
from projector.views.consume import consume
from projector.views.declared import VIEWS
from projector.views.watermarks import FOLLOWER, Staleness, watch

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
HOPELESS = psycopg.errors.ProgramLimitExceeded
"""The one kind of what psycopg calls operational that is about what was written: it would come again."""
TRANSIENT = (psycopg.OperationalError, KafkaError, BrokerUnavailableError, DatabaseUnavailableError)

log = get("views")


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Runs every view until `stop`.

    A view that finds something wrong with its data stops alone and says so; the others go on, and its error is
    raised at the end.
    """
    collector.relax()
    stalenesses = {name: Staleness(view) for name, view in VIEWS.items()}
    parts = {name: partial(consume, settings, view, stalenesses[name], stop) for name, view in VIEWS.items()}
    parts[FOLLOWER] = partial(watch, settings, stalenesses.values(), stop)
    parts[deadletters.WATCH] = partial(deadletters.watch, settings, stop)
    expect(*parts)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(keep_up(name, session, stop)) for name, session in parts.items()]
    for error in filter(None, (part.result() for part in running)):
        raise error


async def keep_up(name: str, session: Callable[[], Awaitable[None]], stop: asyncio.Event) -> Exception | None:
    """Runs a session, and another when a server was away; returns the error that no new attempt can mend."""
    pause = FIRST_PAUSE_S
    loop = asyncio.get_running_loop()
    while not stop.is_set():
        started = loop.time()
        try:
            await session()
        except Exception as error:
            if not passes(error):
                if isinstance(error, ProjectorError):
                    log.error("view stopped", view=name, error=error.message, remedy=error.remedy)
                else:
                    log.exception("view stopped", view=name)
                failed(name, error)
                return error
            if loop.time() - started > LONGEST_PAUSE_S:
                pause = FIRST_PAUSE_S
            metrics.VIEW_RESTARTS.labels(name).inc()
            log.warning("view begins again", view=name, error=str(error), pause_s=pause)
            await waiting.pause(pause, stop)
            pause = min(2 * pause, LONGEST_PAUSE_S)
    return None


def passes(error: Exception) -> bool:
    """Whether trying again may help: a server that is away comes back, what can never be stored does not change."""
    return isinstance(error, TRANSIENT) and not isinstance(error, HOPELESS)
