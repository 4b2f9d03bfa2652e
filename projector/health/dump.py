"""What every task of a loop waits for: names and places in the code, and never a value."""

from __future__ import annotations

import asyncio
import gc
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType
from typing import Any

_CODE = (AsyncGeneratorType, CoroutineType, GeneratorType)


def tasks(loop: asyncio.AbstractEventLoop) -> list[dict[str, Any]]:
    """`{"task": name, "places": ["file:line function", …]}` of each, outermost first; may be asked by any thread."""
    return [{"task": _name(task), "places": _stack(task.get_coro())} for task in asyncio.all_tasks(loop)]


def _name(task: asyncio.Task[Any]) -> str:
    return f"{task.get_name()} {getattr(task.get_coro(), '__qualname__', '')}".rstrip()


def _stack(waiting: object) -> list[str]:
    """Follows coroutines, generators and asynchronous generators to what the innermost one awaits."""
    places: list[str] = []
    while waiting is not None:
        place, inner = _place(waiting)
        if place is None and not isinstance(waiting, asyncio.Future):
            inner = _inside(waiting)
        # A future, or another thing that is no code of Python, has its type to show.
        places.append(place or type(waiting).__name__)
        waiting = inner
    return places


def _place(waiting: object) -> tuple[str | None, object]:
    for prefix, inner in ("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await"):
        code: CodeType | None = getattr(waiting, f"{prefix}_code", None)
        if code is not None:
            frame: FrameType | None = getattr(waiting, f"{prefix}_frame", None)
            line = code.co_firstlineno if frame is None else frame.f_lineno
            return f"{code.co_filename}:{line} {code.co_name}", getattr(waiting, inner, None)
    return None, None


def _inside(waiting: object) -> object:
    """The generator that an `asend`, or the coroutine that its iterator, works for: they do not tell it otherwise."""
    return next((held for held in gc.get_referents(waiting) if isinstance(held, _CODE)), None)
