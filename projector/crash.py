"""Named points at which a test may have this process killed.

`PROJECTOR_CRASH_AT=name` kills at the first pass of `point("name")`, `name:3` at the third. The process
dies by SIGKILL, as it would by the kernel's hand: no handler runs, no buffer is flushed.
"""

from __future__ import annotations

import os
import signal

_name, _, _count = os.environ.get("PROJECTOR_CRASH_AT", "").partition(":")
_left = int(_count) if _count else 1


def point(name: str) -> None:
    """Does nothing, unless the environment names this point."""
    if name == _name:
        _kill_at_last_pass()


def _kill_at_last_pass() -> None:
    global _left
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
