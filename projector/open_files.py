"""Open files: every call and every client is a connection, and a shell allows a process 1,024 of them at first."""

from __future__ import annotations

import resource
from typing import Final

ENOUGH: Final = 65_536


def allow() -> int:
    """Lets this process and those that it starts open as many files as the system does, ENOUGH at most; how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
