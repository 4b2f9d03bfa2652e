"""Waiting that ends early: when a stream is to stop, or when what it needs has failed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from projector.errors import ProjectorError

T = TypeVar("T")


async def pause(seconds: float, stop: asyncio.Event) -> bool:
    """Waits so long, or until `stop` is set; True when it is."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True


async def alongside(companion: Awaitable[None], work: Awaitable[T]) -> T:
    """Awaits `work` with `companion` beside it, which never ends by itself; raises whichever failure came first."""
    beside = asyncio.ensure_future(companion)
    main = asyncio.ensure_future(work)
    try:
        await asyncio.wait({beside, main}, return_when=asyncio.FIRST_COMPLETED)
        if not main.done():
            beside.result()
            raise ProjectorError("a task that keeps another alive has ended")
        return main.result()
    finally:
        for task in (beside, main):
            task.cancel()
        await asyncio.gather(beside, main, return_exceptions=True)


async def unless_stopped(work: Awaitable[T], stop: asyncio.Event, grace_s: float = 0.0) -> T | None:
    """Awaits `work`, which is cancelled when it has not ended so long after `stop` was set; then None."""
    main = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({main, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not main.done() and grace_s:
            await asyncio.wait({main}, timeout=grace_s)
        return main.result() if main.done() else None
    finally:
        for task in (main, stopping):
            task.cancel()
        await asyncio.gather(main, stopping, return_exceptions=True)
