"""`projector run NAME`, or another command, as a process that can be killed, paused, and told where to kill itself.

Forked from a server that has the modules loaded: importing them takes a hundred times as long as everything else
that a start does, and a matrix starts thousands.
"""

from __future__ import annotations

import importlib
import json
import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from projector.config import Settings

STREAMS = [f"streams.{name}" for name in ("cdc", "views", "planner", "sink", "timers")]

PRELOADED = ["projector.cli", "projector.cli.run", "projector.api.server", *STREAMS, "tests.faults.stream"]

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(PRELOADED)

POLL_S = 0.01
READY_LIMIT_S = 40.0
TALK_LIMIT_S = 240.0
"""However much it says meanwhile."""


class Stream:
    """Starts at once. `crash_at` is what PROJECTOR_CRASH_AT says, `freeze_at` is what PROJECTOR_FREEZE_AT says.

    `words` makes it another command than `run NAME`; `first`, a function of a module, is called in the new process
    before anything else.
    """

    def __init__(
        self,
        settings: Settings,
        log_file: Path,
        crash_at: str = "",
        *,
        name: str = "cdc",
        freeze_at: str = "",
        words: Sequence[str] = (),
        first: Callable[[], None] | None = None,
    ) -> None:
        self.log_file = log_file
        self._log_start = log_file.stat().st_size if log_file.exists() else 0
        environment = settings.environment() | {"PROJECTOR_LOG_FORMAT": "json", "PROJECTOR_CRASH_AT": crash_at}
        environment["PROJECTOR_FREEZE_AT"] = freeze_at
        args = (tuple(words) or ("run", name), environment, str(log_file), first)
        self._process = _FORKS.Process(target=_main, args=args, daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs, negative when a signal killed it."""
        return self._process.exitcode

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        self._process.kill()
        self._process.join()

    def stop(self, limit_s: float = 15.0) -> None:
        """SIGTERM: it ends in order."""
        self._process.terminate()
        self.joined(limit_s)
        assert self.exit_code == 0, f"the stream ended with {self.exit_code}:\n{self.tail()}"

    def joined(self, limit_s: float) -> int | None:
        """Waits until it has ended; returns its exit code, None when that did not happen in time."""
        self._process.join(limit_s)
        return self.exit_code

    def killed(self, silent_limit_s: float) -> bool:
        """Waits until it was killed by SIGKILL; False when it ended otherwise, or has no more to say."""
        for _ in self._while_it_speaks(TALK_LIMIT_S, silent_limit_s):
            if self.exit_code is not None:
                return self.exit_code == -signal.SIGKILL
        return False

    def wait_ready(self) -> None:
        """Waits until it says that it reads the slot. Healing one reads whole topics, and says so as it goes."""
        self.wait_for("ready", TALK_LIMIT_S, READY_LIMIT_S)

    def wait_for(self, event: str, limit_s: float, silent_limit_s: float = math.inf) -> None:
        """Waits until it has logged an event of that name."""
        for _ in self._while_it_speaks(limit_s, silent_limit_s):
            if any(entry.get("event") == event for entry in self.entries()):
                return
            assert self.exit_code is None, f"the stream ended with {self.exit_code}:\n{self.tail()}"
        raise AssertionError(
            f"the stream did not say {event!r} in {min(limit_s, silent_limit_s):.0f} s:\n{self.tail()}"
        )

    def _while_it_speaks(self, limit_s: float, silent_limit_s: float) -> Iterator[None]:
        """Again and again, until it has logged nothing for so long, or the time is over."""
        now = time.monotonic()
        limit, silent_limit, said = now + limit_s, now + silent_limit_s, 0
        while now < min(limit, silent_limit):
            yield
            time.sleep(POLL_S)
            now = time.monotonic()
            if (lines := len(self._lines())) > said:
                said, silent_limit = lines, now + silent_limit_s

    def entries(self) -> list[dict[str, object]]:
        """What it has logged since its start."""
        return [entry for line in self._lines() if (entry := _entry(line))]

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self._lines()[-lines:])

    def _lines(self) -> list[str]:
        if not self.log_file.exists():
            return []
        with self.log_file.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace").splitlines()


def _entry(line: str) -> dict[str, object]:
    try:
        entry = json.loads(line)
    except ValueError:  # a traceback, or a line still being written
        return {}
    return entry if isinstance(entry, dict) else {}


def _main(words: Sequence[str], environment: dict[str, str], log_file: str, first: Callable[[], None] | None) -> None:
    """In the forked process: what `python -m projector WORDS` does."""
    from projector import cli, crash, freeze
    from projector.embedded.guard import PR_SET_PDEATHSIG, prctl

    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for variable in [variable for variable in os.environ if variable.startswith("PROJECTOR_")]:
        del os.environ[variable]
    os.environ |= environment
    for module in crash, freeze:
        importlib.reload(module)  # they read the environment when they are imported
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if first is not None:
        first()
    sys.argv = ["projector", *words]
    sys.exit(cli.main())
