"""What processes take of the machine, as /proc tells it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psycopg

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Processor seconds of a process so far, in user mode and in the kernel."""
    own, _ = _times(pid)
    return own


def peak_mb(pid: int) -> float:
    """The most memory that a process has had resident."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


class Server:
    """The processes of the PostgreSQL that `conn` talks to, all but the one that serves `conn`."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self._own = conn.info.backend_pid
        self.postmaster = _parent(self._own)

    def cpu_s(self) -> float:
        """Processor seconds so far, those of sessions that have ended included."""
        own, ended = _times(self.postmaster)
        return own + ended + sum(self._cpu_of(pid) for pid in self._children() if pid != self._own)

    def _children(self) -> list[int]:
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [pid for pid in pids if self._is_child(pid)]

    def _is_child(self, pid: int) -> bool:
        try:
            return _parent(pid) == self.postmaster
        except (FileNotFoundError, ProcessLookupError):
            return False

    @staticmethod
    def _cpu_of(pid: int) -> float:
        try:
            return cpu_s(pid)
        except (FileNotFoundError, ProcessLookupError):  # ended since it was listed
            return 0.0


def _parent(pid: int) -> int:
    return int(_fields(pid)[1])


def _times(pid: int) -> tuple[float, float]:
    """Its own, and that of its children that have ended."""
    user, system, ended_user, ended_system = (int(ticks) for ticks in _fields(pid)[11:15])
    return (user + system) / _TICKS_PER_S, (ended_user + ended_system) / _TICKS_PER_S


def _fields(pid: int) -> list[str]:
    """Of /proc/<pid>/stat, from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
