"""Views behind a writer that was paused and wakes: the request that it had on its way comes behind what its successor
wrote, and with it changes that were erased meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from projector.embedded.database import STREAM_LOGIN
from tests.cdc.support import read
from tests.faults.faults import DidNotFire, overtake
from tests.faults.servers import serving
from tests.faults.world import SENDER_TIMEOUT_S
from tests.view_faults.load import ERASED_APP, KNOWN
from tests.view_faults.world import ViewWorld

TRIES = 5
"""What is on its way may be next to nothing; mostly it is hundreds of records."""
EDITS = f"""
    insert into sync_changes (schema_version, app_id, table_name, record_id, user_id, op, data, field_meta, client_id)
    select {KNOWN}, '{ERASED_APP}', 'notes', 'overtaken-' || n % 50, 'user-' || n % 8, 'update',
           jsonb_build_object('text', repeat(n || ' water', 200), n, n), jsonb_build_object('text', at, n, at),
           'device-' || n % 3
    from generate_series(1, 6000) n, to_json(timestamptz '2026-11-25' + n * interval '1 s') at
"""  # noqa: S608
"""Each has a field that no other has."""
ERASURE = "delete from sync_changes where client_id = 'device-1'"


@pytest.fixture
def world(cache_dir: Path) -> Iterator[ViewWorld]:
    with serving(cache_dir) as servers:
        world = ViewWorld(servers, "overtaken", "overtaken", rate=40)
        world.ask(f"alter role {STREAM_LOGIN} in database overtaken set wal_sender_timeout = '{SENDER_TIMEOUT_S}s'")
        try:
            world.start()
            yield world
        finally:
            world.stop()


def came_again(world: ViewWorld) -> tuple[int, int]:
    """How many changes stand in the topics twice, and how many of them behind their erasure."""
    seen: set[bytes] = set()
    erased: set[bytes] = set()
    again = revived = 0
    for record in asyncio.run(read(world.settings)):
        change = record.headers["id"]
        if record.headers["op"] == b"erased":
            erased.add(change)
            continue
        again += change in seen
        revived += change in erased
        seen.add(change)
    return again, revived


def test_every_row_is_the_fold_of_the_log_although_changes_came_again_and_some_after_their_erasure(
    world: ViewWorld,
) -> None:
    def erase() -> None:
        world.ask(ERASURE)
        world.confirmed_beyond(world.lsn())

    numbers = random.Random(20_261_127)
    for _ in range(TRIES):
        first = world.stream
        overtake(world, numbers, lambda: world.ask(EDITS), erase)
        world.recover()
        first.kill()
        again, revived = came_again(world)
        if again > revived > 0:
            break
    else:
        raise DidNotFire(f"no erased change came again in {TRIES} tries")
    world.verify()
