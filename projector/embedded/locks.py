"""File locks that end with their holder, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from projector.embedded.process import Halted
from projector.errors import StateInUseError

# A process that was just killed holds its locks until the kernel has taken it apart.
OWNER_TIMEOUT_S = 1.0


def try_lock(path: Path) -> int | None:
    """A file descriptor that holds the lock until every copy of it is closed, or None when it is taken."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


@contextmanager
def waiting_lock(path: Path, halt: Event, on_wait: Callable[[], None]) -> Iterator[None]:
    """Holds the lock; while another process has it, waits (after calling `on_wait` once) until halted."""
    told = False
    while (fd := try_lock(path)) is None:
        if not told:
            on_wait()
            told = True
        if halt.wait(0.1):
            raise Halted
    try:
        yield
    finally:
        os.close(fd)


def _try_for(timeout: float, path: Path) -> int | None:
    deadline = time.monotonic() + timeout
    while (fd := try_lock(path)) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return fd


class StateLock:
    """Says who uses a state directory: `owner` is this process, `guards` also every guard that it started.

    After a kill of the owner its servers take a moment to end. The lock that their guards hold tells a stack that is
    ending, which is waited for, from one that lives, which is an error.
    """

    def __init__(self, state_dir: Path, timeout: float = 20.0) -> None:
        owner = _try_for(OWNER_TIMEOUT_S, state_dir / "owner.lock")
        if owner is None:
            pid = (state_dir / "owner.lock").read_text("ascii").strip() or "unknown"
            raise StateInUseError(f"{state_dir} is in use by another stack (process {pid})")
        guards = _try_for(timeout, state_dir / "guards.lock")
        if guards is None:
            os.close(owner)
            raise StateInUseError(f"servers of an earlier stack still run on {state_dir}")
        os.truncate(owner, 0)
        os.write(owner, b"%d\n" % os.getpid())
        self._owner, self.guards = owner, guards

    def release(self) -> None:
        os.close(self.guards)
        # A fork of this process may still have a copy of it.
        fcntl.flock(self._owner, fcntl.LOCK_UN)
        os.close(self._owner)
