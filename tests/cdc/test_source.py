"""Servers that change under the stream: promoted, restored, moved. It goes on, or refuses and is told to adopt."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

from projector.config import Settings
from projector.embedded.servers import Servers
from projector.errors import ForeignSourceError
from streams import cdc
from tests.cdc.support import Record, insert, process, read, read_until, running
from tests.fixtures.clusters import (
    SYNCHRONISED_SLOTS_SINCE,
    Cluster,
    base_backup,
    dump_and_restore,
    file_copy,
    following,
    prepared_database,
    second_server,
    standby_of,
    until,
    url_at,
)
from tests.fixtures.settings import Database, settings_for

NAME = "moving"


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Cluster]:
    with second_server(tmp_path / "primary") as primary:
        yield primary


@pytest.fixture
def moving(stack: Servers, primary: Cluster, tmp_path: Path) -> Settings:
    """Settings of a stream from a server of the test's own, to topics named after the test."""
    database = prepared_database(primary, NAME)
    prefix = f"moving-{tmp_path.name}"
    return settings_for(primary.servers(stack.bootstrap_servers), database).model_copy(update={"topic_prefix": prefix})


def at(settings: Settings, *clusters: Cluster) -> Settings:
    """The same settings for another server, or whichever of several may be written to."""
    urls = {
        name: url_at(getattr(settings, name).get_secret_value(), *clusters)
        for name in ("database_url", "admin_database_url")
    }
    return settings.model_validate(settings.model_dump() | urls)


def write(settings: Settings, count: int, prefix: str) -> list[str]:
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        return [insert(conn, user_id=f"user-{n % 5}", record_id=f"{prefix}-{n}") for n in range(count)]


@contextmanager
def writing(settings: Settings, written: list[str]) -> Iterator[None]:
    """Rows one after the other, from a thread, as long as the block lasts."""
    stop = threading.Event()

    def insert_rows() -> None:
        with psycopg.connect(settings.admin_url, autocommit=True) as conn:
            while not stop.wait(0.005):
                written.append(insert(conn, user_id=f"user-{len(written) % 5}", record_id=f"live-{len(written)}"))

    thread = threading.Thread(target=insert_rows)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


