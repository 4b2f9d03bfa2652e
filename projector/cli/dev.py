"""`projector dev`: servers and streams on this machine until Ctrl-C, continuing on their data next time."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from projector.cli.output import console, json_line
from projector.config import Settings, load_settings
from projector.errors import ConfigError

if TYPE_CHECKING:
    from projector.embedded.pipeline import Pipeline

# A stream that dies at once would otherwise be started a hundred times a second.
RESTART_DELAYS_S = (0.5, 1.0, 2.0, 5.0, 10.0)
SETTLED_S = 30.0


def register(app: typer.Typer) -> None:
    app.command("dev")(dev)


def dev(
    reset: Annotated[bool, typer.Option("--reset", help="Start on empty data; asks first.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Run PostgreSQL, Kafka and every stream here until Ctrl-C; given servers are used where set."""
    settings = load_settings()
    if reset:
        _reset(settings.state_dir, yes=yes)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if settings.database_url.get_secret_value() and settings.kafka_bootstrap_servers:
        _run_on_given_servers(settings, stop, as_json=as_json)
    else:
        _run_embedded(settings, stop, as_json=as_json)


def _run_embedded(settings: Settings, stop: threading.Event, *, as_json: bool) -> None:
    from projector.embedded.environment import environment

    out = console()
    with environment(
        settings, settings.state_dir, lambda text: None if as_json else out.print(f"[dim]{text}[/]")
    ) as env:
        addresses = {
            "log (the sync server's login)": env.logins.sync,
            "database (the streams' login)": env.logins.streams,
            "kafka": env.settings.kafka_bootstrap_servers,
            "logs": str(env.pipeline.log_dir),
        }
        _run_streams(env.pipeline, addresses, stop, as_json=as_json)


def _run_on_given_servers(settings: Settings, stop: threading.Event, *, as_json: bool) -> None:
    from projector.embedded.pipeline import Pipeline

    pipeline = Pipeline(settings, settings.state_dir / "log")
    try:
        addresses = {"kafka": settings.kafka_bootstrap_servers, "logs": str(pipeline.log_dir)}
        _run_streams(pipeline, addresses, stop, as_json=as_json)
    finally:
        pipeline.stop_all()


def _run_streams(pipeline: Pipeline, addresses: dict[str, str], stop: threading.Event, *, as_json: bool) -> None:
    if pipeline.settings.llm_config or pipeline.settings.llm_base_url:
        model = pipeline.settings.llm_config or pipeline.settings.llm_base_url
    else:
        model = f"{pipeline.start_scripted_model()} (scripted: set PROJECTOR_LLM_BASE_URL for a real one)"
    pipeline.start_all()
    addresses = {**addresses, "model": model}
    if as_json:
        json_line(event="ready", pids={name: p.pid for name, p in pipeline.processes.items()}, **addresses)
    else:
        out = console()
        for name, address in addresses.items():
            out.print(f"  {name:<30} [bold]{address}[/]", soft_wrap=True)
        out.print(f"[green]running[/]: {', '.join(pipeline.processes)}; Ctrl-C ends it")
    _supervise(pipeline, stop, as_json=as_json)


def _supervise(pipeline: Pipeline, stop: threading.Event, *, as_json: bool) -> None:
    """Starts again what ended, with growing delays for what goes on ending."""
    ended: dict[str, list[float]] = {}
    restart_at: dict[str, float] = {}
    while not stop.wait(0.2):
        now = time.monotonic()
        for name in pipeline.exited():
            if name not in restart_at:
                recent = [moment for moment in ended.get(name, []) if now - moment < SETTLED_S]
                delay = RESTART_DELAYS_S[min(len(recent), len(RESTART_DELAYS_S) - 1)]
                ended[name] = [*recent, now]
                restart_at[name] = now + delay
                status = pipeline.processes[name].poll()
                if as_json:
                    json_line(event="ended", stream=name, status=status, restart_in_s=delay)
                else:
                    console().print(f"[yellow]{name} ended with status {status}[/]; starting it again in {delay:g} s")
                    console().print(pipeline.tail(name, 3), style="dim", markup=False)
            elif now >= restart_at[name]:
                del restart_at[name]
                pipeline.restart(name)


def _reset(state_dir: Path, *, yes: bool) -> None:
    if not state_dir.exists():
        return
    # A folder that we did not make is never deleted, whatever a setting says.
    if not (state_dir / "postgres").is_dir():
        raise ConfigError(f"{state_dir.resolve()} holds no data of projector dev", "check PROJECTOR_STATE_DIR")
    if not yes and not typer.confirm(f"Delete all data in {state_dir.resolve()}?"):
        raise typer.Abort
    shutil.rmtree(state_dir)
