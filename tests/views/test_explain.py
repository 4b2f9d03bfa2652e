from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql

from projector.errors import HistoryCutError, UnknownRecordError
from projector.fold import derive, dump, fold
from projector.log.change import decode
from projector.log.place import Place
from projector.log.topics import Topics, partition_of
from projector.views.asof import AtLsn, AtOffset, AtTime, Reach, select
from projector.views.declared import MISSIONS
from projector.views.explain import Entry, explain
from projector.views.history import read_history
from tests.fold import rows as one
from tests.fold.test_convergence import rows as any_rows
from tests.views.log import row, running, value_of

IDENTITY = ("u1", "ai", "aiMissions", "m1")
GRANT = {"wrappedKey": "k", "expiresAt": one.at(500), "derivation": {"version": "v1", "recordIds": ["r"]}}

# The rows of the serving view; here alone a test spoils them.
TABLE = sql.Identifier("mana_ai", "mission_snapshots_1")
SPOIL_STATE = sql.SQL("update {} set state = state || '{{\"n\": 5}}' where mission_id = 'm1'").format(TABLE)
SPOIL_RECORD = sql.SQL("update {} set record = record || '{{\"a\": 1}}' where mission_id = 'm2'").format(TABLE)


def entries(*changes):
    """One transaction each, at the time of its creation."""
    return [
        Entry(change, change.created_at_us, Place(1, 0x100 * number, 0), number)
        for number, change in enumerate(changes)
    ]


def field(explanation, *path):
    [found] = [found for found in explanation.fields if found.path == path]
    return found


def by(name):
    return {"kind": "user", "principalId": name, "displayName": name}


# Pure


def test_of_two_devices_that_fight_over_a_title_the_loser_is_named():
    phone = replace(one.update(5, {"title": "phone"}, stamp=5), actor=by("phone"))
    laptop = replace(one.update(6, {"title": "laptop"}, stamp=4), actor=by("laptop"))
    title = field(explain(entries(one.insert(1, {"title": "t"}), phone, laptop)), "title")
    assert (title.write.value, title.entry.change.actor) == ("phone", by("phone"))
    assert [(lost.write.value, lost.entry.change.actor) for lost in title.beaten] == [
        ("laptop", by("laptop")),
        ("t", None),
    ]


def test_losers_are_listed_with_the_largest_stamp_first_and_the_rest_is_counted():
    title = field(explain(entries(*(one.update(n, {"title": n}) for n in range(9))), keep=3), "title")
    assert title.write.value == 8
    assert ([lost.write.value for lost in title.beaten], title.beaten_more) == ([7, 6, 5], 5)


def test_a_child_is_hidden_by_a_later_write_of_its_parent_or_below_a_value_that_is_no_object():
    child = one.update(2, {"cadence.atHour": 7, "tags.first": "x"}, stamp=9)
    parents = one.update(3, {"cadence": {"kind": "daily"}}, stamp=3)
    explanation = explain(entries(one.insert(1, {"tags": ["a"]}), child, parents))
    assert explanation.record.fields == {"cadence": {"kind": "daily"}, "tags": ["a"]}
    replaced, swallowed = field(explanation, "cadence", "atHour"), field(explanation, "tags", "first")
    assert (replaced.status, replaced.by, replaced.shown) == ("replaced", ("cadence",), None)
    assert (swallowed.status, swallowed.by, swallowed.shown) == ("swallowed", ("tags",), None)
    again = explain(entries(one.insert(1, {"cadence": {"kind": "daily"}}), child))
    assert field(again, "cadence").shown == {"kind": "daily", "atHour": 7}
    assert field(again, "cadence", "atHour").status == "shown"


def test_an_unstamped_update_is_named_as_having_lost():
    late = one.unstamped(9, {"title": "late"})
    explanation = explain(entries(one.insert(1, {"title": "t", "updatedAt": one.at(1)}), late))
    assert explanation.record.fields["title"] == "t"
    [(path, lost)] = explanation.unstamped
    assert (path, lost.write.value, lost.entry.change.id) == (("title",), "late", late.id)


