"""The stream on a real PostgreSQL and a real Kafka: what is committed comes out, once and in order."""

from __future__ import annotations

import psycopg
import pytest

from projector.cdc.publication import prepare_source
from projector.log.topics import Topics, partition_of
from tests.cdc.support import confirmed_beyond, current_lsn, insert, read, read_until, running, slot


@pytest.fixture
def conn(settings):
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        yield conn


async def test_a_row_arrives_with_its_place_headers_and_columns(settings, conn) -> None:
    async with running(settings):
        change = insert(
            conn,
            data={"title": "Pläne", "n": [1, 2.5]},
            field_meta={"title": "2026-11-25T10:00:00.000Z"},
            actor={"kind": "user"},
            origin="user",
            space_id="s1",
            created_at="2026-11-25 10:00:00.1+02",
        )
        (record,) = await read_until(settings, 1)
    assert record.topic == f"{settings.topic_prefix}.sync_changes.ai"
    assert record.key == b"anna"
    assert record.partition == partition_of(b"anna", settings.topic_partitions)
    assert list(record.json.items()) == [
        ("id", change),
        ("app_id", "ai"),
        ("table_name", "aiMissions"),
        ("record_id", "m1"),
        ("user_id", "anna"),
        ("op", "insert"),
        ("data", {"n": [1, 2.5], "title": "Pläne"}),
        ("field_meta", {"title": "2026-11-25T10:00:00.000Z"}),
        ("client_id", "device-1"),
        ("created_at", "2026-11-25T08:00:00.100000Z"),
        ("schema_version", 1),
        ("actor", {"kind": "user"}),
        ("origin", "user"),
        ("space_id", "s1"),
    ]
    assert b'"n": [1, 2.5]' in record.value
    assert list(record.headers) == ["source", "lsn", "ord", "xid", "ts", "op", "table", "id"]
    assert record.headers["source"] == b"1"
    assert record.headers["ord"] == b"0"
    assert record.headers["op"] == b"insert"
    assert record.headers["table"] == b"aiMissions"
    assert record.headers["id"] == change.encode()
    assert record.timestamp == int(record.headers["ts"]) // 1000


async def test_rows_of_a_user_keep_commit_order_and_share_a_partition(settings, conn) -> None:
    async with running(settings):
        written = []
        for number in range(200):
            user = f"user-{number % 7}"
            with conn.transaction():
                written += [insert(conn, user_id=user, record_id=str(n)) for n in range(number % 4)]
        records = await read_until(settings, len(written))
    assert sorted(r.json["id"] for r in records) == sorted(written)
    for user in {r.key for r in records}:
        of_user = [r for r in records if r.key == user]
        assert len({r.partition for r in of_user}) == 1
        ids = [r.json["id"] for r in of_user]
        assert ids == [change for change in written if change in set(ids)]
        assert [r.place for r in of_user] == sorted(r.place for r in of_user)


async def test_rows_of_one_transaction_share_the_commit_lsn_and_are_counted(settings, conn) -> None:
    async with running(settings):
        with conn.transaction():
            written = [insert(conn, user_id=f"user-{n}") for n in range(10)]
        records = await read_until(settings, 10)
    assert len({r.place.lsn for r in records}) == 1
    by_ord = sorted(records, key=lambda r: r.place.ord)
    assert [r.place.ord for r in by_ord] == list(range(10))
    assert [r.json["id"] for r in by_ord] == written


async def test_what_was_rolled_back_does_not_arrive(settings, conn) -> None:
    async with running(settings):
        with conn.transaction():
            insert(conn, record_id="rolled back")
            raise psycopg.Rollback
        with conn.transaction():
            first = insert(conn, record_id="before")
            with conn.transaction():
                insert(conn, record_id="savepoint")
                raise psycopg.Rollback
            with conn.transaction():
                second = insert(conn, record_id="released")
        last = insert(conn, record_id="last")
        records = await read_until(settings, 3)
    assert {r.json["id"] for r in records} == {first, second, last}


NASTY = ['"', "\\", "\x01\x1f\t\n\r\b\f", "a\"b\\c'd", "ユーザー 🙂", "\x7f\u2028", "100%b %s", "x" * 1_000_000]


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
async def test_any_text_arrives_as_it_was_written(settings, conn, text) -> None:
    short = text[:300]
    async with running(settings):
        insert(
            conn,
            user_id=short,
            record_id=short,
            table_name=short,
            client_id=text,
            origin=text,
            space_id=short,
            data={short: text},
        )
        (record,) = await read_until(settings, 1)
    row = record.json
    assert record.key == short.encode()
    assert (row["user_id"], row["record_id"], row["table_name"]) == (short, short, short)
    assert (row["client_id"], row["origin"], row["space_id"]) == (text, text, short)
    assert row["data"] == {short: text}


async def test_nulls_and_an_empty_user_pass_as_they_are(settings, conn) -> None:
    async with running(settings):
        insert(conn, data=None, field_meta=None, actor=None, origin=None, space_id=None, user_id="")
        (record,) = await read_until(settings, 1)
    assert record.key == b""
    row = record.json
    assert [row[name] for name in ("data", "field_meta", "actor", "origin", "space_id")] == [None] * 5
    assert row["user_id"] == ""


async def test_rows_of_other_apps_do_not_arrive(settings, conn) -> None:
    async with running(settings):
        insert(conn, app_id="elsewhere")
        ours = insert(conn, app_id="notes")
        (record,) = await read_until(settings, 1)
    assert record.json["id"] == ours


