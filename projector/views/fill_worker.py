"""A process that fills some partitions of a spare generation: `python -m projector.views.fill_worker`.

The first line of stdin is its task, {"view", "ends": [[topic, partition, end], …], "empty", "keep_letters"}; it ends
with stdin, so it never outlives who started it. It prints {"events", "changes"} as it goes, or {"error", "remedy"} as
its last line.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from threading import Thread
from typing import Any

import orjson

from projector import collector
from projector.config import Settings, load_settings
from projector.errors import ProjectorError
from projector.logging import configure
from projector.views.declared import VIEWS, View
from projector.views.positions import Partition
from projector.views.progress import Tell
from projector.views.spare import fill_spare


async def fill_in_process(
    settings: Settings, view: View, ends: Mapping[Partition, int], *, empty: bool, keep_letters: bool, tell: Tell
) -> None:
    """Has a process of its own fill `ends`; raises what it reports."""
    environment = os.environ | settings.environment()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __name__,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None, "a pipe was asked for"
    assert process.stdout is not None, "a pipe was asked for"
    try:
        task = {
            "view": view.name,
            "ends": [[*partition, end] for partition, end in ends.items()],
            "empty": empty,
            "keep_letters": keep_letters,
        }
        process.stdin.write(orjson.dumps(task) + b"\n")
        failure: ProjectorError | None = None
        async for line in process.stdout:
            told = orjson.loads(line)
            if "error" in told:
                failure = ProjectorError(told["error"], told["remedy"])
            else:
                tell(told["events"], told["changes"])
        status = await process.wait()
        if failure is not None:
            raise failure
        if status:
            raise ProjectorError(
                f"a worker of the rebuild of {view.name} ended with status {status}",
                "its own words are above; `projector rebuild start` begins anew",
            )
    finally:
        process.stdin.close()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _work(settings: Settings, task: dict[str, Any]) -> None:
    view = VIEWS[task["view"]]
    ends = {Partition(topic, partition): end for topic, partition, end in task["ends"]}
    await fill_spare(settings, view, ends, empty=task["empty"], keep_letters=task["keep_letters"], tell=_tell)


def _tell(events: int, changes: int) -> None:
    _print(events=events, changes=changes)


def _print(**fields: Any) -> None:
    sys.stdout.buffer.write(orjson.dumps(fields) + b"\n")
    sys.stdout.buffer.flush()


def _end_with_stdin() -> None:
    """Whoever started this is no more: nothing that is not committed counts."""
    # Not through sys.stdin, whose lock a thread that still reads would hold at the interpreter's end.
    while os.read(0, 1):
        pass
    os._exit(1)


def main() -> int:
    settings = load_settings()
    configure(settings, "rebuild")
    task = orjson.loads(sys.stdin.buffer.readline())
    collector.relax(collector.FILL)
    Thread(target=_end_with_stdin, daemon=True).start()
    try:
        asyncio.run(_work(settings, task))
    except ProjectorError as error:
        _print(error=error.message, remedy=error.remedy)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
