"""The embedded servers are real, keep their data, and end with whoever started them."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import stat
import threading
from pathlib import Path

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from projector.embedded import ports
from projector.embedded.account import Account, by_namespace, by_uid, unprivileged
from projector.embedded.guard import children_of
from projector.embedded.locks import StateLock
from projector.embedded.postgres import Postgres
from projector.embedded.postgres_binaries import find_binaries, major_version
from projector.embedded.stack import Stack
from projector.errors import EmbeddedError, PortTakenError, StateInUseError
from tests.embedded.conftest import alive, descendants, eventually

OWNER = """
import sys, time
from pathlib import Path
from projector.embedded.stack import Stack
stack = Stack(Path(sys.argv[1]), Path(sys.argv[2]))
stack.start()
print(stack.admin_url, stack.bootstrap_servers, flush=True)
time.sleep(120)
"""

ACCOUNTS = [by_namespace(), by_uid()] if os.geteuid() == 0 else [unprivileged()]
ACCOUNTS = [account for account in ACCOUNTS if account.works()]


async def _write(bootstrap_servers: str, value: bytes) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    try:
        if "kept" not in await admin.list_topics():
            await admin.create_topics([NewTopic("kept", 1, 1)])
    finally:
        await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=bootstrap_servers, enable_idempotence=True) as producer:
        await producer.send_and_wait("kept", value, partition=0)


async def _read(bootstrap_servers: str, expected: int) -> list[bytes | None]:
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap_servers, auto_offset_reset="earliest") as consumer:
        consumer.assign([TopicPartition("kept", 0)])
        async with asyncio.timeout(15):
            return [(await consumer.getone()).value for _ in range(expected)]


def write(admin_url: str, bootstrap_servers: str, text: str) -> None:
    with psycopg.connect(admin_url) as conn:
        conn.execute("create table if not exists kept (id int generated always as identity, value text)")
        conn.execute("insert into kept (value) values (%s)", [text])
    asyncio.run(_write(bootstrap_servers, text.encode()))


def read(admin_url: str, bootstrap_servers: str, expected: int) -> tuple[list[str], list[str]]:
    with psycopg.connect(admin_url) as conn:
        rows = [value for (value,) in conn.execute("select value from kept order by id")]
    records = asyncio.run(_read(bootstrap_servers, expected))
    return rows, [(value or b"").decode() for value in records]


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2].partition("/")[0])


def test_data_survive_sigkill_of_the_owner_and_other_ports_and_nothing_else_does(tmp_path, cache_dir, run_python):
    state = tmp_path / "state"
    owner, line = run_python(OWNER, state, cache_dir)
    admin_url, brokers = line.split()
    write(admin_url, brokers, "before the kill")

    # A second stack on the same directory is refused while the first lives.
    with pytest.raises(StateInUseError, match=rf"state is in use by another stack \(process {owner.pid}\)"):
        Stack(state, cache_dir).start()

    below = descendants(owner.pid)
    owner.kill()
    # Started again at once, it waits for the servers of the dead one instead of refusing.
    with Stack(state, cache_dir) as stack:
        assert not any(map(alive, below))
        assert read(stack.admin_url, stack.bootstrap_servers, 1) == (["before the kill"],) * 2
        write(stack.admin_url, stack.bootstrap_servers, "before the stop")
        assert (stack.admin_url, stack.bootstrap_servers) == (admin_url, brokers)  # same ports where they are free

    for file in ("kafka/broker.port", "kafka/controller.port"):
        (state / file).unlink()
    with socket.create_server((ports.LOOPBACK, port_of(admin_url))):
        owner, line = run_python(OWNER, state, cache_dir)
    assert line.split()[0] != admin_url
    assert line.split()[1] != brokers
    assert read(*line.split(), 2) == (["before the kill", "before the stop"],) * 2

    below = descendants(owner.pid)
    assert len(below) >= 4  # two guards, a JVM, a postmaster and its own children
    owner.kill()
    assert eventually(lambda: not any(map(alive, below)))
    assert not any(ports.answers(port_of(address)) for address in line.split())


def test_two_stacks_side_by_side_do_not_disturb_each_other(tmp_path, cache_dir):
    stacks = [Stack(tmp_path / name, cache_dir) for name in ("one", "two")]
    threads = [threading.Thread(target=stack.start) for stack in stacks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        for stack in stacks:
            write(stack.admin_url, stack.bootstrap_servers, f"for {stack.state_dir.name}")
        stacks[0].stop()
        assert read(stacks[1].admin_url, stacks[1].bootstrap_servers, 1) == (["for two"],) * 2
        check_settings(stacks[1])
    finally:
        for stack in stacks:
            stack.stop()


def check_settings(stack: Stack) -> None:
    """What everybody who uses a stack relies on."""
    with psycopg.connect(stack.admin_url) as conn:
        names = "wal_level, fsync, synchronous_commit, max_wal_senders, max_replication_slots, server_encoding"
        row = [conn.execute(f"show {name}").fetchone() for name in names.split(", ")]
        assert row == [("logical",), ("on",), ("on",), ("20",), ("20",), ("UTF8",)]
        assert conn.info.dbname == "mana_sync"
    password = stack.state_dir / "postgres" / "password"
    assert stat.S_IMODE(password.stat().st_mode) == 0o600
    assert stat.S_IMODE(stack.state_dir.stat().st_mode) == 0o700
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(stack.admin_url.replace(password.read_text(), "another"))
    # Bound to 127.0.0.1 alone, they are deaf even to other addresses of loopback.
    for address in (stack.admin_url, stack.bootstrap_servers):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port_of(address)))
    url = stack.create_database("another")
    assert stack.create_database("another") == url
    with psycopg.connect(url) as conn:
        assert conn.info.dbname == "another"


@pytest.mark.parametrize("part", ["postgres", "kafka"])
def test_a_port_that_was_asked_for_and_is_taken_names_its_setting(tmp_path, cache_dir, part):
    with socket.create_server((ports.LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
        stack = Stack(tmp_path / "state", cache_dir, **{f"{part}_port": port})
        with pytest.raises(PortTakenError, match=f"PROJECTOR_{part.upper()}_PORT: port {port} on 127.0.0.1 is taken"):
            stack.start()
    nothing_is_left(stack)


def test_a_start_that_fails_names_the_part_and_shows_its_last_log_lines(tmp_path, cache_dir):
    stack = Stack(tmp_path / "state", cache_dir)
    data = tmp_path / "state" / "postgres" / "data"
    data.mkdir(parents=True, mode=0o700)
    (data.parent / "password").write_text("secret")
    (data / "PG_VERSION").write_text(f"{major_version(find_binaries())}\n")
    with pytest.raises(EmbeddedError) as caught:
        stack.start()
    assert caught.value.message.startswith("PostgreSQL did not start (exit status 2); end of")
    assert f"{data}/postgresql.conf" in caught.value.message
    assert "projector dev --reset" in caught.value.remedy
    nothing_is_left(stack)

    shutil.rmtree(data)
    log = tmp_path / "state" / "kafka" / "log"
    log.mkdir(parents=True, exist_ok=True)
    (log / "meta.properties").write_text("version=1\ncluster.id=other\nnode.id=7\n")
    with pytest.raises(EmbeddedError) as caught:
        stack.start()
    assert caught.value.message.startswith("Kafka did not start (exit status 1); end of")
    assert "Stored node id 7 doesn't match" in caught.value.message
    nothing_is_left(stack)


def nothing_is_left(stack: Stack) -> None:
    """No guard of its servers runs, and its directory may be used."""
    guards = [pid for pid in children_of(os.getpid()) if "guard.py" in Path(f"/proc/{pid}/cmdline").read_text()]
    assert not [pid for pid in guards if os.path.realpath(f"/proc/{pid}/cwd").startswith(str(stack.state_dir))]
    StateLock(stack.state_dir).release()


@pytest.mark.parametrize("account", ACCOUNTS, ids=lambda account: account.prefix[0] if account.prefix else "direct")
def test_postgres_runs_as_another_user_than_root_in_a_folder_that_only_root_may_enter(tmp_path, account):
    run_and_check(tmp_path, account)


def test_data_made_as_one_user_are_handed_over_to_another(tmp_path):
    for account in (*ACCOUNTS, ACCOUNTS[0]):
        run_and_check(tmp_path, account)


def run_and_check(tmp_path: Path, account: Account) -> None:
    (tmp_path / "private").mkdir(mode=0o700, exist_ok=True)
    postgres = Postgres(tmp_path / "private" / "postgres", print, account=account)
    postgres.start(threading.Event())
    try:
        assert postgres.process is not None
        with psycopg.connect(postgres.url()) as conn:
            assert conn.execute("select 1").fetchone() == (1,)
        assert postgres.data.stat().st_uid == account.uid
    finally:
        postgres.stop()


def test_the_pid_file_of_a_killed_server_is_no_obstacle_even_when_another_program_has_its_number(tmp_path):
    postgres = Postgres(tmp_path / "postgres", print, account=ACCOUNTS[0])
    postgres.start(threading.Event())
    assert postgres.process is not None
    postgres.process.kill()
    pid_file = postgres.data / "postmaster.pid"
    _, *rest = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(os.getppid()), *rest]) + "\n")
    postgres.start(threading.Event())
    postgres.stop()


def test_a_server_that_somebody_else_started_on_the_data_is_left_alone(tmp_path):
    first = Postgres(tmp_path / "postgres", print, account=ACCOUNTS[0])
    first.start(threading.Event())
    try:
        with pytest.raises(StateInUseError, match=f"process {first.process and first.process.pid}"):
            Postgres(tmp_path / "postgres", print, account=ACCOUNTS[0]).start(threading.Event())
    finally:
        first.stop()


def test_programs_of_another_version_than_the_data_are_refused(tmp_path, monkeypatch):
    (tmp_path / "postgres" / "data").mkdir(parents=True)
    (tmp_path / "postgres" / "data" / "PG_VERSION").write_text("14\n")
    with pytest.raises(EmbeddedError, match=r"made by PostgreSQL 14, .*PROJECTOR_PG_BINDIR"):
        Postgres(tmp_path / "postgres", print).start(threading.Event())
    monkeypatch.setenv("PROJECTOR_PG_BINDIR", str(tmp_path))
    with pytest.raises(EmbeddedError, match=f"PROJECTOR_PG_BINDIR has no initdb in {tmp_path}"):
        Postgres(tmp_path / "postgres", print).start(threading.Event())


def test_a_kafka_home_without_kafka_is_named(tmp_path, cache_dir, monkeypatch):
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path))
    with pytest.raises(EmbeddedError, match=f"KAFKA_HOME={tmp_path} holds no libs/kafka_2.13"):
        Stack(tmp_path / "state", cache_dir).start()
