"""Rows published out of the table: history before the slot, a gap after it was lost, an app that was added."""

from __future__ import annotations

import asyncio
from collections import Counter

import psycopg
import pytest
from psycopg import sql

from projector.cdc.publication import prepare_source
from projector.cdc.topics import ensure_topics
from projector.errors import HiddenRowsError, PrivilegeError
from streams import cdc
from tests.cdc.support import confirmed_beyond, current_lsn, insert, killed, process, read, read_until, running
from tests.fixtures.settings import drop_slot


@pytest.fixture
def conn(settings):
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        yield conn


def ids(records) -> list[str]:
    return [record.headers["id"].decode() for record in records]


async def test_history_before_the_slot_is_published_as_the_stream_would_have(settings, conn) -> None:
    odd = {"text": 'tab\t newline\n back\\slash "quote" \u2028 \\N', "list": [1, None, {"a": "\\t"}]}
    old = [insert(conn, user_id="a\tb\\c\nd", data=odd, actor={"kind": "user"}, space_id="s\\1", origin=None)]
    old += [insert(conn, user_id=f"user-{n % 7}", record_id=str(n), data=None) for n in range(50)]
    async with running(settings):
        await read_until(settings, len(old))
        first = insert(conn, user_id="a\tb\\c\nd", data=odd, actor={"kind": "user"}, space_id="s\\1", origin=None)
        records = await read_until(settings, len(old) + 1)
    assert Counter(ids(records)) == Counter([*old, first])
    by_id = {r.headers["id"].decode(): r for r in records}
    filled, streamed = by_id[old[0]], by_id[first]
    assert filled.key == streamed.key
    for name in ("id", "created_at"):
        assert filled.json[name] != streamed.json[name]
    same = filled.value.replace(old[0].encode(), first.encode())
    same = same.replace(filled.json["created_at"].encode(), streamed.json["created_at"].encode())
    assert same == streamed.value
    assert filled.headers["fill"] == b"1"
    assert "fill" not in streamed.headers
    assert filled.place < streamed.place


@pytest.mark.parametrize(
    "point",
    [
        "cdc.before_slot",
        "cdc.after_slot_before_recorded",
        "cdc.after_recorded",
        "cdc.fill_before_send:2",
        "cdc.fill_after_ack_before_checkpoint",
        "cdc.fill_after_checkpoint",
        "cdc.fill_finished",
    ],
)
async def test_a_backfill_that_is_killed_goes_on_without_loss_or_repetition(settings, conn, point: str) -> None:
    written = [insert(conn, user_id=f"user-{n % 40}", record_id=str(n), data={"x": "y" * 900}) for n in range(1500)]
    with process(settings, point) as child:
        await killed(child)
        written.append(insert(conn, record_id="meanwhile"))
    async with running(settings):
        records = await read_until(settings, len(written), 40)
        await confirmed_beyond(settings, current_lsn(conn) - 4096)
    assert Counter(ids(await read(settings))) == Counter(written)
    for key in {r.key for r in records}:
        order = [(r.json["created_at"], r.json["id"]) for r in records if r.key == key]
        assert order == sorted(order)


async def test_a_lost_slot_is_created_anew_and_the_gap_published(settings, conn) -> None:
    async with running(settings):
        written = [insert(conn, record_id=str(n)) for n in range(20)]
        await read_until(settings, 20)
        await asyncio.sleep(1.5)
    drop_slot(conn, settings.slot_name)
    written += [insert(conn, record_id=f"gap-{n}") for n in range(20)]
    conn.execute("delete from sync_changes where id = any (%s::uuid[])", [[written[3], written[25]]])
    erased, never = written[3], written.pop(25)
    async with running(settings):
        written += [insert(conn, record_id=f"after-{n}") for n in range(20)]
        await read_until(settings, 60)
        await asyncio.sleep(0.3)
    records = await read(settings)
    assert Counter(ids(records)) == Counter([*written, erased])
    assert never not in ids(records)
    filled = [r for r in records if "fill" in r.headers]
    assert [r.json["record_id"] for r in filled if r.headers["op"] == b"insert"] == [
        f"gap-{n}" for n in range(20) if n != 5
    ]
    assert [r.headers["id"].decode() for r in filled if r.headers["op"] == b"erased"] == [erased]
    (told,) = [r for r in filled if r.headers["op"] == b"erased"]
    assert told.json == {
        "id": erased,
        "app_id": "ai",
        "table_name": "aiMissions",
        "record_id": "3",
        "user_id": "anna",
        "op": "erased",
    }


async def test_an_added_app_is_filled_alone(settings, conn) -> None:
    few = settings.model_copy(update={"apps": ("ai",)})
    prepare_source(conn, few)
    async with running(few):
        written = [insert(conn, record_id=str(n), app_id=("ai", "notes")[n % 2]) for n in range(20)]
        await read_until(few, 10)
    prepare_source(conn, settings)
    written += [insert(conn, record_id=f"later-{n}", app_id=("ai", "notes")[n % 2]) for n in range(20)]
    async with running(settings):
        written += [insert(conn, record_id=f"live-{n}", app_id=("ai", "notes")[n % 2]) for n in range(20)]
        await read_until(settings, 60)
    records = await read(settings)
    assert Counter(ids(records)) == Counter(written)
    assert {r.json["app_id"] for r in records if "fill" in r.headers} == {"notes"}


