"""Named points at which a test may have loops of this process stand still for ever.

`PROJECTOR_FREEZE_AT=name[,name]` holds whoever comes to one of these points, each time: what hangs in a call that never
returns looks like this, to itself and to others.
"""

from __future__ import annotations

import asyncio
import os
import time

_names = frozenset(os.environ.get("PROJECTOR_FREEZE_AT", "").split(","))
_LONG_S = 3600.0


async def point(name: str) -> None:
    """Does nothing, unless the environment names this point: then it is never passed."""
    if name in _names:
        await asyncio.Event().wait()


def block(name: str) -> None:
    """The same for a call that holds up the whole event loop with it."""
    if name in _names:
        time.sleep(_LONG_S)


def is_at(name: str) -> bool:
    """Whether the environment names this point, for a callback that cannot wait: it returns with nothing done."""
    return name in _names
