"""Ports on loopback: the one that was asked for, else the one used before, else a free one."""

from __future__ import annotations

import socket
from pathlib import Path

from projector.errors import PortTakenError

LOOPBACK = "127.0.0.1"


def is_free(port: int) -> bool:
    """Whether a server could listen there now. Connections of an earlier server in TIME_WAIT do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def answers(port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    """A port that nothing listens on; another program may still take it before we do."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    return port


def choose(wanted: int | None, setting: str, remembered: Path, other_than: int | None = None) -> int:
    """The port to listen on. `remembered` keeps it, so that addresses stay the same over restarts if they can.

    Raises PortTakenError, naming `setting`, when the port asked for is taken.
    """
    if wanted is not None:
        if not is_free(wanted):
            raise PortTakenError(f"{setting}: port {wanted} on {LOOPBACK} is taken")
        return wanted
    before = remembered.read_text("ascii").strip() if remembered.exists() else ""
    port = int(before) if before.isdigit() and is_free(int(before)) else free_port()
    while port == other_than:
        port = free_port()
    remembered.write_text(f"{port}\n", "ascii")
    return port