@pytest.mark.parametrize("kept", ["ai", "notes"])
async def test_an_app_that_is_left_out_while_it_is_filled_comes_whole_when_it_is_back(settings, conn, kept) -> None:
    written = [insert(conn, record_id=str(n), app_id=("ai", "notes")[n % 2]) for n in range(200)]
    stop = asyncio.Event()
    stream = asyncio.create_task(cdc.run(settings.model_copy(update={"fill_rows_per_s": 20}), stop))
    await read_until(settings, 30)
    stop.set()
    await asyncio.wait_for(stream, 10)
    one = settings.model_copy(update={"apps": (kept,)})
    prepare_source(conn, one)
    async with running(one):
        written.append(insert(conn, record_id="live", app_id=kept))
        await read_until(one, 101)
    rows, total = conn.execute("select rows, total from mana_ai.cdc_fills").fetchone()
    assert rows == total, "rows of the app that is left out were counted"
    missed = {"ai", "notes"} - {kept}
    written += [insert(conn, record_id="meanwhile", app_id=app) for app in missed]
    prepare_source(conn, settings)
    async with running(settings):
        written += [insert(conn, record_id="live", app_id=app) for app in missed]
        await read_until(settings, len(written))
        await asyncio.sleep(0.3)
    assert Counter(ids(await read(settings))) == Counter(written)


async def test_hidden_rows_are_an_error_before_anything_is_created(settings, conn) -> None:
    insert(conn)
    conn.execute("alter role projector_cdc nobypassrls")
    try:
        with pytest.raises(HiddenRowsError, match="projector_cdc"):
            await asyncio.wait_for(cdc.run(settings, asyncio.Event()), 20)
    finally:
        conn.execute("alter role projector_cdc bypassrls")
    assert conn.execute(
        "select count(*) from pg_replication_slots where slot_name = %s", [settings.slot_name]
    ).fetchone() == (0,)


async def test_a_right_that_is_missing_is_named_before_anything_is_created_and_when_a_fill_goes_on(
    settings, conn
) -> None:
    def slots() -> int:
        found = conn.execute("select from pg_replication_slots where slot_name = %s", [settings.slot_name])
        return len(found.fetchall())

    insert(conn)
    conn.execute("revoke select on sync_changes from projector_cdc")
    with pytest.raises(PrivilegeError) as refused:
        await asyncio.wait_for(cdc.run(settings, asyncio.Event()), 20)
    assert refused.value.remedy == "grant select on sync_changes to projector_cdc"
    assert slots() == 0
    conn.execute("grant select on sync_changes to projector_cdc")
    database = sql.Identifier(conn.info.dbname)
    conn.execute(sql.SQL("revoke temporary on database {} from public").format(database))
    with pytest.raises(PrivilegeError) as refused:
        await asyncio.wait_for(cdc.run(settings, asyncio.Event()), 20)
    assert slots() == 0
    conn.execute(refused.value.remedy)
    with process(settings, "cdc.after_recorded") as child:
        await killed(child)
    conn.execute("revoke select on sync_changes from projector_cdc")
    with pytest.raises(PrivilegeError, match="may not read sync_changes"):
        await asyncio.wait_for(cdc.run(settings, asyncio.Event()), 20)
    conn.execute("grant select on sync_changes to projector_cdc")
    async with running(settings):
        await read_until(settings, 1)


async def test_topics_that_lost_acknowledged_records_get_them_again(settings, conn) -> None:
    from aiokafka.admin import AIOKafkaAdminClient

    from projector.log.topics import Topics

    async with running(settings):
        written = [insert(conn, record_id=str(n), app_id=("ai", "notes")[n % 2]) for n in range(40)]
        await read_until(settings, 40)
        await asyncio.sleep(2.5)
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    await admin.delete_topics([Topics(settings.topic_prefix).changes("notes")])
    await admin.close()
    await asyncio.sleep(1)
    async with running(settings):
        written.append(insert(conn, app_id="notes"))
        await read_until(settings, 41)
    assert Counter(ids(await read(settings))) == Counter(written)


async def test_a_change_that_was_too_large_is_published_when_its_app_comes_back_with_a_higher_limit(
    settings, conn
) -> None:
    await ensure_topics(settings)
    small = settings.model_copy(update={"max_message_bytes": 256 * 1024})
    async with running(small):
        large = insert(conn, data={"text": "x" * 300_000})
        small_one = insert(conn)
        await read_until(settings, 1)
    async with running(settings):  # the higher limit alone brings nothing back
        later = insert(conn)
        await read_until(settings, 2)
    without = settings.model_copy(update={"apps": ("notes",)})
    prepare_source(conn, without)
    async with running(without):
        missed = insert(conn)
    prepare_source(conn, settings)
    async with running(settings):
        records = await read_until(settings, 4)
    assert ids(records)[:2] == [small_one, later]
    assert set(ids(records)[2:]) == {large, missed}
