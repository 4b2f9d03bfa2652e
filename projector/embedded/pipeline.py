"""The streams as child processes, each the same `projector run NAME` that runs in production."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from projector.config import Settings
from projector.embedded import ports
from projector.embedded.process import Process, start
from projector.errors import EmbeddedError
from projector.views.declared import VIEWS

STREAMS = ("cdc", "views", "planner", "sink", "timers")
SCRIPTED_MODEL = "scripted-llm"
PARTS = {"views": len(VIEWS)}
"""How many parts of a stream must be at work before it is; each says `ready` in its log."""
READY_TIMEOUT_S = 40.0
STOP_TIMEOUT_S = 15.0


class Pipeline:
    """Starts, watches and stops the streams; each writes its log to `log_dir/<name>.log`."""

    def __init__(self, settings: Settings, log_dir: Path) -> None:
        self.settings = settings
        self.log_dir = log_dir
        self.processes: dict[str, Process] = {}
        self._commands: dict[str, tuple[list[str], dict[str, str]]] = {}
        self._log_starts: dict[str, int] = {}
        log_dir.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, *, crash_at: str = "") -> Process:
        """Starts one stream; `crash_at` names a point of `projector.crash` at which it is to die."""
        environment = _outer_environment() | self.settings.environment() | {"PROJECTOR_LOG_FORMAT": "json"}
        if crash_at:
            environment["PROJECTOR_CRASH_AT"] = crash_at
        return self._spawn(name, [sys.executable, "-m", "projector", "run", name], environment)

    def start_scripted_model(self, *, delay_s: float = 0.0) -> str:
        """Starts the scripted stand-in for a language model, points the settings at it, returns its URL.

        Each of its answers takes `delay_s`.
        """
        port = ports.free_port()
        argv = [sys.executable, "-m", "projector.embedded.scripted_llm", "--port", str(port), "--delay", str(delay_s)]
        self._spawn(SCRIPTED_MODEL, argv, _outer_environment())
        self._wait(SCRIPTED_MODEL, lambda: ports.answers(port))
        url = f"http://127.0.0.1:{port}"
        self.settings = self.settings.model_copy(update={"llm_base_url": url, "llm_config": ""})
        return url

    def start_all(self) -> None:
        """Starts every stream and waits until each is at work."""
        for name in STREAMS:
            self.start(name)
        for name in STREAMS:
            self.wait_ready(name)

    def wait_ready(self, name: str, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Waits for the stream's own word that it is at work; raises EmbeddedError when it ends or stays silent."""
        self._wait(name, lambda: len(self._ready_parts(name)) >= PARTS.get(name, 1), timeout_s)

    def restart(self, name: str) -> Process:
        """Starts again what has ended."""
        return self._spawn(name, *self._commands[name])

    def stop(self, name: str) -> None:
        """Ends one stream in good order."""
        self.processes.pop(name).stop(STOP_TIMEOUT_S)

    def kill(self, name: str) -> None:
        """Ends one stream by SIGKILL."""
        self.processes.pop(name).kill()

    def stop_all(self) -> None:
        """Ends everything, the newest first."""
        for name in reversed(list(self.processes)):
            self.stop(name)

    def exited(self) -> list[str]:
        """The streams that have ended without being told to."""
        return [name for name, process in self.processes.items() if process.poll() is not None]

    def tail(self, name: str, lines: int = 8) -> str:
        """The last lines of a stream's log."""
        path = self.log_dir / f"{name}.log"
        return "\n".join(path.read_text("utf-8", "replace").splitlines()[-lines:]) if path.exists() else ""

    def _spawn(self, name: str, argv: list[str], environment: dict[str, str]) -> Process:
        log_file = self.log_dir / f"{name}.log"
        self._log_starts[name] = log_file.stat().st_size if log_file.exists() else 0
        process = start(name, argv, env=environment, log_file=log_file)
        self.processes[name] = process
        self._commands[name] = (argv, environment)
        return process

    def _wait(self, name: str, ready: Callable[[], bool], timeout_s: float = READY_TIMEOUT_S) -> None:
        limit = time.monotonic() + timeout_s
        while not ready():
            code = self.processes[name].poll()
            if code is not None:
                raise EmbeddedError(
                    f"{name} ended with status {code} while starting; its last lines:\n{self.tail(name)}"
                )
            if time.monotonic() > limit:
                raise EmbeddedError(f"{name} was not ready within {timeout_s:.0f} s:\n{self.tail(name)}")
            time.sleep(0.02)

    def _ready_parts(self, name: str) -> set[str]:
        """The parts of a stream that have said so in its log since its start."""
        with (self.log_dir / f"{name}.log").open("rb") as file:
            file.seek(self._log_starts[name])
            entries = [_entry(line) for line in file]
        return {str(entry.get("view", name)) for entry in entries if entry.get("event") == "ready"}


def _entry(line: bytes) -> dict[str, object]:
    try:
        entry = json.loads(line)
    except ValueError:  # a traceback, or a line still being written
        return {}
    return entry if isinstance(entry, dict) else {}


def _outer_environment() -> dict[str, str]:
    """This process's environment without our own settings, which each child is given anew."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PROJECTOR_")}
