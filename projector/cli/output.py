"""What the commands print: rich on a terminal, plain text elsewhere, JSON lines for scripts."""

from __future__ import annotations

import sys
from typing import Any

import orjson
from rich.console import Console

# Wide enough that no line of ours wraps when it goes into a file.
PLAIN_WIDTH = 140


def console() -> Console:
    """Rich decides by itself whether stdout is a terminal; elsewhere lines keep one width."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)


def json_line(**fields: Any) -> None:
    """One JSON object on a line of its own, flushed, so that a reader follows it live."""
    sys.stdout.write(orjson.dumps(fields, default=str).decode() + "\n")
    sys.stdout.flush()
