"""The Faust application of the workflow plane: what it consumes, and how it lives inside a loop of ours.

Faust wakes; it decides nothing. Its offsets may be lost and its messages come twice, because what there is to do
stands in the run ledger. So there is no table, no producer, no leader, no web server, and no state on disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import nullcontext
from typing import Any
from uuid import UUID

import faust
from aiokafka.errors import KafkaError
from faust.app.base import BootStrategy
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.types.auth import CredentialsT
from mode.threads import WorkerThread

from projector import freeze
from projector.config import Settings
from projector.errors import BrokerUnavailableError, ProjectorError, StreamStoppedError
from projector.health.judge import Seen
from projector.health.parts import Servers, at_work
from projector.kafka import client_options
from projector.logging import get
from projector.planner.announcement import run_of
from projector.planner.ledger import check_ledger
from projector.views.kafka import wait_for_topics

ANNOUNCEMENTS = "announcements"
"""The part that must move in an application that consumes."""
STOP_TIMEOUT_S = 10.0
START_TIMEOUT_S = 30.0
SESSION_TIMEOUT_S = 6.0
HEARTBEAT_S = 2.0

log = get("workflow")


class _EndsWithTheProcess(WorkerThread):
    """The consumer's thread, which Faust never joins once the application has crashed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.daemon = True


AIOKafkaConsumerThread.Worker = _EndsWithTheProcess


class _WithoutProducer(BootStrategy):
    enable_kafka_producer = False
    enable_web = False


class _WithoutKafka(_WithoutProducer):
    enable_kafka = False


class Workflow(faust.App):
    """One stream of the workflow plane: an application with its own consumer group."""

    BootStrategy = _WithoutProducer
    consumes = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._handled: dict[tuple[str, int], int] = {}

    def handled(self, event: faust.EventT[Any]) -> None:
        """An announcement needs nothing more."""
        self._handled[event.message.topic, event.message.partition] = event.message.offset + 1

    async def seen(self, servers: Servers) -> Seen | None:
        """Of the partitions that this member has, what came since it has them, or since it last handled one; or which
        rebalance it is in.
        """
        if self.crashed or self.should_stop:
            # Its consumer may be gone; `serve` ends with it.
            return None
        if self.rebalancing:
            # It has no partition yet, and others may wait for it. One that then gets none has nothing to do.
            return Seen(("rebalance", self.rebalancing_count))
        mine = {(place.topic, place.partition): 0 for place in self.consumer.assignment()}
        ends = await servers.ends(mine)
        # What comes back from another member goes on where that one was.
        for place in self._handled.keys() - mine.keys():
            self._handled.pop(place, None)
        handled = {place: self._handled.setdefault(place, end) for place, end in ends.items()}
        return Seen(tuple(sorted(handled.items())), any(end > handled[place] for place, end in ends.items()))

    def _create_directories(self) -> None:
        """Nothing of this application is kept on disk."""


class Clockwork(Workflow):
    """One that lives on timers alone, and goes on while the broker is away."""

    BootStrategy = _WithoutKafka
    producer_only = True
    consumes = False

    async def on_start(self) -> None:
        """Faust's own would make a consumer that nobody starts and nobody closes."""
        self.finalize()


def make_app(settings: Settings, name: str, *, kafka: bool = True) -> Workflow:
    """The application of one stream; `name` is part of its consumer group. Call it inside the running loop."""
    # Faust wants an address even from an application that never connects.
    servers = settings.require_kafka() if kafka else "localhost"
    return (Workflow if kafka else Clockwork)(
        f"{settings.topic_prefix}-{name}",
        broker=";".join(f"kafka://{server.strip()}" for server in servers.split(",")),
        broker_credentials=_credentials(client_options(settings)) if kafka else None,
        loop=asyncio.get_running_loop(),
        autodiscover=False,
        store="memory://",
        # A wake-up that is long past does no harm, one that is missed costs a timer's patience.
        consumer_auto_offset_reset="earliest",
        # How long a killed member keeps the group from going on, whether it had joined or was about to: the
        # shortest that brokers accept by default.
        broker_session_timeout=SESSION_TIMEOUT_S,
        broker_rebalance_timeout=SESSION_TIMEOUT_S,
        broker_heartbeat_interval=HEARTBEAT_S,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
    )


