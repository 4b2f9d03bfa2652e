"""PostgreSQL on loopback with logical decoding, its data in one directory."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event

import psycopg

from projector.embedded import ports, process
from projector.embedded.account import Account, unprivileged
from projector.embedded.postgres_binaries import find_binaries, major_version
from projector.embedded.process import Process
from projector.embedded.servers import create_database
from projector.errors import EmbeddedError, StateInUseError

DATABASE = "mana_sync"
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0
SETTINGS = {
    "listen_addresses": ports.LOOPBACK,
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_connections": "200",
    # A stream that stays away must not fill the disk.
    "max_slot_wal_keep_size": "4GB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class Postgres:
    """`directory` keeps its data, password and log; `port` None chooses a free one.

    `version` and `cache_dir` say which programs run it, as `find_binaries` has it; `settings` are added to SETTINGS.
    """

    def __init__(
        self,
        directory: Path,
        report: Callable[[str], None],
        port: int | None = None,
        account: Account | None = None,
        *,
        version: int | None = None,
        cache_dir: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.data = directory.absolute() / "data"
        self.log_file = directory.absolute() / "postgres.log"
        self.report = report
        self.wanted_port = port
        self.account = account
        self.version = version
        self.cache_dir = cache_dir
        self.settings = settings or {}
        self.port = 0
        self.process: Process | None = None

    def url(self, database: str = DATABASE) -> str:
        """Connection URL of the superuser."""
        return f"postgresql://postgres:{self._password()}@{ports.LOOPBACK}:{self.port}/{database}"

    def start(self, halt: Event, hold: tuple[int, ...] = ()) -> None:
        """Returns when the database `mana_sync` is there. Raises EmbeddedError or Halted; then nothing runs."""
        self.directory.mkdir(parents=True, exist_ok=True)
        bindir = find_binaries(self.version, self.cache_dir, self.report, halt)
        major = major_version(bindir)
        account = self.account or unprivileged()
        if not self.data.exists():
            self._initdb(bindir, account, halt, hold)
        made_by = (self.data / "PG_VERSION").read_text("ascii").strip()
        if made_by != str(major):
            raise EmbeddedError(
                f"{self.data} was made by PostgreSQL {made_by}, the programs in {bindir} are {major}",
                f"Set PROJECTOR_PG_VERSION={made_by} or PROJECTOR_PG_BINDIR, or use `projector dev --reset`.",
            )
        account.own(self.data)
        self._clear_stale_pid()
        self.process = process.start_server(
            lambda: self._launch(bindir, account, hold), lambda: _accepts(self.url("postgres")), halt, START_TIMEOUT_S
        )
        try:
            create_database(self.url("postgres"), DATABASE)
        except psycopg.Error as error:
            failure = self.process.failure(f"cannot create the database {DATABASE}: {error}")
            self.stop()
            raise failure from error

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop(STOP_TIMEOUT_S)
            self.process = None

    def _launch(self, bindir: Path, account: Account, hold: tuple[int, ...]) -> Process:
        self.port = ports.choose(self.wanted_port, "PROJECTOR_POSTGRES_PORT", self.directory / "port")
        values = {**SETTINGS, **self.settings, "port": str(self.port)}
        options = [f"--{name}={value}" for name, value in values.items()]
        return self._run("PostgreSQL", [*account.prefix, bindir / "postgres", "-D", self.data, *options], hold)

    def _initdb(self, bindir: Path, account: Account, halt: Event, hold: tuple[int, ...]) -> None:
        """Makes the data directory, under another name until it is whole."""
        new = self.data.with_name("data.new")
        shutil.rmtree(new, ignore_errors=True)
        password = self.directory.absolute() / "password"
        with open(password, "w", encoding="ascii", opener=_private) as file:
            file.write(secrets.token_urlsafe(24))
        words = "-N -U postgres -E UTF8 --locale=C --auth=scram-sha-256"
        argv: list[str | Path] = [*account.prefix, bindir / "initdb", "-D", new, f"--pwfile={password}", *words.split()]
        process.run_to_end(self._run("PostgreSQL's initdb", argv, hold), halt)
        new.rename(self.data)

    def _password(self) -> str:
        file = self.directory / "password"
        if not file.exists():
            raise EmbeddedError(f"{file}, the password of the data beside it, is gone")
        return file.read_text("ascii")

    def _clear_stale_pid(self) -> None:
        """Removes the pid file of a server that was killed: another program may have its number by now."""
        file = self.data / "postmaster.pid"
        if not file.exists():
            return
        pid = file.read_text().split("\n", 1)[0].strip()
        # A running server's working directory is its data directory, and may be read by who started it.
        if pid.isdigit() and _working_directory(pid) == os.path.realpath(self.data):
            raise StateInUseError(f"a PostgreSQL that this stack did not start (process {pid}) runs on {self.data}")
        file.unlink()

    def _run(self, name: str, argv: list[str | Path], hold: tuple[int, ...]) -> Process:
        # PGPORT and the like are meant for clients, PGDATA for other servers.
        env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        env["LC_ALL"] = "C"
        # SIGINT is a fast shutdown: sessions are ended, not waited for.
        return process.start(
            name, argv, log_file=self.log_file, env=env, cwd=self.directory, stop_signal=signal.SIGINT, hold=hold
        )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _accepts(url: str) -> bool:
    """Whether a session can be had; while the server starts or recovers it says no."""
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def _working_directory(pid: str) -> str:
    """'' for a process that is gone, or another account's."""
    try:
        return str(Path(f"/proc/{pid}/cwd").readlink())
    except OSError:
        return ""