def test_a_tombstone_and_what_restores_a_record_are_named():
    changes = [one.insert(1, {"title": "t"}), one.delete(2), one.update(3, {"title": "no"})]
    gone = explain(entries(*changes))
    assert (gone.record.deleted, gone.tombstone_stands, gone.tombstone.change.id) == (True, True, changes[1].id)
    again = explain(entries(*changes, one.insert(4, {"title": "back"})))
    assert (again.record.deleted, again.tombstone_stands, again.restored) == (False, False, True)
    assert again.insert.change.created_at_us == one.us(4)
    undone = explain(entries(changes[0], one.delete(2, one.at(2)), one.update(3, {"deletedAt": None})))
    assert (undone.restored, undone.tombstone) == (True, None)
    assert field(undone, "deletedAt").beaten[0].write.value == one.at(2)
    assert not explain(entries(changes[0])).restored


def test_deletes_before_the_row_that_made_the_record_are_named_as_passed_over():
    outright, early, made = one.delete(1), one.delete(2, one.at(9)), one.insert(3, {"title": "t"})
    late = one.delete(4, one.at(4))
    alone = explain(entries(early))
    assert (alone.record.deleted, alone.deleted_by.change, alone.passed_over, alone.fields) == (True, early, (), ())
    shown = explain(entries(early, made, outright))
    assert (shown.record.deleted, shown.restored, shown.tombstone_stands) == (False, False, False)
    assert (shown.made.change, [over.change for over in shown.passed_over]) == (made, [outright, early])
    assert shown.deleted_by is None
    again = explain(entries(early, made, late))
    assert (again.record.deleted_at_us, field(again, "deletedAt").entry.change) == (one.us(4), late)
    assert field(again, "deletedAt").beaten == ()


def test_the_changes_behind_the_effective_grant_are_named():
    issue = one.insert(1, {"grant": GRANT, "updatedAt": one.at(1)})
    shortened = one.update(2, {"grant.expiresAt": one.at(100)})
    grant = explain(entries(issue, shortened)).grant
    assert (grant.issue.change.id, [late.change.id for late in grant.later]) == (issue.id, [shortened.id])
    assert grant.effective["expiresAt"] == one.at(100)
    revoked = one.update(3, {"grant": None})
    taken = explain(entries(issue, shortened, revoked)).grant
    assert (taken.effective, taken.issue.change.id, taken.later) == (None, revoked.id, ())


@given(any_rows())
def test_winners_are_the_states_and_what_is_shown_is_the_derived_record(changes):
    explanation = explain(entries(*changes), keep=100)
    state = fold(changes)
    assert dump(explanation.state) == dump(state)
    assert {found.path: found.write for found in explanation.fields} == state.writes
    by_id = {change.id: change for change in changes}
    for found in explanation.fields:
        assert found.entry.change is by_id[found.write.change_id]
        assert not any(lost.write.beats(found.write) for lost in found.beaten)
    assert rebuilt(explanation) == derive(state).fields
    alone = [(path, write) for change in changes for path, write in fold([change]).writes.items()]
    deletes = [(("deletedAt",), write) for change in changes for write in fold([change]).early]
    alone += [(path, write) for path, write in deletes if state.first is not None and write.order > state.first]
    assert sum(1 + len(found.beaten) for found in explanation.fields) == len(alone)
    lost = [write for path, write in alone if write.change_id != state.writes[path].change_id]
    assert len(explanation.unstamped) + explanation.unstamped_more == sum(not write.stamped for write in lost)


