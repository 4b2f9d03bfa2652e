"""A Kafka with the listeners of production beside its plain one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from projector.config import Settings
from projector.embedded import ports
from projector.embedded.kafka import Kafka
from tests.connections.certificates import Authority

USER, PASSWORD = "projector", "a secret of Kafka's"
# Every listener takes all that its name says; SCRAM users are written when the storage is formatted.
LISTENERS = {"SCRAM": "SASL_SSL", "CLEAR": "SASL_PLAINTEXT", "MUTUAL": "SSL"}
_PLAIN_LOGIN = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
_SCRAM_LOGIN = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


@dataclass(frozen=True, slots=True)
class SecureKafka:
    """`port` is by listener; `authority` signed the broker's certificate, and those that MUTUAL accepts."""

    server: Kafka
    port: dict[str, int]
    authority: Authority

    def settings(self, base: Settings, listener: str, **changes: object) -> Settings:
        """`base` with the connection to a listener, as far as it is the same for all who use it."""
        protocol = LISTENERS[listener]
        connection: dict[str, object] = {
            "kafka_bootstrap_servers": f"{ports.LOOPBACK}:{self.port[listener]}",
            "kafka_security_protocol": protocol,
        }
        if protocol.endswith("SSL"):
            connection["kafka_ssl_cafile"] = str(self.authority.file)
        if protocol.startswith("SASL"):
            connection |= {
                "kafka_sasl_mechanism": "SCRAM-SHA-512" if listener == "SCRAM" else "PLAIN",
                "kafka_sasl_username": USER,
                "kafka_sasl_password": SecretStr(PASSWORD),
            }
        # Made anew rather than copied, so that it is validated.
        return Settings(**dict(base) | connection | changes)


def secure_kafka(directory: Path, cache_dir: Path) -> SecureKafka:
    """Not yet started."""
    authority = Authority(directory / "authority")
    certificate, key = authority.issue("broker")
    (directory / "keystore.pem").write_bytes(key.read_bytes() + certificate.read_bytes())
    port = {listener: ports.free_port() for listener in LISTENERS}
    addresses = "".join(f",{listener}://127.0.0.1:{number}" for listener, number in port.items())
    protocols = "".join(f",{listener}:{protocol}" for listener, protocol in LISTENERS.items())
    lines = [
        "listeners=BROKER://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}" + addresses,
        "advertised.listeners=BROKER://127.0.0.1:{broker}" + addresses,
        "listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT" + protocols,
        "ssl.keystore.type=PEM",
        f"ssl.keystore.location={directory / 'keystore.pem'}",
        "ssl.truststore.type=PEM",
        f"ssl.truststore.location={authority.file}",
        "listener.name.mutual.ssl.client.auth=required",
        "listener.name.scram.sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512,PLAIN",
        f"listener.name.scram.scram-sha-256.sasl.jaas.config={_SCRAM_LOGIN}",
        f"listener.name.scram.scram-sha-512.sasl.jaas.config={_SCRAM_LOGIN}",
        f"listener.name.scram.plain.sasl.jaas.config={_PLAIN_LOGIN}",
        "listener.name.clear.sasl.enabled.mechanisms=PLAIN",
        f"listener.name.clear.plain.sasl.jaas.config={_PLAIN_LOGIN}",
    ]
    users = [f"SCRAM-SHA-{bits}=[name={USER},password={PASSWORD}]" for bits in (256, 512)]
    server = Kafka(
        directory / "kafka",
        cache_dir,
        lambda line: None,
        properties="\n".join(lines) + "\n",
        format_options=tuple(word for user in users for word in ("--add-scram", user)),
    )
    return SecureKafka(server, port, authority)
