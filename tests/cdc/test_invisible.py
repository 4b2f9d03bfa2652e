"""A commit that is in the WAL and that nobody can see: a synchronous standby that never answers keeps it so."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import psycopg
import pytest

from projector.cdc import session
from projector.cdc.publisher import Publisher
from projector.cdc.pump import ACKNOWLEDGEMENTS, STREAM
from projector.cdc.visibility import Snapshot, Visibility
from projector.config import Settings
from projector.embedded.database import STREAM_LOGIN
from projector.health.parts import part
from projector.metrics import CDC_HELD
from projector.sql.connection import connect
from projector.views.declared import MISSIONS
from projector.views.verify import verify
from projector.views.wait import wait_for_lsn
from streams import views
from tests.cdc.support import confirmed_beyond, current_lsn, ids, insert, read, read_until, running, slot
from tests.fixtures.clusters import Cluster, prepared_database, second_server, until
from tests.fixtures.settings import settings_for

HELD_S = 1.0


class Nobody:
    """The parts of the stream ask no server how far they are."""

    async def ends(self, places):
        raise AssertionError


NOBODY = Nobody()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with second_server(tmp_path_factory.mktemp("server") / "primary") as server:
        yield server


@pytest.fixture
def settings(stack, cluster: Cluster) -> Settings:
    database = prepared_database(cluster, f"test_{secrets.token_hex(6)}")
    made = settings_for(cluster.servers(stack.bootstrap_servers), database)
    # Ours go through: it is the commits of others that this is about.
    cluster.ask(f"alter role {STREAM_LOGIN} set synchronous_commit = local")
    return made


@pytest.fixture
def conn(settings):
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        conn.execute("set synchronous_commit = local")
        yield conn


@contextmanager
def nobody_answers(cluster: Cluster) -> Iterator[Callable[[], None]]:
    """Commits wait for a standby that is not there; what is yielded ends that."""

    def name(standbys: str) -> None:
        cluster.ask(f"alter system set synchronous_standby_names = '{standbys}'")
        cluster.ask("select pg_reload_conf()")

    name("nobody")
    try:
        yield lambda: name("")
    finally:
        name("")


@asynccontextmanager
async def unseen(
    settings: Settings, cluster: Cluster, write: Callable[[psycopg.Connection], object]
) -> AsyncIterator[None]:
    """Inside, what `write` commits is in the WAL and waits."""

    def commit() -> None:
        with psycopg.connect(settings.admin_url, autocommit=True) as conn:
            write(conn)

    writer = threading.Thread(target=commit)
    waits = "select from pg_stat_activity where wait_event = 'SyncRep'"
    with nobody_answers(cluster):
        writer.start()
        await asyncio.to_thread(until, lambda: cluster.ask(waits), "a commit that waits for a standby")
        yield
    await asyncio.to_thread(writer.join)


async def test_a_record_is_in_its_topic_only_when_its_row_can_be_seen(settings, cluster, conn) -> None:
    async with running(settings):
        before = insert(conn, user_id="a")
        await read_until(settings, 1)
        async with unseen(settings, cluster, lambda writer: insert(writer, user_id="b", record_id="late")):
            after = insert(conn, user_id="c")
            lsn = current_lsn(conn)
            await asyncio.sleep(HELD_S)
            assert set(ids(await read(settings))) == {before}
            assert slot(settings).confirmed < lsn
            assert CDC_HELD._value.get() > 0
            # It waits for others: a new process would wait for them too.
            assert [await part(name).seen(NOBODY) for name in (STREAM, ACKNOWLEDGEMENTS)] == [None, None]
        records = await read_until(settings, 3)
        [late] = conn.execute("select id::text from sync_changes where record_id = 'late'").fetchone()
        assert [*ids(records)].count(late) == 1
        assert set(ids(records)) == {before, late, after}
        await confirmed_beyond(settings, lsn)
        assert CDC_HELD._value.get() == 0
        assert None not in [await part(name).seen(NOBODY) for name in (STREAM, ACKNOWLEDGEMENTS)]


async def test_nothing_joins_records_between_the_answer_and_the_sending(settings, cluster, conn, monkeypatch) -> None:
    """A first send waits for the broker to tell who leads the partition; the socket must wait as well."""
    send = Publisher.send
    begun = asyncio.Event()

    async def late(publisher: Publisher) -> None:
        begun.set()
        await asyncio.sleep(2 * HELD_S)
        await send(publisher)

    async with running(settings):
        pass
    before = insert(conn, user_id="b")
    monkeypatch.setattr(Publisher, "send", late)
    async with running(settings):
        await begun.wait()
        async with unseen(settings, cluster, lambda writer: insert(writer, user_id="b")):
            await asyncio.sleep(3 * HELD_S)
            assert ids(await read(settings)) == Counter([before])
        assert len(await read_until(settings, 2)) == 2


async def test_transactions_of_which_no_record_tells_are_not_remembered(settings, conn, monkeypatch) -> None:
    made: list[Visibility] = []

    def keep(snapshot: Snapshot) -> Visibility:
        made.append(Visibility(snapshot))
        return made[-1]

    monkeypatch.setattr(session, "Visibility", keep)
    async with running(settings):
        for _ in range(20):
            conn.execute("select pg_logical_emit_message(true, 'elsewhere', 'x')")
        await confirmed_beyond(settings, current_lsn(conn))
        [visibility] = made
        assert visibility.unseen == []


async def test_a_stream_that_holds_records_back_ends_when_told(settings, cluster, conn) -> None:
    async with running(settings):
        pass
    async with unseen(settings, cluster, lambda writer: insert(writer, user_id="b")):
        async with running(settings):
            await asyncio.sleep(HELD_S)
        assert await read(settings) == []
    async with running(settings):
        assert len(await read_until(settings, 1)) == 1


async def test_an_erased_row_is_not_folded_in_again_while_it_can_still_be_seen(settings, cluster, conn) -> None:
    insert(conn, data={"title": "Water the plants"})
    secret = insert(conn, data={"note": "secret"})

    def erase(writer: psycopg.Connection) -> None:
        writer.execute("delete from sync_changes where id = %s", [secret])

    await _view_is_right_after(settings, cluster, conn, erase, lambda: None)
    assert _record(conn) == {"title": "Water the plants"}


async def test_a_change_that_cannot_be_seen_yet_is_not_lost_to_an_erasure(settings, cluster, conn) -> None:
    insert(conn, data={"title": "Water the plants"})
    secret = insert(conn, data={"note": "secret"})
    await _view_is_right_after(
        settings,
        cluster,
        conn,
        lambda writer: insert(writer, data={"state": "active"}),
        lambda: conn.execute("delete from sync_changes where id = %s", [secret]),
    )
    assert _record(conn) == {"title": "Water the plants", "state": "active"}


async def _view_is_right_after(
    settings: Settings,
    cluster: Cluster,
    conn: psycopg.Connection,
    unseen_write: Callable[[psycopg.Connection], object],
    seen_write: Callable[[], object],
) -> None:
    """Stream and view run; the first write stays unseen for a while, in which the second one commits."""
    stop = asyncio.Event()
    async with running(settings):
        following = asyncio.create_task(views.run(settings, stop))
        await _applied(settings, current_lsn(conn))
        async with unseen(settings, cluster, unseen_write):
            seen_write()
            await asyncio.sleep(HELD_S)
        await _applied(settings, current_lsn(conn))
        assert (await verify(settings, MISSIONS)).examples == ()
        stop.set()
        await following


async def _applied(settings: Settings, lsn: int) -> None:
    async with await connect(settings, "projector_engine") as engine:
        await wait_for_lsn(settings, engine, MISSIONS, lsn, 30)


def _record(conn: psycopg.Connection) -> dict[str, str]:
    [record] = conn.execute("select record from mana_ai.mission_snapshots").fetchone()
    return dict(record)