def rebuilt(explanation):
    """The record out of the writes that are said to be shown, each put where it belongs."""
    fields: dict = {}
    for found in sorted(explanation.fields, key=lambda found: len(found.path)):
        if found.status != "shown":
            assert found.shown is None
            continue
        inner = fields
        for segment in found.path[:-1]:
            if not isinstance(inner.get(segment), dict):
                inner[segment] = {}
            inner[segment] = dict(inner[segment])
            inner = inner[segment]
        inner[found.path[-1]] = found.write.value
    for found in explanation.fields:
        if found.status == "shown":
            value = fields
            for segment in found.path:
                value = value[segment]
            assert found.shown == value
    return fields


@given(any_rows(), st.data())
def test_as_of_every_prefix_is_the_fold_of_the_prefix(changes, data):
    places = sorted(
        data.draw(
            st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=len(changes), max_size=len(changes))
        )
    )
    found = [
        Entry(change, change.created_at_us, Place(source, lsn, 0), 10 + number)
        for number, (change, (source, lsn)) in enumerate(zip(changes, places, strict=True))
    ]
    newest = places[-1][0]
    reach = Reach(0, found[0].place, newest)
    for cut in range(len(changes) + 1):
        assert state_of(select(found, AtOffset(10 + cut), reach)) == dump(fold(changes[:cut]))
    for lsn in range(6):
        within = [change for change, place in zip(changes, places, strict=True) if place[0] < newest or place[1] <= lsn]
        assert state_of(select(found, AtLsn(lsn), reach)) == dump(fold(within))
    for us in {change.created_at_us for change in changes}:
        within = [change for change in changes if change.created_at_us <= us]
        assert state_of(select(found, AtTime(us), reach)) == dump(fold(within))


def state_of(chosen):
    return dump(fold(entry.change for entry in chosen))


# On a real topic


def history(log, identity=IDENTITY):
    return read_history(log.settings, identity)


def changes_of(rows):
    return [decode(value_of(written)) for written in rows]


async def test_as_of_an_offset_an_lsn_and_a_time_is_the_fold_of_that_prefix(log):
    rows = [row("insert", "m1", 1, {"title": "t", "cadence": {"kind": "daily"}})]
    rows += [row("update", "m1", n, {"title": f"t{n}", "cadence.atHour": n}) for n in range(2, 7)]
    for number, written in enumerate(rows):
        await log.write([row("update", f"other{number}", 1, {"title": "x"}), written])
    found = await history(log)
    assert [entry.change.id for entry in found.entries] == [written["id"] for written in rows]
    assert [entry.offset for entry in found.entries] == [1, 3, 5, 7, 9, 11]
    lsns = [entry.place.lsn for entry in found.entries]
    times = [entry.at_us for entry in found.entries]
    assert times == sorted(set(times))
    for cut in range(len(rows) + 1):
        expected = dump(fold(changes_of(rows[:cut])))
        lsn, us = (lsns[cut - 1], times[cut - 1]) if cut else (lsns[0] - 0x100, times[0] - 1_000_000)
        for moment in AtOffset(2 * cut), AtLsn(lsn), AtLsn(lsn + 0xFF), AtTime(us), AtTime(us + 999_999):
            assert state_of(select(found.entries, moment, found.reach)) == expected


async def test_the_serving_row_is_equal_behind_or_different(log):
    await log.write([row("insert", "m1", 1, {"title": "t"}), row("insert", "m2", 1, {"title": "t"})])
    assert (await history(log)).standing == "behind"
    async with running(log.settings):
        await log.caught_up(MISSIONS)
    found = await history(log)
    assert (found.standing, found.to_come, found.position.next_offset) == ("equal", 0, 2)
    await log.write([row("update", "m1", 2, {"title": "u"})])
    await log.store([row("update", "m1", 3, {"title": "v"})])
    found = await history(log)
    assert (found.standing, found.to_come) == ("behind", 2)
    assert [entry.whence for entry in found.entries] == ["topic", "topic", "not in the topic yet"]
    await log.admin.execute(SPOIL_STATE)
    assert (await history(log)).standing == "different"
    await log.admin.execute(SPOIL_RECORD)
    assert (await history(log, (*IDENTITY[:3], "m2"))).standing == "different"
    with pytest.raises(UnknownRecordError):
        await history(log, (*IDENTITY[:3], "m3"))


