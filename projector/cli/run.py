"""`projector run STREAM`: one stream in this process, against given servers, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.metadata import entry_points
from typing import Annotated

import typer

from projector.config import WITHOUT_SERVERS, Settings, load_settings
from projector.errors import ConfigError

Stream = Callable[..., Awaitable[None]]
"""`async def run(settings, stop)`; that of cdc also takes `adopt`."""

# Registered as entry points, since `streams` builds on `projector` and is not imported by it.
ENTRY_POINTS = "projector.streams"
STREAMS = ("cdc", "views", "planner", "sink", "timers", "llm")


def register(app: typer.Typer) -> None:
    app.command("run")(run)


def run(
    stream: Annotated[str, typer.Argument(help=f"One of: {', '.join(STREAMS)}.")],
    adopt: Annotated[
        bool,
        typer.Option(
            "--adopt",
            help="cdc only, once: follow this server from now on although the topics hold another one's log,"
            " and publish what they lack.",
        ),
    ] = False,
) -> None:
    """Run one stream against the servers that the settings name."""
    from projector import logging, metrics, open_files

    settings = load_settings()
    main = load_stream(stream)
    if adopt:
        if stream != "cdc":
            raise ConfigError(f"--adopt says nothing to the stream {stream}", "run `projector run cdc --adopt`")
        main = partial(main, adopt=True)
    if stream not in WITHOUT_SERVERS:
        settings.require_database()
        settings.require_kafka()
    logging.configure(settings, stream)
    open_files.allow()
    metrics.serve(settings)
    asyncio.run(_until_signalled(main, settings, stream))


def load_stream(name: str) -> Stream:
    """The stream's main function; raises ConfigError for a name that is none."""
    for entry in entry_points(group=ENTRY_POINTS, name=name):
        stream: Stream = entry.load()
        return stream
    raise ConfigError(f"there is no stream {name!r}", f"choose one of: {', '.join(STREAMS)}")


async def _until_signalled(main: Stream, settings: Settings, stream: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if settings.api_port is None and not settings.stall_after_s:
        await main(settings, stop)
        return
    # Not above: a command line should be quick to say what is wrong with it.
    from projector.api.server import serving
    from projector.health.monitor import Monitor
    from projector.waiting import alongside

    async with Monitor(settings, stream, partial(serving, settings, stream, stop.is_set)) as monitor:
        await alongside(monitor.stalled, main(settings, stop))
