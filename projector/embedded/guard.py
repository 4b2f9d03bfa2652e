"""Runs one command, and ends it when the process that asked for it is gone.

    python -I -S guard.py CONTROL STATUS STOP_SIGNAL GRACE_S COMMAND [ARGUMENT…]

CONTROL is the read end of a pipe whose only write end the parent holds. Each byte that comes through it is the number
of a signal for the command's process group. Its end means that the parent is gone, however it went, SIGKILL
included: the group gets STOP_SIGNAL, and after GRACE_S seconds SIGKILL.

STATUS is the write end of a pipe. The guard writes lines to it: first `pid N` or `failed REASON`, at the end
`exited CODE` (negative: killed by that signal).

Two more walls stand behind the pipe. A fork of the parent may still hold the write end, so the guard also looks whether
its own parent has changed. And the command dies with the guard, by the kernel's parent death signal; the guard has one
thread only, because that signal is tied to the thread that forked. What the command leaves behind is adopted by the
guard and killed, so processes that left the group do not escape either.

Stdlib only, and run as a file: a guard costs one bare interpreter and imports nothing of the package.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LOOK_AGAIN_S, LOOK_AGAIN_ENDING_S = 1.0, 0.1
KILL_TIMEOUT_S = 5.0
LINUX = sys.platform == "linux"


def prctl(option: int, value: int) -> None:
    if LINUX:
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def children_of(pid: int) -> list[int]:
    """Direct children, read from /proc; empty where there is none."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may contain anything; state and parent follow it.
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # ended while we looked
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


class Guard:
    """One command under guard; `run` returns when nothing of it is left."""

    def __init__(self, control: int, status: int, stop_signal: int, grace_s: float, argv: list[str]) -> None:
        self.control, self.status = control, status
        self.stop_signal, self.grace_s = stop_signal, grace_s
        self.argv = argv
        self.parent = os.getppid()
        self.pid = 0
        self.code: int | None = None
        self.kill_at: float | None = None

    def run(self) -> None:
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        wakeup = self.listen_to_signals()
        try:
            child = self.spawn()  # kept: a Popen that is let go reaps its process, and we would never hear of it
        except OSError as error:
            self.tell(f"failed {error.strerror}: {error.filename}")
            return
        self.pid = child.pid
        self.tell(f"pid {self.pid}")
        poller = select.poll()
        poller.register(self.control, select.POLLIN)
        poller.register(wakeup, select.POLLIN)
        while self.code is None:
            ready = dict(poller.poll(1000 * (LOOK_AGAIN_S if self.kill_at is None else LOOK_AGAIN_ENDING_S)))
            if wakeup in ready and set(os.read(wakeup, 512)) - {signal.SIGCHLD}:
                self.end()
            if self.control in ready and not self.obey():
                poller.unregister(self.control)
                self.end()
            if os.getppid() != self.parent:
                self.end()
            if self.kill_at is not None and time.monotonic() > self.kill_at:
                self.signal_group(signal.SIGKILL)
            self.reap()
        child.returncode = self.code
        self.kill_leftovers()
        self.tell(f"exited {self.code}")

    def listen_to_signals(self) -> int:
        """A pipe that gets one byte, its number, for each signal of interest."""
        wakeup, wakeup_write = os.pipe()
        os.set_blocking(wakeup_write, False)
        signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        return wakeup

    def spawn(self) -> subprocess.Popen[bytes]:
        guard = os.getpid()

        def die_with_guard() -> None:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != guard:
                os._exit(1)

        return subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=die_with_guard)

    def obey(self) -> bool:
        """Passes on the signals that the parent asks for; False when it is gone."""
        numbers = os.read(self.control, 64)
        for number in numbers:
            self.signal_group(number)
        return bool(numbers)

    def end(self) -> None:
        if self.kill_at is None:
            self.kill_at = time.monotonic() + self.grace_s
            self.signal_group(self.stop_signal)

    def signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself, and `reap` will see it
            os.killpg(self.pid, number)

    def reap(self) -> bool:
        """Collects what has ended; False when no child is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.pid:
                self.code = os.waitstatus_to_exitcode(status)

    def kill_leftovers(self) -> None:
        """Kills what the command left behind: when it ends, its children become ours."""
        self.signal_group(signal.SIGKILL)
        give_up_at = (
            time.monotonic() + KILL_TIMEOUT_S
        )  # the kernel may be unable to end a process that waits for a disk
        while self.reap() and time.monotonic() < give_up_at:
            left = children_of(os.getpid())
            if not left:
                return
            for pid in left:
                os.kill(pid, signal.SIGKILL)  # ours until reaped, so the number cannot be another's
            time.sleep(0.01)

    def tell(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # the parent is gone, and nobody asks
            os.write(self.status, line.encode() + b"\n")


def main() -> None:
    control, status, stop_signal, grace, *argv = sys.argv[1:]
    Guard(int(control), int(status), int(stop_signal), float(grace), argv).run()


if __name__ == "__main__":
    main()
