"""The cases in which the reference tests its own merge, of agents (six) and of missions (six), on the one fold."""

from __future__ import annotations

import pytest

from tests.fold.rows import at, delete, fields, insert, record, update

AGENT = {"name": "Cashflow Watcher", "role": "old role", "state": "active", "maxConcurrentMissions": 1}
MISSION = {"title": "old", "state": "active", "nextRunAt": at(0)}


def test_agents_1_without_rows_there_is_no_agent():
    assert not record().complete


def test_agents_2_an_insert_is_shown_as_given():
    assert fields(insert(0, AGENT)) == AGENT


def test_agents_3_a_newer_role_wins_and_the_name_stays():
    rows = [insert(0, AGENT, dict.fromkeys(AGENT, at(0))), update(12, {"role": "new role"})]
    assert fields(*rows) == AGENT | {"role": "new role"}


def test_agents_4_an_older_stamp_in_a_later_row_loses():
    assert fields(insert(12, {"name": "A"}, {"name": at(12)}), update(20, {"name": "B"}, at(0))) == {"name": "A"}


@pytest.mark.parametrize("kind", ["agents", "missions"])
def test_agents_5_and_missions_4_what_was_inserted_and_then_deleted_is_gone(kind):
    assert record(insert(0, AGENT if kind == "agents" else MISSION), delete(1)).deleted


def test_agents_6_an_insert_that_is_deleted_already_is_gone():
    assert record(insert(0, AGENT | {"deletedAt": at(0)})).deleted


def test_missions_1_an_active_one_shows_its_title_and_its_time():
    shown = record(insert(0, MISSION))
    assert (shown.complete, shown.deleted, shown.fields) == (True, False, MISSION)


def test_missions_5_a_second_insert_with_a_newer_title_wins():
    stamps = dict.fromkeys(MISSION, at(0))
    assert fields(insert(0, MISSION, stamps), insert(5, {"title": "new"}, {"title": at(3)})) == MISSION | {
        "title": "new"
    }