async def test_an_erased_change_is_shown_at_no_time_and_the_row_is_behind_until_its_view_knows(log):
    first, secret = row("insert", "m1", 1, {"title": "t"}), row("update", "m1", 2, {"title": "secret"})
    await log.write([first, secret])
    async with running(log.settings):
        await log.caught_up(MISSIONS)
    await log.erase(secret)
    found = await history(log)
    assert [entry.change.id for entry in found.entries] == [first["id"]]
    assert [(one.change_id, one.by.offset, one.by.truncated) for one in found.erased] == [(secret["id"], 2, False)]
    assert found.standing == "behind"
    assert "secret" not in repr(select(found.entries, AtOffset(2), found.reach))
    async with running(log.settings):
        await log.caught_up(MISSIONS)
    assert (await history(log)).standing == "equal"
    await log.erase(first)
    found = await history(log)
    assert (found.entries, {one.change_id for one in found.erased}) == ([], {first["id"], secret["id"]})


async def test_a_truncation_erases_what_came_before_and_is_not_in_the_log_again(log):
    rows = [row("insert", "m1", 1, {"title": "t"}), row("update", "m1", 2, {"title": "secret"})]
    await log.write(rows)
    await log.truncate()
    await log.store(rows[:1])
    await log.write([row("update", "m1", 3, {"note": "n"})])
    found = await history(log)
    assert [entry.change.data for entry in found.entries] == [{"title": "t"}, {"note": "n"}]
    assert [(one.change_id, one.by.truncated) for one in found.erased] == [(rows[1]["id"], True)]


async def test_bad_records_are_dead_letters_and_stop_nothing(log):
    bad = row("update", "m1", 2, {}) | {"data": "text"}
    await log.write([row("insert", "m1", 1, {"title": "t"}), bad, row("update", "m2", 1, {}) | {"data": "text"}])
    await log.poison(b"{", table="aiMissions")
    await log.store([row("update", "m1", 3, {}) | {"data": 5}])
    found = await history(log)
    assert [entry.change.data for entry in found.entries] == [{"title": "t"}]
    assert [(letter.reason, letter.names_record, letter.offset) for letter in found.letters] == [
        ("data-not-object", True, 1),
        ("not-json", False, 3),
        ("data-not-object", True, None),
    ]
    assert found.letters[0].change_id == bad["id"]


async def test_a_change_that_was_filled_or_came_twice_counts_once_where_it_came_first(log):
    filled = row("insert", "m1", 1, {"title": "t"})
    await log.store([filled])
    await log.fill([filled])
    await log.publish([filled])
    found = await history(log)
    [entry] = found.entries
    assert (entry.offset, entry.filled, entry.at_us, found.repeats) == (0, True, entry.change.created_at_us, 1)


async def test_reading_begins_where_the_record_can_begin(log):
    now = datetime.now(UTC)
    for record_id, hours in ("m0", 5), ("m1", 0.1):
        created = now - timedelta(hours=hours)
        filled = row("insert", record_id, 1, {"title": "t"}) | {"created_at": created.isoformat()}
        await log.store([filled])
        await log.fill([filled], round(created.timestamp() * 1000))
    found = await history(log)
    assert (found.begin, found.scanned, [entry.offset for entry in found.entries]) == (1, 1, [1])


async def test_a_change_that_is_not_found_there_is_looked_for_in_all_of_the_partition(log):
    ahead = (datetime.now(UTC) + timedelta(hours=9)).isoformat()
    await log.write([row("insert", "m1", 1, {"title": "t"}) | {"created_at": ahead}])
    found = await history(log)
    assert (found.begin, [entry.offset for entry in found.entries]) == (0, [0])