async def test_a_deleted_row_arrives_as_erased_with_its_identity_alone(settings, conn) -> None:
    async with running(settings):
        change = insert(conn, record_id='m"1', data={"secret": 1})
        conn.execute("delete from sync_changes")
        _, record = await read_until(settings, 2)
    assert record.headers["op"] == b"erased"
    assert record.key == b"anna"
    assert record.json == {
        "id": change,
        "app_id": "ai",
        "table_name": "aiMissions",
        "record_id": 'm"1',
        "user_id": "anna",
        "op": "erased",
    }


async def test_the_owner_may_still_delete_under_the_publication(settings, database, conn) -> None:
    insert(conn)
    with psycopg.connect(database.logins.sync) as owner:
        owner.execute("select set_config('app.current_user_id', 'anna', true)")
        assert owner.execute("delete from sync_changes").rowcount == 1


async def test_commands_go_to_their_topics_and_other_messages_nowhere(settings, conn) -> None:
    topics = Topics(settings.topic_prefix)
    run = "0d2f4a3e-6f0e-5d3c-9a35-0f4b1f2f7f11"
    good = f'{{"run_id": "{run}", "user_id": "Änne"}}'
    emit = "select pg_logical_emit_message(%s, %s, %s)"
    async with running(settings):
        with conn.transaction():
            insert(conn)
            conn.execute(emit, [True, "mission.due", good])
            insert(conn)
        conn.execute(emit, [False, "mission.due", good])
        conn.execute(emit, [True, "another.program", good])
        for bad in (
            "",
            "[]",
            '{"run_id": 1, "user_id": "a"}',
            good[:-1] + ', "more": 1}',
            '{"run_id": "x", "user_id": "a"}',
            good.replace(run, "{" + run + "}"),
            good.replace("nne", r"\u0000"),
        ):
            conn.execute(emit, [True, "mission.due", bad])
        conn.execute(emit, [True, "mission.iterations", good])
        await read_until(settings, 4)
        due = await read(settings, topics.due)
        iterations = await read(settings, topics.iterations)
    assert [r.value for r in due] == [r.value for r in iterations] == [good.encode()]
    assert due[0].key == "Änne".encode()
    assert list(due[0].headers) == ["source", "lsn", "ord", "xid", "ts", "op"]
    assert due[0].headers["op"] == b"message"
    assert due[0].place.ord == 1


async def test_a_record_above_the_limit_becomes_a_dead_letter_and_the_stream_goes_on(settings, conn) -> None:
    settings = settings.model_copy(update={"max_message_bytes": 256 * 1024})
    async with running(settings):
        with conn.transaction():
            before = insert(conn)
            large = insert(conn, data={"text": "x" * 300_000})
            after = insert(conn)
        records = await read_until(settings, 2)
        await confirmed_beyond(settings, records[0].place.lsn)
    assert [r.json["id"] for r in records] == [before, after]
    assert [r.place.ord for r in records] == [0, 2]
    row = conn.execute(
        "select source, lsn::text, ord, change_id, user_id, reason from mana_ai.cdc_dead_letters"
    ).fetchone()
    place = records[0].place
    assert row == (1, f"{place.lsn >> 32:X}/{place.lsn & 0xFFFFFFFF:X}", 1, large, "anna", "too-large")


async def test_a_record_just_below_the_limit_passes(settings, conn) -> None:
    async with running(settings):
        insert(conn, data={"text": "x" * (settings.max_message_bytes - 2000)})
        (record,) = await read_until(settings, 1)
    assert len(record.value) > settings.max_message_bytes - 2000


async def test_a_large_transaction_passes_in_bounded_memory(settings, conn) -> None:
    async with running(settings):
        conn.execute(
            "insert into sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)"
            " select 'ai', 't', n::text, 'user-' || n % 50, 'insert',"
            " jsonb_build_object('text', repeat('x', 1000)), 'c'"
            " from generate_series(1, 30000) n"
        )
        end = current_lsn(conn)
        await confirmed_beyond(settings, end, 60)
        records = await read(settings)
    assert len(records) == 30_000
    assert sorted(r.place.ord for r in records) == list(range(30_000))


async def test_an_idle_slot_moves_with_the_log_of_others(settings, conn) -> None:
    async with running(settings):
        conn.execute("create table elsewhere (n int)")
        conn.execute("insert into elsewhere select generate_series(1, 1000)")
        end = current_lsn(conn)
        await confirmed_beyond(settings, end - 64 * 1024)
        assert slot(settings).confirmed > 0


async def test_an_added_column_is_passed_through_while_streaming(settings, conn) -> None:
    async with running(settings):
        insert(conn)
        conn.execute("alter table sync_changes add column note text, add column weight numeric, add column flag bool")
        insert(conn, note='a"b', weight=1.5, flag=True)
        records = await read_until(settings, 2)
    assert "note" not in records[0].json
    assert {name: records[1].json[name] for name in ("note", "weight", "flag")} == {
        "note": 'a"b',
        "weight": "1.5",
        "flag": True,
    }


async def test_a_change_of_the_apps_changes_publication_and_topics(settings, conn) -> None:
    async with running(settings):
        insert(conn)
        await read_until(settings, 1)
    settings = settings.model_copy(update={"apps": ("ai", "todo")})
    prepare_source(conn, settings)
    async with running(settings):
        ours = insert(conn, app_id="todo")
        insert(conn, app_id="notes")
        records = await read_until(settings, 2)
    assert [r.json["id"] for r in records if r.topic.endswith(".todo")] == [ours]
