"""A PostgreSQL and a Kafka of one's own: real servers, started for this process and ended with it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Self

from projector.embedded.kafka import Kafka
from projector.embedded.locks import StateLock
from projector.embedded.postgres import Postgres
from projector.embedded.process import Halted
from projector.embedded.servers import Servers
from projector.errors import EmbeddedError


class Stack:
    """Both servers on loopback. Data stay in `state_dir`, and the next start continues on them.

    `cache_dir` keeps what is fetched once for all stacks of this user. `report` gets lines of progress, from any
    thread. Ports: None takes the one used before, or a free one.
    """

    def __init__(
        self,
        state_dir: Path,
        cache_dir: Path,
        report: Callable[[str], None] = lambda line: None,
        *,
        postgres_port: int | None = None,
        kafka_port: int | None = None,
    ) -> None:
        self.state_dir = state_dir
        self.report = report
        self.postgres = Postgres(state_dir / "postgres", report, postgres_port, cache_dir=cache_dir)
        self.kafka = Kafka(state_dir / "kafka", cache_dir, report, kafka_port)
        self._lock: StateLock | None = None

    @property
    def admin_url(self) -> str:
        """The superuser's connection to the database `mana_sync`."""
        return self.postgres.url()

    @property
    def bootstrap_servers(self) -> str:
        return self.kafka.bootstrap_servers

    @property
    def servers(self) -> Servers:
        return Servers(self.admin_url, self.bootstrap_servers)

    def create_database(self, name: str) -> str:
        """Creates an empty database unless it exists; returns the superuser's connection to it."""
        return self.servers.create_database(name)

    def start(self) -> None:
        """Starts both at once and returns when they serve.

        Raises StateInUseError, PortTakenError, FetchError, ChecksumError or another EmbeddedError; then nothing is left
        running.
        """
        try:
            self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = StateLock(self.state_dir)
        except OSError as error:
            raise EmbeddedError(
                f"cannot write to {self.state_dir}: {error.strerror}", "Choose another PROJECTOR_STATE_DIR."
            ) from error
        halt = Event()
        hold = (self._lock.guards,)
        parts = (self.postgres, self.kafka)
        with ThreadPoolExecutor(len(parts), thread_name_prefix="stack") as pool:
            jobs: list[Future[None]] = []
            try:
                jobs += [pool.submit(part.start, halt, hold) for part in parts]
                wait(jobs, return_when=FIRST_EXCEPTION)
                _raise_first(jobs)
            except BaseException:
                halt.set()
                wait(jobs)
                self.stop()
                raise

    def stop(self) -> None:
        """Ends both, Kafka and PostgreSQL at once; does nothing when they do not run."""
        with ThreadPoolExecutor(2) as pool:
            for job in [pool.submit(self.kafka.stop), pool.submit(self.postgres.stop)]:
                job.result()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _raise_first(jobs: list[Future[None]]) -> None:
    """Raises what went wrong, rather than that another part then gave up."""
    errors = [error for job in jobs if job.done() and (error := job.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, Halted)):
        if isinstance(error, OSError):
            raise EmbeddedError(f"cannot use {error.filename}: {error.strerror}") from error
        raise error
