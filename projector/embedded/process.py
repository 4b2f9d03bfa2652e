"""Child processes that never outlive this one, not even after its SIGKILL (see guard.py for how)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event, Lock
from typing import BinaryIO

from projector.errors import EmbeddedError

GUARD = Path(__file__).with_name("guard.py")
ROTATE_LOG_BYTES = 8 * 1024 * 1024
TAIL_BYTES = 64 * 1024


class Process:
    """A running child. `name` is what people call it, `pid` is the command's own, not the guard's."""

    def __init__(
        self,
        name: str,
        log_file: Path,
        log_start: int,
        stop_signal: int,
        guard: subprocess.Popen[bytes],
        control: int,
        status: BinaryIO,
    ) -> None:
        self.name = name
        self.log_file = log_file
        self._log_start = log_start
        self._stop_signal = stop_signal
        self._guard = guard
        self._control = control
        self._status = status
        self._code: int | None = None
        self._lock = Lock()
        word, _, rest = status.readline().decode(errors="replace").strip().partition(" ")
        if word != "pid":
            guard.wait()
            self._close()
            raise EmbeddedError(f"{name} cannot be started: {rest or 'its guard ended'}", "Check that it is installed.")
        self.pid = int(rest)

    def poll(self) -> int | None:
        """The exit code once it has ended (negative: the signal that killed it), else None."""
        with self._lock:
            if self._code is None and self._guard.poll() is not None:
                words = self._status.read().split()
                # A guard that was killed could not tell; its command died with it.
                self._code = int(words[1]) if words[:1] == [b"exited"] else -int(signal.SIGKILL)
                self._close()
            return self._code

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit code, or None when it still runs after `timeout` seconds."""
        try:
            self._guard.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        return self.poll()

    def send(self, number: int) -> None:
        """Sends a signal to the command and its process group; nothing happens when it has ended."""
        with self._lock:
            if self._code is None:
                with contextlib.suppress(BrokenPipeError):  # it has ended, and `poll` will say so
                    os.write(self._control, bytes([number]))

    def stop(self, timeout: float = 10.0) -> int:
        """Asks it to end, kills it after `timeout` seconds, and returns the exit code."""
        self.send(self._stop_signal)
        code = self.wait(timeout)
        return self.kill() if code is None else code

    def kill(self) -> int:
        """Ends it with SIGKILL, as a crash would, and returns the exit code."""
        self.send(signal.SIGKILL)
        self._guard.wait()
        return self.poll() or 0

    def tail(self, lines: int = 20) -> list[str]:
        """The last lines that it wrote since this start."""
        with self.log_file.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - TAIL_BYTES))
            return log.read().decode(errors="replace").splitlines()[-lines:]

    def failure(self, what: str, lines: int = 12) -> EmbeddedError:
        """An error that says what happened to this part and shows its last log lines."""
        # The frames of a Java stack trace would push out the line that says what went wrong.
        said = [line for line in self.tail(200) if not line.startswith("\tat ")]
        tail = [f"  | {line}" for line in said[-lines:]] or ["  (it wrote nothing)"]
        return EmbeddedError("\n".join([f"{self.name} {what}; end of {self.log_file}:", *tail]))

    def _close(self) -> None:
        os.close(self._control)
        self._status.close()


def start(
    name: str,
    argv: Sequence[str | Path],
    *,
    log_file: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stop_signal: int = signal.SIGTERM,
    grace_s: float = 5.0,
    hold: Sequence[int] = (),
) -> Process:
    """Starts a command under guard, its output appended to `log_file`.

    `env`: the whole environment (default: this process's). When this process dies, the command gets `stop_signal`,
    and SIGKILL `grace_s` seconds later. `hold`: file descriptors that stay open until it has ended (the guard has them,
    the command does not), such as that of a lock. Raises EmbeddedError when the command cannot be executed.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    if log_file.exists() and log_file.stat().st_size > ROTATE_LOG_BYTES:
        log_file.replace(log_file.with_name(log_file.name + ".1"))
    # Python's pipes are close-on-exec, so no other child of ours gets hold of the write end of `control`.
    control_read, control = os.pipe()
    status, status_write = os.pipe()
    try:
        with log_file.open("ab") as log:
            log_start = log.tell()
            guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARD)]
                + [str(control_read), str(status_write), str(int(stop_signal)), str(grace_s)]
                + [str(argument) for argument in argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                cwd=cwd,
                pass_fds=(control_read, status_write, *hold),
                # A session of its own: Ctrl-C at a terminal reaches only us, and we end the children in order.
                start_new_session=True,
            )
    except OSError:
        os.close(control)
        os.close(status)
        raise
    finally:
        os.close(control_read)
        os.close(status_write)
    return Process(name, log_file, log_start, stop_signal, guard, control, os.fdopen(status, "rb"))


class Halted(Exception):  # a request, not an error
    """Another part of the stack failed, so this one gives up its start."""


def run_to_end(process: Process, halt: Event, timeout: float = 120.0) -> None:
    """Waits for a command that ends by itself; raises EmbeddedError unless it ends with 0, Halted when told to."""
    deadline = time.monotonic() + timeout
    while (code := process.wait(0.05)) is None:
        if halt.is_set():
            process.kill()
            raise Halted
        if time.monotonic() > deadline:
            process.kill()
            raise process.failure(f"did not end within {timeout:.0f} s")
    if code != 0:
        raise process.failure(f"failed with exit status {code}")


def wait_until(ready: Callable[[], bool], process: Process, halt: Event, timeout: float) -> None:
    """Waits for a server to serve; raises EmbeddedError when it ends or takes too long, Halted when told to."""
    deadline = time.monotonic() + timeout
    while not ready():
        if (code := process.poll()) is not None:
            raise process.failure(f"did not start (exit status {code})")
        if time.monotonic() > deadline:
            raise process.failure(f"does not answer after {timeout:.0f} s")
        if halt.wait(0.05):
            raise Halted


def start_server(
    launch: Callable[[], Process], ready: Callable[[], bool], halt: Event, timeout: float, tries: int = 3
) -> Process:
    """Launches a server and waits until it is ready, otherwise stops it and raises as `wait_until` does.

    Tries again when another program took the port between `launch` finding it free and the server listening there.
    """
    while True:
        process = launch()
        try:
            wait_until(ready, process, halt, timeout)
        except BaseException as error:
            process.stop()
            tries -= 1
            taken = isinstance(error, EmbeddedError) and any("Address already in use" in s for s in process.tail(200))
            if not (taken and tries):
                raise
        else:
            return process
