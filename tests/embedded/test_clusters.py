"""The servers that tests of failover, restore and upgrade rely on are what they are called."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.fixtures.clusters import (
    Cluster,
    Standby,
    base_backup,
    dump_and_restore,
    file_copy,
    prepared_database,
    second_server,
    standby_of,
    until,
    url_at,
)

SLOT = "product"
OLDEST, NEWEST = 15, 18


def create_slot(cluster: Cluster) -> None:
    """A failover slot on the database `mana_sync`, on 18."""
    cluster.ask("select pg_create_logical_replication_slot(%s, 'pgoutput', failover => true)", (SLOT,), "mana_sync")


def write(cluster: Cluster, text: str) -> None:
    cluster.ask("create table if not exists kept (id int generated always as identity, value text)", (), "mana_sync")
    cluster.ask("insert into kept (value) values (%s)", (text,), "mana_sync")


def rows(cluster: Cluster) -> list[str]:
    return [value for (value,) in cluster.ask("select value from kept order by id", (), "mana_sync")]


def slots(cluster: Cluster) -> list[str]:
    return [name for (name,) in cluster.ask("select slot_name from pg_replication_slots where slot_type = 'logical'")]


def read_slot(cluster: Cluster) -> list[bytes]:
    """Reads the slot to its end, as the stream does; the inserted rows, as the protocol has them."""
    changes = cluster.ask(
        "select data from pg_logical_slot_get_binary_changes(%s, null, null,"
        " 'proto_version', '1', 'publication_names', 'kept')",
        (SLOT,),
        "mana_sync",
    )
    return [data for (data,) in changes if data[:1] == b"I"]


def publish(cluster: Cluster, standby: Standby) -> None:
    """A publication, and a slot that the standby has synchronised."""
    cluster.ask("create publication kept for all tables", (), "mana_sync")
    create_slot(cluster)

    def moves_on() -> str:
        # A slot that is never read stays behind what the standby still has, and is not kept there.
        cluster.ask("select pg_log_standby_snapshot()")
        read_slot(cluster)
        try:
            return standby.slot_synced(SLOT, timeout_s=0.5)
        except TimeoutError:
            return ""

    until(moves_on, "the slot to be synchronised")


def test_a_promoted_standby_goes_on_with_the_slot_of_its_killed_primary(tmp_path: Path) -> None:
    with (
        second_server(tmp_path / "primary", NEWEST) as primary,
        standby_of(primary, tmp_path / "standby") as standby,
    ):
        publish(primary, standby)
        write(primary, "before the kill")
        standby.caught_up()
        either = url_at(primary.admin_url, primary, standby)
        assert port_of_session(either) == primary.postgres.port
        assert (primary.timeline, primary.system_identifier) == (1, standby.system_identifier)
        primary.kill()
        standby.promote()
        assert standby.timeline == 2
        assert port_of_session(either) == standby.postgres.port
        write(standby, "after the promotion")
        first, second = read_slot(standby)
        assert b"before the kill" in first
        assert b"after the promotion" in second


def port_of_session(url: str) -> int:
    with psycopg.connect(url) as conn:
        return conn.info.port


def test_a_standby_of_an_older_version_follows_and_is_promoted(tmp_path: Path) -> None:
    with (
        second_server(tmp_path / "primary", OLDEST) as primary,
        standby_of(primary, tmp_path / "standby") as standby,
    ):
        write(primary, "kept")
        standby.caught_up()
        primary.kill()
        standby.promote()
        assert (standby.timeline, rows(standby)) == (2, ["kept"])


def test_logical_readers_wait_for_a_standby_that_is_away_until_they_are_released(tmp_path: Path) -> None:
    with second_server(tmp_path / "primary", NEWEST) as primary, standby_of(primary, tmp_path / "standby") as standby:
        publish(primary, standby)
        standby.stop()
        write(primary, "while it is away")
        primary.ask("alter role postgres set statement_timeout = '500ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            read_slot(primary)
        standby.release_primary()
        assert b"while it is away" in until(lambda: read_slot(primary), "the row")[0]


def test_a_backup_comes_back_on_a_new_timeline_and_a_file_copy_on_the_same(tmp_path: Path) -> None:
    with second_server(tmp_path / "primary", NEWEST) as primary:
        create_slot(primary)
        write(primary, "kept")
        identifier = primary.system_identifier
        backup = base_backup(primary, tmp_path / "backup")
        primary.kill()
        copy = file_copy(primary, tmp_path / "copy")
        primary.start()
        write(primary, "lost")
        port = primary.postgres.port
    with backup as restored:
        assert (restored.system_identifier, restored.timeline, restored.postgres.port) == (identifier, 2, port)
        assert (rows(restored), slots(restored)) == (["kept"], [])
    with copy:
        assert (copy.system_identifier, copy.timeline, copy.postgres.port) == (identifier, 1, port)
        assert (rows(copy), slots(copy)) == (["kept"], [SLOT])


def test_a_database_moves_from_15_to_18_with_its_logins(tmp_path: Path) -> None:
    with second_server(tmp_path / "old", OLDEST) as old, second_server(tmp_path / "new", NEWEST) as new:
        database = prepared_database(old, "moved")
        [(ident,)] = old.ask(
            "insert into sync_changes (app_id, table_name, record_id, user_id, op, client_id)"
            " values ('ai', 'aiMissions', 'm1', 'anna', 'insert', 'phone') returning id::text",
            database="moved",
        )
        assert (old.version, new.version) == (OLDEST, NEWEST)
        assert old.system_identifier != new.system_identifier
        target = dump_and_restore(database.admin_url, new.admin_url, "moved")
        with psycopg.connect(target) as conn:
            assert (conn.info.port, conn.info.dbname) == (new.postgres.port, "moved")
        with psycopg.connect(url_at(database.logins.streams, new)) as conn:
            conn.execute("set role projector_cdc")
            assert conn.execute("select id::text from sync_changes").fetchall() == [(ident,)]
            assert conn.info.server_version // 10_000 == NEWEST