async def stream_rows(settings: Settings, total: int, *, adopt: bool = False) -> None:
    """One life of the stream, until there are `total` records and a heartbeat or two have gone through."""
    stop = asyncio.Event()
    task = asyncio.create_task(cdc.run(settings, stop, adopt=adopt))
    try:
        wait = asyncio.create_task(read_until(settings, total, 60))
        await asyncio.wait({task, wait}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            wait.cancel()
            task.result()
        await wait
        await asyncio.sleep(2.2)
    finally:
        stop.set()
        await task


async def refused(settings: Settings, match: str) -> None:
    with pytest.raises(ForeignSourceError, match=match) as caught:
        await asyncio.wait_for(cdc.run(settings, asyncio.Event()), 30)
    assert "--adopt" in caught.value.remedy


def ids(records: list[Record], op: bytes = b"insert") -> Counter[str]:
    return Counter(r.headers["id"].decode() for r in records if r.headers["op"] == op)


async def test_a_promoted_standby_goes_on_by_itself(moving, primary, tmp_path) -> None:
    with standby_of(primary, tmp_path / "standby") as standby:
        either = at(moving, primary, standby)
        with process(either) as child:
            written = write(moving, 50, "before")
            await read_until(moving, 50)
            # A heartbeat a second moves the slot on, so that the standby can keep it. Before 17 none does.
            if primary.version >= SYNCHRONISED_SLOTS_SINCE:
                await asyncio.to_thread(standby.slot_synced, moving.slot_name)
            written += write(moving, 50, "late")
            await read_until(moving, 100)
            standby.caught_up()
            primary.kill()
            standby.promote()
            written += write(either, 50, "after")
            await read_until(moving, 150, 40)
            assert child.poll() is None
        records = await read(moving)
        assert ids(records) == Counter(written)
        assert {r.place.source for r in records} == {1}
        assert standby.ask("select timeline from mana_ai.cdc_sources", (), NAME) == [(2,)]


async def test_a_backup_that_lacks_what_was_published_is_refused_and_can_be_adopted(moving, primary, tmp_path) -> None:
    written = write(moving, 20, "kept")
    async with running(moving):
        await read_until(moving, 20)
        backup = base_backup(primary, tmp_path / "backup")
        lost = write(moving, 20, "lost")
        await read_until(moving, 40)
        await asyncio.sleep(1.5)
    primary.stop()
    with backup as restored:
        back = at(moving, restored)
        # Longer than what was lost: by its length alone the log looks sound.
        written += write(back, 300, "anew")
        await refused(back, "timeline 2 left")
        await stream_rows(back, 360, adopt=True)
        records = await read(back)
        assert ids(records) == Counter([*written, *lost])
        # What only the other server had is no longer in the log.
        assert ids(records, b"erased") == Counter(lost)
        assert Counter(r.place.source for r in records) == {1: 40, 2: 320}
        written += write(back, 5, "later")
        await stream_rows(back, 365)
        assert ids(await read(back)) == Counter([*written, *lost])


async def test_a_copy_of_older_files_is_refused_although_its_log_is_longer_by_now(moving, primary, tmp_path) -> None:
    async with running(moving):
        written = write(moving, 20, "kept")
        await read_until(moving, 20)
        await asyncio.sleep(1.5)
    primary.stop()
    copy = file_copy(primary, tmp_path / "copy")
    primary.start()
    async with running(moving):
        lost = write(moving, 20, "lost")
        await read_until(moving, 40)
        await asyncio.sleep(2.5)
    primary.stop()
    with copy:
        back = at(moving, copy)
        written += write(back, 500, "anew")
        await refused(back, "older copy")
        await stream_rows(back, 560, adopt=True)
        records = await read(back)
        assert ids(records) == Counter([*written, *lost])
        assert ids(records, b"erased") == Counter(lost)


async def test_a_move_from_15_to_18_under_writes_publishes_what_the_topics_lack(stack, tmp_path) -> None:
    with second_server(tmp_path / "old", 15) as old, second_server(tmp_path / "new", 18) as new:
        database = prepared_database(old, NAME)
        before = settings_for(old.servers(stack.bootstrap_servers), database).model_copy(
            update={"topic_prefix": f"moving-{tmp_path.name}"}
        )
        written: list[str] = []
        with ExitStack() as moved, writing(before, written):
            async with running(before):
                await read_until(before, 100, 60)
            published = len(await read(before))
            url = await asyncio.to_thread(
                dump_and_restore, database.admin_url, new.admin_url, NAME, empty=["sync_changes"]
            )
            moved.enter_context(following(database.admin_url, url, "sync_changes"))
            await asyncio.sleep(0.5)
        assert published < len(written)
        after = settings_for(
            new.servers(stack.bootstrap_servers), Database(NAME, url, database.logins.of_database(NAME))
        )
        after = at(after.model_copy(update={"topic_prefix": before.topic_prefix}), new)
        await refused(after, "topics hold the log of")
        with writing(after, written):
            stop = asyncio.Event()
            task = asyncio.create_task(cdc.run(after, stop, adopt=True))
            await read_until(after, len(written) + 100, 60)
        await read_until(after, len(written), 60)
        stop.set()
        await task
        records = await read(after)
        assert ids(records) == Counter(written)
        assert {r.place.source for r in records} == {1, 2}


async def test_a_standby_that_missed_published_rows_is_refused(moving, primary, tmp_path) -> None:
    with standby_of(primary, tmp_path / "standby") as standby:
        async with running(moving):
            write(moving, 20, "kept")
            await read_until(moving, 20)
            standby.caught_up()
            # From here on the standby gets nothing, and nobody waits for it: asynchronous, and unlucky.
            standby.stop()
            standby.release_primary()
            write(moving, 20, "missed")
            await read_until(moving, 40, 40)
        primary.kill()
        standby.start()
        until(lambda: standby.runs, "the standby")
        standby.promote()
        await refused(at(moving, standby), "the server has lost what was published")
