"""Waiting that ends early when a stream is to stop."""

from __future__ import annotations

import asyncio


async def pause(seconds: float, stop: asyncio.Event) -> bool:
    """Waits so long, or until `stop` is set; True when it is."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True