async def test_what_a_cut_topic_lost_comes_from_the_log_and_has_no_place(log):
    rows = [row("insert", "m1", 1, {"title": "t"})] + [row("update", "m1", n, {"title": f"t{n}"}) for n in range(2, 6)]
    await log.write(rows)
    await cut(log, 3)
    found = await history(log)
    assert found.reach.beginning == 3
    lost, kept = found.entries[:3], found.entries[3:]
    assert {(entry.whence, entry.place, entry.offset) for entry in lost} == {
        ("before the topic's beginning", None, None)
    }
    assert [entry.offset for entry in kept] == [3, 4]
    assert state_of(found.entries) == dump(fold(changes_of(rows)))
    assert state_of(select(found.entries, AtOffset(4), found.reach)) == dump(fold(changes_of(rows[:4])))
    assert state_of(select(found.entries, AtLsn(kept[0].place.lsn), found.reach)) == dump(fold(changes_of(rows[:4])))
    before = AtTime(changes_of(rows)[1].created_at_us)
    assert state_of(select(found.entries, before, found.reach)) == dump(fold(changes_of(rows[:2])))
    for earlier in AtOffset(2), AtLsn(kept[0].place.lsn - 1):
        with pytest.raises(HistoryCutError):
            select(found.entries, earlier, found.reach)


async def test_what_is_not_published_yet_is_told_from_what_was_cut_off_by_the_newest_horizon(log):
    await log.write([row("insert", "m1", 1, {"title": "t"}), row("update", "m1", 2, {"title": "u"})])
    await cut(log, 1)
    await log.admin.execute(
        "insert into mana_ai.cdc_sources (generation, system_identifier, slot_name) values (1, '1', 's')"
    )
    await log.admin.execute(
        "insert into mana_ai.cdc_watermarks (generation, lsn, committed_at, horizon, ends)"
        " select 1, '0/1', now(), pg_snapshot_xmax(pg_current_snapshot()), '{}'"
    )
    await log.store([row("update", "m1", 3, {"title": "v"})])
    found = await history(log)
    whences = ["before the topic's beginning", "topic", "not in the topic yet"]
    assert [entry.whence for entry in found.entries] == whences
    assert select(found.entries, AtOffset(9), found.reach) == found.entries[:2]


async def test_a_change_too_large_for_its_topic_is_a_dead_letter_and_not_folded(log):
    large = row("update", "m1", 2, {"title": "large"})
    await log.write([row("insert", "m1", 1, {"title": "t"})])
    await log.store([large])
    await log.admin.execute(
        "insert into mana_ai.cdc_dead_letters (source, lsn, ord, topic, change_id, user_id, size, reason)"
        " values (1, '0/1000900', 3, 't', %s, 'u1', 5000000, 'too-large')",
        [large["id"]],
    )
    found = await history(log)
    assert [entry.change.data for entry in found.entries] == [{"title": "t"}]
    [letter] = found.letters
    assert (letter.reason, letter.place, letter.names_record) == ("too-large", Place(1, 0x1000900, 3), True)


async def test_a_row_of_the_log_that_was_altered_counts_as_it_is_now(log):
    written = row("insert", "m1", 1, {"title": "secret"})
    await log.write([written])
    await log.erase(written)
    await log.store([written | {"data": {"title": "altered"}}])
    found = await history(log)
    assert [(entry.change.data, entry.offset) for entry in found.entries] == [({"title": "altered"}, 0)]
    assert found.erased == []


async def cut(log, offset):
    """As retention does: the partition of u1 begins at `offset` afterwards."""
    partition = partition_of(b"u1", log.settings.topic_partitions)
    where = TopicPartition(Topics(log.settings.topic_prefix).changes("ai"), partition)
    client = AIOKafkaAdminClient(bootstrap_servers=log.settings.require_kafka())
    await client.start()
    try:
        await client.delete_records({where: RecordsToDelete(before_offset=offset)})
    finally:
        await client.close()
