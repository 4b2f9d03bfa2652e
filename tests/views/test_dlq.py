"""Dead letters tried again: after an upgrade, beside the engine, twice at once, killed, and after an erasure."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter

import orjson
import pytest
from psycopg.types.json import Jsonb

from projector import metrics
from projector.errors import FoldVersionError, HiddenRowsError
from projector.fold import FOLD_VERSION
from projector.log.place import lsn_text
from projector.log.topics import Topics, partition_of
from projector.sql.connection import connect
from projector.views import deadletters, rebuild
from projector.views.declared import MISSIONS, RECORDS
from projector.views.dlq import retry
from projector.views.letters import LetterId, Selection
from projector.views.verify import verify
from tests.views.log import COLUMNS, row, running, value_of

EVERY = Selection()
OLD = {"schema_version": 0}


@pytest.fixture
def too_old(monkeypatch):
    """Until it is called, this program knows rows of schema version 0 alone, as one that waits for its upgrade."""
    monkeypatch.setattr("projector.log.change.SUPPORTED_SCHEMA_VERSION", 0)
    return monkeypatch.undo


async def retried(log, selection=EVERY, *, rehearsed=True):
    """What became of the letters, by offset, alike in every view; a rehearsal must have told it, changing nothing."""
    offsets = dict(await (await log.admin.execute('select id, "offset" from mana_ai.dead_letters')).fetchall())
    async with await connect(log.settings, "projector_engine") as conn:
        if rehearsed:
            before = await letters(log)
            told = [result async for results in retry(conn, selection, dry_run=True) for result in results]
            assert await letters(log) == before
        done = [result async for results in retry(conn, selection) for result in results]
    if rehearsed:
        assert told == done
    became = {}
    for result in done:
        offset, found = offsets.get(result.id.number), (result.outcome, result.reason)
        assert became.setdefault(offset, found) == found
    return became


async def letters(log):
    """(view, offset, reason, attempts) of each."""
    found = await log.admin.execute('select view, "offset", reason, attempts from mana_ai.dead_letters order by 1, 2')
    return await found.fetchall()


def of_both(*stored):
    """The letters of missions, as both views that read missions have them."""
    return [(view, *letter) for view in ("iterations", "missions") for letter in stored]


async def missions(log):
    found = await log.admin.execute("select mission_id, record, source_lsn::text from mana_ai.mission_snapshots")
    return {mission: (record, lsn) for mission, record, lsn in await found.fetchall()}


async def test_what_an_older_program_laid_aside_a_newer_one_folds_beside_the_engine(log, too_old):
    await log.write([row("insert", "m1", 1, {"title": "t", "note": "old"}, **OLD)])
    await log.write([row("update", "m1", 5, {"note": "new"})])
    note_lsn = log.lsn
    await log.write([row("update", "m1", 2, {"title": "u"}, **OLD), row("insert", "m2", 6, {"title": "only"})])
    last_lsn = log.lsn
    async with running(log.settings):
        await log.caught_up()
        assert await letters(log) == of_both(*((n, "unknown-schema-version", 1) for n in (1, 3)))
        assert await missions(log) == {"m1": ({"title": "u", "note": "old"}, lsn_text(last_lsn - 0x100))}
        too_old()
        assert await retried(log) == dict.fromkeys((1, 3), ("folded", "unknown-schema-version"))
        assert await letters(log) == []
        # The place of m2 is its letter's, that of m1 stays at its newer change.
        assert await missions(log) == {
            "m1": ({"title": "u", "note": "new"}, lsn_text(last_lsn - 0x100)),
            "m2": ({"title": "only"}, lsn_text(last_lsn)),
        }
        assert note_lsn < last_lsn - 0x100
        # The engine held m1 in memory, without the note.
        await log.write([row("update", "m1", 9, {"title": "v"})])
        await log.caught_up(MISSIONS)
        assert (await missions(log))["m1"][0] == {"title": "v", "note": "new"}
        assert (await verify(log.settings, MISSIONS)).examples == ()
    assert await retried(log) == {}


async def test_what_is_folded_late_is_in_the_generation_that_a_rebuild_has_filled_too(log, too_old):
    fields = {"title": "t", "note": "n"}
    await log.write([row("insert", "m1", 1, fields), row("update", "m1", 2, {"title": "u"}, **OLD)])
    async with running(log.settings):
        await log.caught_up()
        await rebuild.start(log.settings, MISSIONS)
        too_old()
        assert await retried(log) == {0: ("folded", "unknown-schema-version")}
        assert (await rebuild.promote(log.settings, MISSIONS)).examples == ()
    assert (await missions(log))["m1"][0] == {"title": "u", "note": "n"}
    assert (await verify(log.settings, MISSIONS)).examples == ()


async def test_letters_stored_before_keys_were_kept_are_folded_by_the_user_they_name(log, too_old):
    await log.write([row("insert", "m1", 1, {"title": "t"})])
    # A key that is no text, of which the letter shows what could be read: it must not become another user's.
    false = row("insert", "m2", 2, {"title": "f"}, user_id="u\ufffd")
    await log.store([false])
    topic = Topics(log.settings.topic_prefix).changes("ai")
    headers = [*log._headers("insert"), ("table", b"aiMissions"), ("id", false["id"].encode())]
    await log._settle([await log.producer.send(topic, value_of(false), b"u\xff", partition=0, headers=headers)])
    async with running(log.settings):
        await log.caught_up()
        too_old()
        await log.admin.execute("update mana_ai.dead_letters set key = null, timestamp_ms = null")
        outcomes = await retried(log)
    assert sorted(outcomes.values()) == [("failed", "wrong-key"), ("folded", "unknown-schema-version")]
    assert {mission: record for mission, (record, _) in (await missions(log)).items()} == {"m1": {"title": "t"}}


async def test_a_letter_that_still_fails_stays_with_its_new_cause_and_one_attempt_more(log, too_old):
    await log.write([row("insert", "m1", 1, {"title": "t"}, **OLD)])
    await log.poison(value_of(row("update", "m1", 2, {"title": "u"}) | {"op": "upsert"}))
    async with running(log.settings):
        await log.caught_up()
        assert await letters(log) == of_both((1, "unknown-schema-version", 1))
        too_old()
        for attempts in (2, 3):
            assert await retried(log) == {1: ("failed", "unknown-op")}
            assert await letters(log) == of_both((1, "unknown-op", attempts))
        shown = await log.admin.execute("select detail, retried_at > created_at from mana_ai.dead_letters")
        assert await shown.fetchall() == [("op is 'upsert'", True)] * 2
    assert (await missions(log))["m1"][0] == {"title": "t"}


async def test_a_change_that_is_no_longer_in_the_log_does_not_come_back(log, too_old):
    gone, kept = row("insert", "m1", 1, {"title": "secret"}), row("insert", "m2", 2, {"title": "t"})
    await log.write([gone, kept])
    async with running(log.settings):
        await log.caught_up()
        too_old()
        # The record that says so is still on its way.
        await log.admin.execute("delete from sync_changes where id = %s", [gone["id"]])
        reason = "unknown-schema-version"
        assert await retried(log) == {0: ("erased", reason), 1: ("folded", reason)}
        assert await letters(log) == []
    assert list(await missions(log)) == ["m2"]


async def test_an_erasure_that_was_laid_aside_reloads_its_record(log):
    first, second = row("insert", "m1", 1, {"title": "t"}), row("update", "m1", 2, {"title": "secret"})
    await log.write([first, second])
    await log.admin.execute("delete from sync_changes where id = %s", [second["id"]])
    value = orjson.dumps({name: second[name] for name in COLUMNS[:5]})
    log.lsn += 0x100
    headers = [(name, text) for name, text in log._headers("erased") if name != "lsn"]
    headers += [("table", b"aiMissions"), ("id", second["id"].encode())]
    await log._settle([await log._produce("ai", "u1", value, headers)])
    async with running(log.settings):
        await log.caught_up()
        assert await retried(log) == {2: ("failed", "no-place")}
        # As a program would read it that finds the place elsewhere.
        place = Jsonb({"lsn": lsn_text(log.lsn)})
        await log.admin.execute("update mana_ai.dead_letters set headers = headers || %s", [place])
        assert await retried(log) == {2: ("reloaded", "no-place")}
        assert await letters(log) == []
        assert await missions(log) == {"m1": ({"title": "t"}, lsn_text(log.lsn))}
        assert (await verify(log.settings, MISSIONS)).examples == ()


async def test_what_the_view_will_read_again_is_left_to_it(log, too_old):
    await log.write([row("insert", "m1", 1, {"title": "t"}, **OLD), row("update", "m1", 2, {"title": "u"})])
    async with running(log.settings):
        await log.caught_up()
    rewind = "update mana_ai.stream_positions set next_offset = 1, revision = revision + 1 where next_offset = 2"
    await log.admin.execute(rewind)
    async with running(log.settings):  # still too old: the same letter, one attempt more
        await log.caught_up()
    assert await letters(log) == of_both((1, "unknown-schema-version", 2))
    await log.admin.execute(rewind)
    too_old()
    assert await retried(log) == {1: ("again", "unknown-schema-version")}
    assert (await letters(log), (await missions(log))["m1"][0]) == ([], {"title": "t"})
    async with running(log.settings):
        await log.caught_up(MISSIONS)
        assert (await verify(log.settings, MISSIONS)).examples == ()


async def test_letters_that_no_retry_can_help_are_left_alone(log, too_old):
    await log.poison(b"[]")
    await log.admin.execute(
        'insert into mana_ai.dead_letters (view, cluster, topic, partition, "offset", user_id, reason, detail, headers)'
        " select view, 'another', topic, partition, n, 'u1', 'r', '', '{}'"
        " from (select %s as topic, %s as partition) as place, (values ('missions', 0), ('dreams', 1)) as v (view, n)",
        [Topics(log.settings.topic_prefix).changes("ai"), partition_of(b"u1", log.settings.topic_partitions)],
    )
    async with running(log.settings):
        await log.caught_up()
        # That of another cluster at the same offset took nobody's place.
        stored = [("dreams", 1, "r", 1), *of_both((0, "not-json", 1)), ("missions", 0, "r", 1)]
        assert sorted(await letters(log)) == stored
        assert await retried(log, Selection(reason="r")) == {0: ("skipped", "r"), 1: ("skipped", "r")}
        assert sorted(await letters(log)) == stored
        await log.admin.execute("update mana_ai.stream_positions set fold_version = 0")
        with pytest.raises(FoldVersionError):
            await retried(log, Selection(reason="not-json"), rehearsed=False)
        assert sorted(await letters(log)) == stored
        await log.admin.execute("update mana_ai.stream_positions set fold_version = %s", [FOLD_VERSION])


async def test_two_retries_at_once_and_one_letter_in_another_hand(log, too_old):
    await log.write([row("insert", f"m{n}", n, {"title": "t"}, user_id=f"u{n % 9}") for n in range(150)])
    async with running(log.settings), await connect(log.settings, "projector_engine") as one:
        await log.caught_up()
        too_old()
        [(held,)] = await (await log.admin.execute("select min(id) from mana_ai.dead_letters")).fetchall()

        async def every():
            async with await connect(log.settings, "projector_engine") as conn:
                return [result.outcome async for results in retry(conn, EVERY) for result in results]

        async with one.transaction():
            await one.execute("select from mana_ai.dead_letters where id = %s for update", [held])
            first, second = await asyncio.wait_for(asyncio.gather(every(), every()), 30)
        assert (first + second).count("folded") == 2 * 150 - 1
        assert set(first + second) == {"folded", "gone"}
        named = Selection((LetterId("views", held), LetterId("views", 10**6)))
        assert sorted((await retried(log, named)).values()) == [("folded", "unknown-schema-version"), ("gone", None)]
        report = await verify(log.settings, MISSIONS)
        assert (report.rows, report.examples) == (150, ())


@pytest.mark.parametrize("point", ["dlq.before_commit", "dlq.after_commit"])
async def test_killed_anywhere_a_retry_is_done_by_the_next_one(log, too_old, point):
    await log.write([row("insert", f"m{n}", n, {"title": "t"}, **OLD) for n in range(120)])
    await log.write([row("update", f"m{n}", 200 + n, {"title": "u"}) for n in range(120)])
    async with running(log.settings):
        await log.caught_up()
        environment = {**os.environ, **log.settings.environment(), "PROJECTOR_CRASH_AT": f"{point}:2"}
        words = [sys.executable, "-m", "projector", "dlq", "retry", "--view", "missions"]
        child = await asyncio.create_subprocess_exec(*words, env=environment)
        ended = asyncio.create_task(child.wait())
        try:
            for burst in range(100):  # the engine works on the same records meanwhile
                await log.write([row("update", f"m{n}", 500 + burst, {"n": burst}, **OLD) for n in range(120)])
                if (await asyncio.wait({ended}, timeout=0.2))[0]:
                    break
            assert await asyncio.wait_for(ended, 20) == -signal.SIGKILL
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        left = Counter(view for view, *_ in await letters(log))
        assert left == {"iterations": 120, "missions": {"dlq.before_commit": 70, "dlq.after_commit": 20}[point]}
        too_old()
        assert set((await retried(log)).values()) == {("folded", "unknown-schema-version")}
        await log.caught_up()
        report = await verify(log.settings, MISSIONS)
        assert (report.rows, report.examples) == (120, ())
        assert await letters(log) == []


async def test_a_retry_that_cannot_see_the_log_takes_nothing_for_erased(log, too_old):
    await log.write([row("insert", "m1", 1, {"title": "t"})])
    async with running(log.settings):
        await log.caught_up()
    too_old()
    async with await connect(log.settings, "projector_engine") as conn:
        await log.admin.execute("alter role projector_engine nobypassrls")
        try:
            with pytest.raises(HiddenRowsError, match="bypassrls"):
                await anext(retry(conn, EVERY))
        finally:
            await log.admin.execute("alter role projector_engine bypassrls")
    assert await letters(log) == of_both((0, "unknown-schema-version", 1))


async def test_letters_are_counted_for_the_metrics_whoever_removes_them(log):
    await log.poison(b"[]")
    await log.poison(None, table=None)
    async with running(log.settings):
        await log.caught_up()
    async with await connect(log.settings, "projector_engine") as conn:
        await deadletters.show_stored(conn)
        stored = metrics.VIEW_LETTERS_STORED.labels
        assert (stored("missions", "not-json")._value.get(), stored(RECORDS.name, "not-json")._value.get()) == (1, 1)
        await log.admin.execute("delete from mana_ai.dead_letters where view = 'missions'")
        await deadletters.show_stored(conn)
        assert (stored("missions", "not-json")._value.get(), stored(RECORDS.name, "not-json")._value.get()) == (0, 1)


async def test_headers_that_are_null_or_unstorable_are_no_more_than_a_dead_letter(log):
    topic = Topics(log.settings.topic_prefix).changes("ai")
    value = value_of(row("insert", "m1", 1, {"title": "t"}))
    expected = {"source": "no-place", "lsn": "no-place", "ord": "no-place", "op": "wrong-key", "id": "wrong-key"}
    for null in expected:
        log.lsn += 0x100
        headers = [*log._headers("insert"), ("table", b"aiMissions"), ("id", b"\0"), ("a\0b", b"\0")]
        headers = [(name, None if name == null else text) for name, text in headers]
        await log._settle([await log.producer.send(topic, value, b"u2", partition=0, headers=headers)])
    async with running(log.settings):
        await log.caught_up()
    assert await letters(log) == of_both(*((n, reason, 1) for n, reason in enumerate(expected.values())))
    assert list((await retried(log)).values()) == [("failed", reason) for reason in expected.values()]