def _credentials(options: dict[str, Any]) -> CredentialsT | None:
    """Options of an aiokafka client as Faust takes them: it derives the protocol from what is there."""
    context = options.get("ssl_context")
    if "sasl_mechanism" in options:
        return faust.SASLCredentials(
            mechanism=options["sasl_mechanism"],
            username=options["sasl_plain_username"],
            password=options["sasl_plain_password"],
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context is not None else None


def on_announcement(app: Workflow, topic: str, handle: Callable[[UUID, str], Awaitable[None]]) -> None:
    """Calls `handle(run id, user id)` for each announcement on `topic`; others are counted out in the log.

    One at a time: with more, Faust may commit past one that is still being handled.
    """
    source = app.topic(topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")

    async def agent(stream: faust.StreamT[bytes]) -> None:
        async for event in stream.events():
            run = run_of(event.value)
            if run is None:
                log.warning("an announcement that names no run", topic=topic)
            else:
                await freeze.point("workflow.announcement")
                await handle(*run)
            app.handled(event)

    app.agent(source, name=f"{app.conf.id}.{topic}", concurrency=1)(agent)


async def prerequisites(settings: Settings, stop: asyncio.Event, *topics: str) -> bool:
    """Waits until the topics exist, which the publisher creates; False when `stop` came first.

    Raises DatabaseUnavailableError, NotMigratedError or BrokerUnavailableError.
    """
    await check_ledger(settings)
    return not topics or await wait_for_topics(settings, topics, stop)


async def serve(app: Workflow, stop: asyncio.Event, *work: Coroutine[Any, Any, None]) -> None:
    """Runs the application, and `work` beside it, until `stop`, and then ends them in good order.

    `work` begins at once: a group whose member was killed takes seconds to go on, and the ledger needs no group.
    Signals are the caller's. An error of any part ends all and is raised: nothing goes on half. Raises
    BrokerUnavailableError when the application does not start, StreamStoppedError when it dies later.
    """
    parts = [asyncio.create_task(part) for part in work]
    starting = asyncio.create_task(_start(app))
    ends = [*parts, asyncio.create_task(stop.wait())]
    died: list[asyncio.Task[None]] = []
    try:
        await asyncio.wait([starting, *ends], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            died = [asyncio.create_task(app.wait_until_stopped())]
            log.info("ready", application=app.conf.id)
            with at_work(ANNOUNCEMENTS, app.seen) if app.consumes else nullcontext():
                await asyncio.wait([*ends, *died], return_when=asyncio.FIRST_COMPLETED)
            if died[0].done() and not stop.is_set():
                raise _cause(app)
        stop.set()
        await asyncio.gather(*parts)
    finally:
        for task in ends:
            task.cancel()
        await asyncio.gather(*ends, return_exceptions=True)
        await _stop(app, starting)
        await asyncio.gather(*died)


async def _stop(app: faust.App, starting: asyncio.Task[None]) -> None:
    """Ends the application in good order, if it is in a state in which that ends.

    Half started, or crashed, Faust would wait for its own thread for ever. Then its member leaves the group when
    its session runs out, and its thread goes with the process.
    """
    await asyncio.wait([starting], timeout=STOP_TIMEOUT_S)
    if starting.done() and starting.exception() is None and not app.crashed:
        await asyncio.wait_for(app.stop(), STOP_TIMEOUT_S)
    else:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        log.warning("left without a farewell", application=app.conf.id)


async def _start(app: faust.App) -> None:
    try:
        await asyncio.wait_for(app.start(), START_TIMEOUT_S)
    except (KafkaError, TimeoutError) as error:
        raise BrokerUnavailableError(f"the Faust application {app.conf.id} does not start: {error!r}") from error


def _cause(app: faust.App) -> Exception:
    reason = app.crash_reason
    if isinstance(reason, ProjectorError):
        return reason
    return StreamStoppedError(f"the Faust application {app.conf.id} stopped: {reason!r}")
