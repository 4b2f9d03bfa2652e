"""Apache Kafka in KRaft mode: one node that is broker and controller, on loopback, with its data in one directory."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from threading import Event

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from projector.embedded import ports, process
from projector.embedded.jars import kafka_jars
from projector.embedded.java import find_java
from projector.embedded.process import Process
from projector.errors import EmbeddedError

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0
# A small heap, one collector thread and the quick compiler: it shares a laptop with everything else.
JVM_FLAGS = (
    "-Xmx768m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Djava.io.tmpdir=tmp",
    "-Dlog4j2.configurationFile=log4j2.properties",
)

# Paths are relative to the working directory: in a properties file they would need escapes, and a comma ends one.
SERVER_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
inter.broker.listener.name=BROKER
listeners=BROKER://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=BROKER://127.0.0.1:{broker}
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={log_dir}
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4
log.cleaner.dedupe.buffer.size=16777216
num.network.threads=2
num.io.threads=4
"""

LOG4J_PROPERTIES = """\
status=error
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %m (%c{1})%n%throwable
rootLogger.level=warn
rootLogger.appenderRef.out.ref=out
"""

# Starts a Java command: the name that people call it, then the main class and its arguments.
Run = Callable[..., Process]


class Kafka:
    """`directory` keeps its data, settings and log; `broker_port` None chooses a free port.

    `properties` are lines after those of SERVER_PROPERTIES, of which the last to name a property holds, and
    `format_options` are arguments for the storage tool: for listeners and users of one's own.
    """

    def __init__(
        self,
        directory: Path,
        cache_dir: Path,
        report: Callable[[str], None],
        broker_port: int | None = None,
        *,
        properties: str = "",
        format_options: tuple[str, ...] = (),
    ) -> None:
        self.directory = directory
        self.cache_dir = cache_dir
        self.report = report
        self.wanted_port = broker_port
        self.properties = properties
        self.format_options = format_options
        self.port = 0
        self.process: Process | None = None

    def start(self, halt: Event, hold: tuple[int, ...] = ()) -> None:
        """Returns when it serves. Raises EmbeddedError or a subclass, or Halted; then nothing runs."""
        self.directory.mkdir(parents=True, exist_ok=True)
        java = find_java()
        # In the environment rather than in the command: it is long, and people look at lists of processes.
        env = {**os.environ, "CLASSPATH": self._classpath(halt)}

        def run(name: str, *arguments: str) -> Process:
            argv: list[str | Path] = [java, *JVM_FLAGS, *arguments]
            log_file = self.directory.absolute() / "kafka.log"
            return process.start(name, argv, log_file=log_file, env=env, cwd=self.directory, hold=hold)

        (self.directory / "log4j2.properties").write_text(LOG4J_PROPERTIES, "ascii")
        # Native libraries of compressors are unpacked here; a killed process leaves them behind.
        shutil.rmtree(self.directory / "tmp", ignore_errors=True)
        (self.directory / "tmp").mkdir()
        self._format(run, halt)
        self.process = process.start_server(
            lambda: self._launch(run), lambda: _serves(self.port), halt, START_TIMEOUT_S
        )

    @property
    def bootstrap_servers(self) -> str:
        return f"{ports.LOOPBACK}:{self.port}"

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop(STOP_TIMEOUT_S)
            self.process = None

    def _classpath(self, halt: Event) -> str:
        if home := os.environ.get("KAFKA_HOME"):
            if not list(Path(home, "libs").glob("kafka_2.13-*.jar")):
                raise EmbeddedError(
                    f"KAFKA_HOME={home} holds no libs/kafka_2.13-*.jar", "Set it to an unpacked Kafka 4."
                )
            return str(Path(home).absolute() / "libs" / "*")
        return os.pathsep.join(str(jar) for jar in kafka_jars(self.cache_dir.absolute(), self.report, halt))

    def _format(self, run: Run, halt: Event) -> None:
        """Makes the empty data directory, under another name until it is whole."""
        if (self.directory / "log").exists():
            return
        shutil.rmtree(self.directory / "log.new", ignore_errors=True)
        self._write_settings(9092, 9093, log_dir="log.new")
        tool = (
            "kafka.tools.StorageTool",
            "format",
            "-t",
            _cluster_id(),
            "-c",
            "server.properties",
            *self.format_options,
        )
        process.run_to_end(run("Kafka's storage tool", *tool), halt)
        (self.directory / "log.new").rename(self.directory / "log")

    def _launch(self, run: Run) -> Process:
        self.port = ports.choose(self.wanted_port, "PROJECTOR_KAFKA_PORT", self.directory / "broker.port")
        controller = ports.choose(None, "", self.directory / "controller.port", other_than=self.port)
        self._write_settings(self.port, controller, log_dir="log")
        return run("Kafka", "kafka.Kafka", "server.properties")

    def _write_settings(self, broker: int, controller: int, log_dir: str) -> None:
        text = (SERVER_PROPERTIES + self.properties).format(broker=broker, controller=controller, log_dir=log_dir)
        (self.directory / "server.properties").write_text(text, "ascii")


def _cluster_id() -> str:
    """A random id as Kafka writes them: 22 characters, and no leading dash, which would look like an option."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def _serves(port: int) -> bool:
    """Whether the broker is registered, so that it shows itself in the metadata that it gives out."""
    if not ports.answers(port):
        return False

    async def ask() -> bool:
        client = AIOKafkaClient(bootstrap_servers=f"{ports.LOOPBACK}:{port}")
        try:
            await client.bootstrap()
            return bool(client.cluster.brokers())
        except KafkaError:
            return False
        finally:
            await client.close()

    return asyncio.run(ask())
