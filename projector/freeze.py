"""Named points at which a test may have one loop of this process stand still for ever.

`PROJECTOR_FREEZE_AT=name` holds whoever comes to that point, each time: what hangs in a call that never returns looks
like this, to itself and to others.
"""

from __future__ import annotations

import asyncio
import os
import time

_name = os.environ.get("PROJECTOR_FREEZE_AT", "")
_LONG_S = 3600.0


async def point(name: str) -> None:
    """Does nothing, unless the environment names this point: then it is never passed."""
    if name == _name:
        await asyncio.Event().wait()


def block(name: str) -> None:
    """The same for a call that holds up the whole event loop with it."""
    if name == _name:
        time.sleep(_LONG_S)


def is_at(name: str) -> bool:
    """Whether the environment names this point, for a callback that cannot wait: it returns with nothing done."""
    return name == _name
