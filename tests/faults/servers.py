"""A PostgreSQL and a Kafka of one's own, to be stopped, killed and paused, each behind a proxy as well."""

from __future__ import annotations

import resource
import shutil
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from psycopg import conninfo

from projector.config import default_cache_dir
from projector.embedded import ports
from projector.embedded.kafka import Kafka
from projector.embedded.postgres import Postgres
from projector.embedded.process import Process
from tests.faults.postgres_proxy import PostgresProxy
from tests.faults.proxy import Proxy


class TwoDoorKafka(Kafka):
    """Listens on a second port too. Clients that enter there are sent to `proxy_port` for everything that follows."""

    proxy_port = 0
    second_port = 0

    def _write_settings(self, broker: int, controller: int, log_dir: str) -> None:
        super()._write_settings(broker, controller, log_dir)
        self.second_port = ports.choose(None, "", self.directory / "second.port")
        file = self.directory / "server.properties"
        more = {
            "listeners": f"SECOND://127.0.0.1:{self.second_port}",
            "advertised.listeners": f"SECOND://127.0.0.1:{self.proxy_port}",
            "listener.security.protocol.map": "SECOND:PLAINTEXT",
        }
        lines = []
        for line in file.read_text("ascii").splitlines():
            name = line.partition("=")[0]
            lines.append(f"{line},{more[name]}" if name in more else line)
        file.write_text("\n".join(lines) + "\n", "ascii")


class Servers:
    """`directory` holds data and logs. The harness goes in directly, the streams through the proxies."""

    def __init__(self, directory: Path, cache_dir: Path) -> None:
        self.directory = directory
        self.keep = False
        """Whether data and logs stay when all has ended."""
        self.postgres = Postgres(directory / "postgres", lambda line: None)
        self.kafka = TwoDoorKafka(directory / "kafka", cache_dir, lambda line: None)
        self.postgres_proxy = PostgresProxy(lambda: self.postgres.port)
        self.kafka_proxy = Proxy(lambda: self.kafka.second_port)
        self.kafka.proxy_port = self.kafka_proxy.port

    def start(self) -> None:
        with ThreadPoolExecutor(2) as pool:
            for job in [pool.submit(self.start_postgres), pool.submit(self.start_kafka)]:
                job.result()

    def stop(self) -> None:
        self.wake_kafka()
        self.kafka.stop()
        self.postgres.stop()
        self.postgres_proxy.close()
        self.kafka_proxy.close()

    @property
    def bootstrap_servers(self) -> str:
        return self.kafka.bootstrap_servers

    @property
    def proxied_bootstrap_servers(self) -> str:
        return f"{ports.LOOPBACK}:{self.kafka_proxy.port}"

    def proxied(self, url: str) -> str:
        """The same connection to Postgres, through the proxy. Without the question for TLS, all bytes are messages."""
        return conninfo.make_conninfo(url, port=self.postgres_proxy.port, sslmode="disable", gssencmode="disable")

    def start_postgres(self) -> None:
        self.postgres.start(Event())

    def kill_postgres(self) -> None:
        """SIGKILL for the postmaster and all its children."""
        _process(self.postgres).kill()
        self.postgres.process = None

    def start_kafka(self) -> None:
        self.kafka.start(Event())

    def kill_kafka(self) -> None:
        _process(self.kafka).kill()
        self.kafka.process = None

    def pause_kafka(self) -> None:
        _process(self.kafka).send(signal.SIGSTOP)

    def wake_kafka(self) -> None:
        if self.kafka.process is not None:
            self.kafka.process.send(signal.SIGCONT)

    def refuse_kafka_writes(self) -> None:
        """No file of the broker can grow beyond the size of the segment that it wrote last, as on a full disk."""
        # Not the largest of all: topics that were dropped leave large ones for a while, and nobody writes to these.
        segments = (self.kafka.directory / "log").rglob("*.log")
        full = max((file.stat() for file in segments), key=lambda stat: stat.st_mtime_ns).st_size
        resource.prlimit(_process(self.kafka).pid, resource.RLIMIT_FSIZE, (full, resource.RLIM_INFINITY))


def _process(server: Postgres | Kafka) -> Process:
    assert server.process is not None
    return server.process


@contextmanager
def serving(cache_dir: Path | None = None) -> Iterator[Servers]:
    """Servers in a new folder, which is kept when something goes wrong."""
    directory = Path(tempfile.mkdtemp(prefix="faults-"))
    servers = Servers(directory, cache_dir or default_cache_dir())
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()
    if not servers.keep:
        shutil.rmtree(directory)
