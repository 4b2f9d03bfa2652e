"""Devices against the real table, as the sync server's login, under its row-level security."""

from __future__ import annotations

import psycopg
import pytest

from projector.devices import AGENTS, MISSIONS, NOTES, Key, Replica, SyncServer, comparable, new_device_view
from projector.devices import server as server_module
from projector.fold import derive, fold

COLUMNS = "op, data, field_meta, client_id, schema_version, actor, origin, space_id, created_at <= now()"


@pytest.fixture
def server(database):
    with SyncServer(database.logins.sync) as opened:
        yield opened


def rows(database, query: str):
    with psycopg.connect(database.admin_url, autocommit=True) as admin:
        return admin.execute(query).fetchall()


def test_a_push_stores_rows_as_the_sync_server_does(database, server):
    phone = Replica("u1", client_id="phone", space_id="s1")
    phone.create(MISSIONS, {"title": "a", "cadence": {"atHour": 9}}, "m1")
    phone.edit(MISSIONS, "m1", {"cadence.atHour": None})
    assert server.push(phone) == 2
    assert server.push(phone) == 0
    inserted, updated = rows(database, f"select {COLUMNS} from sync_changes order by created_at")  # noqa: S608
    actor = {"kind": "user", "principalId": "u1", "displayName": "Du"}
    assert inserted[0] == "insert"
    assert inserted[1] == phone.record(MISSIONS, "m1") | {"cadence": {"atHour": 9}}
    assert inserted[2:] == ({}, "phone", 1, actor, None, "s1", True)
    assert updated[:2] == ("update", {"cadence.atHour": None})
    assert list(updated[2]) == ["cadence.atHour"]
    assert rows(database, "select count(distinct (created_at, xmin::text)) from sync_changes") == [(2,)]


def test_devices_of_one_user_converge_and_a_strange_user_sees_nothing(server):
    phone, laptop = Replica("u1", client_id="phone"), Replica("u1", client_id="laptop")
    stranger = Replica("u2", client_id="stranger")
    phone.create(MISSIONS, {"title": "a", "cadence": {"atHour": 9}}, "m1")
    phone.create(NOTES, {"title": "note"}, "n1")
    server.sync(phone, "ai", "notes")
    assert server.sync(laptop, "ai", "notes") == 2
    laptop.edit(MISSIONS, "m1", {"cadence.atHour": 7})
    laptop.delete(NOTES, "n1")
    server.sync(laptop, "ai", "notes")
    assert server.sync(phone, "ai", "notes") == 2
    assert server.sync(stranger, "ai", "notes") == 0
    assert phone.record(MISSIONS, "m1") == laptop.record(MISSIONS, "m1")
    assert phone.record(MISSIONS, "m1")["cadence"] == {"atHour": 7}
    assert phone.record(NOTES, "n1")["deletedAt"]
    assert stranger.records() == {}


def test_a_lost_answer_repeats_the_batch_and_changes_nothing(database, server):
    phone, laptop = Replica("u1"), Replica("u1")
    phone.create(AGENTS, {"name": "Mana"}, "legacy:ai-default")
    assert server.push(phone, lose_answer=True) == server.push(phone) == 1
    assert server.pull(laptop, "ai") == 2
    assert laptop.record(AGENTS, "legacy:ai-default") == phone.record(AGENTS, "legacy:ai-default")
    assert rows(database, "select count(*) from sync_changes") == [(2,)]


def test_rows_that_share_a_time_are_not_lost_at_the_edge_of_a_page(database, server, monkeypatch):
    monkeypatch.setattr(server_module, "PULL_PAGE", 3)
    with psycopg.connect(database.admin_url, autocommit=True) as admin:
        admin.execute(
            "insert into sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)"
            " select 'notes', 'notes', 'n' || n, 'u1', 'insert', '{\"title\": \"x\"}', 'tool'"
            " from generate_series(1, 10) n"
        )
    phone = Replica("u1")
    assert server.pull(phone, "notes") == 10
    assert len(phone.records()) == 10
    assert server.pull(phone, "notes") == 0


def test_what_was_pulled_is_what_the_fold_and_the_oracle_make_of_the_same_rows(server):
    phone, laptop, new = Replica("u1"), Replica("u1"), Replica("u1")
    phone.create(MISSIONS, {"title": "a", "inputs": [], "grant": None, "weight": 1.0}, "m1")
    server.sync(phone, "ai")
    server.sync(laptop, "ai")
    laptop.edit(MISSIONS, "m1", {"grant": {"wrappedKey": "k", "derivation": {"recordIds": ["n1"]}}})
    server.sync(laptop, "ai")
    phone.edit(MISSIONS, "m1", {"title": "b"})
    server.sync(phone, "ai")
    pulled = []
    new.apply = pulled.append
    server.pull(new, "ai")
    key = Key("ai", "aiMissions", "m1")
    assert comparable(derive(fold(pulled)).fields) == comparable(new_device_view(pulled)[key])
    assert comparable(derive(fold(pulled)).fields)["title"] == "b"


def test_nobody_pushes_in_the_name_of_nobody(server):
    phone = Replica("", client_id="phone")
    phone.create(NOTES, {})
    with pytest.raises(ValueError, match="user"):
        server.push(phone)


def test_it_is_used_as_a_context_manager(database):
    with pytest.raises(RuntimeError, match="context manager"):
        SyncServer(database.logins.sync).push(_with_a_note())


def _with_a_note() -> Replica:
    device = Replica("u1")
    device.create(NOTES, {})
    return device
