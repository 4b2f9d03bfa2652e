"""Every client of ours through every way into a real broker, and what it says when it is turned away."""

from __future__ import annotations

import asyncio
import uuid

import orjson
import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic
from pydantic import SecretStr

from projector.cdc.topics import ensure_topics
from projector.config import Settings
from projector.embedded import ports
from projector.errors import BrokerRefusedError, BrokerUnavailableError, ConfigError
from projector.kafka import admin, client_options
from projector.log.topics import Topics
from projector.views import kafka as views
from streams import cdc
from streams.app import make_app, on_announcement, serve
from tests.cdc.support import insert, running
from tests.connections.certificates import Authority
from tests.connections.kafka_servers import PASSWORD, USER, SecureKafka

pytestmark = pytest.mark.usefixtures("hung_up")
NO_SERVER = Settings(topic_prefix="connections")


async def _read_one(settings: Settings, topic: str) -> list[bytes]:
    """The values in the topic, as soon as there is one."""
    async with asyncio.timeout(20), AIOKafkaConsumer(**client_options(settings)) as consumer:
        consumer.assign([TopicPartition(topic, number) for number in range(settings.topic_partitions)])
        await consumer.seek_to_beginning()
        while not (found := await consumer.getmany(timeout_ms=500)):
            pass
        return [record.value for records in found.values() for record in records]


async def _topic(settings: Settings) -> str:
    name = f"topic-{uuid.uuid4()}"
    async with admin(settings) as client:
        await client.create_topics([NewTopic(name, settings.topic_partitions, 1)])
    return name


async def _round_trip(settings: Settings) -> bool:
    topic = await _topic(settings)
    async with AIOKafkaProducer(**client_options(settings), acks="all", enable_idempotence=True) as producer:
        await producer.send_and_wait(topic, b"sealed")
    return await _read_one(settings, topic) == [b"sealed"]


async def _refused(settings: Settings, *words: str) -> None:
    """The stream gives up at once, and its error holds the words and no secret."""
    with pytest.raises(BrokerRefusedError) as caught:
        await asyncio.wait_for(cdc.run(settings, asyncio.Event()), 15)
    for word in words:
        assert word in str(caught.value)
    secret = settings.kafka_sasl_password.get_secret_value()
    assert not secret or secret not in str(caught.value)


async def test_the_change_stream_publishes_over_tls_with_scram(kafka: SecureKafka, settings: Settings) -> None:
    settings = kafka.settings(settings, "SCRAM")
    async with running(settings):
        with psycopg.connect(settings.admin_url, autocommit=True) as conn:
            insert(conn, app_id="ai")
        [value] = await _read_one(settings, Topics(settings.topic_prefix).changes("ai"))
    assert b"Water the plants" in value


@pytest.mark.parametrize(
    ("listener", "changes"),
    [
        ("SCRAM", {"kafka_sasl_mechanism": "SCRAM-SHA-256"}),
        ("SCRAM", {"kafka_sasl_mechanism": "PLAIN"}),
        ("CLEAR", {}),
    ],
    ids=["SCRAM-SHA-256 over TLS", "PLAIN over TLS", "PLAIN without TLS"],
)
async def test_records_go_through_with_a_password(
    kafka: SecureKafka, listener: str, changes: dict[str, object]
) -> None:
    assert await _round_trip(kafka.settings(NO_SERVER, listener, **changes))


@pytest.mark.parametrize("key_password", ["", "a secret of the key's"], ids=["plain key", "encrypted key"])
async def test_records_go_through_with_a_client_certificate(kafka: SecureKafka, key_password: str) -> None:
    certificate, key = kafka.authority.issue(f"client-{uuid.uuid4()}", key_password)
    certified = kafka.settings(
        NO_SERVER,
        "MUTUAL",
        kafka_ssl_certfile=str(certificate),
        kafka_ssl_keyfile=str(key),
        kafka_ssl_keyfile_password=SecretStr(key_password),
    )
    assert await _round_trip(certified)


async def test_certificate_and_key_may_share_a_file(kafka: SecureKafka) -> None:
    certificate, key = kafka.authority.issue(f"client-{uuid.uuid4()}")
    certificate.write_bytes(key.read_bytes() + certificate.read_bytes())
    assert await _round_trip(kafka.settings(NO_SERVER, "MUTUAL", kafka_ssl_certfile=str(certificate)))


async def test_the_consumer_of_the_views_reads_over_tls_with_scram(kafka: SecureKafka) -> None:
    settings = kafka.settings(NO_SERVER, "SCRAM")
    topic = await _topic(settings)
    async with AIOKafkaProducer(**client_options(settings)) as producer:
        sent = await producer.send_and_wait(topic, b"seen")
    async with views.consumer(settings, group=f"group-{uuid.uuid4()}") as consumer:
        partition = TopicPartition(topic, sent.partition)
        consumer.assign([partition])
        consumer.seek(partition, sent.offset)
        assert (await asyncio.wait_for(consumer.getone(), 20)).value == b"seen"


@pytest.mark.parametrize("listener", ["SCRAM", "CLEAR", "MUTUAL"])
async def test_the_faust_application_gets_its_announcements(kafka: SecureKafka, listener: str) -> None:
    certificate, key = kafka.authority.issue(f"client-{uuid.uuid4()}")
    settings = kafka.settings(NO_SERVER, listener, topic_prefix=f"faust-{uuid.uuid4()}")
    if listener == "MUTUAL":
        settings = settings.model_copy(update={"kafka_ssl_certfile": str(certificate), "kafka_ssl_keyfile": str(key)})
    topic, run_id = await _topic(settings), uuid.uuid4()
    stop, heard = asyncio.Event(), []

    async def hear(run: uuid.UUID, user: str) -> None:
        heard.append((run, user))
        stop.set()

    app = make_app(settings, "planner")
    on_announcement(app, topic, hear)
    async with AIOKafkaProducer(**client_options(settings)) as producer:
        await producer.send_and_wait(topic, orjson.dumps({"run_id": str(run_id), "user_id": "anna"}))
    await asyncio.wait_for(serve(app, stop), 40)
    assert heard == [(run_id, "anna")]


async def test_a_wrong_password_names_the_settings_before_the_first_session(
    kafka: SecureKafka, settings: Settings
) -> None:
    for listener, mechanism in ("SCRAM", "SCRAM-SHA-512"), ("SCRAM", "PLAIN"), ("CLEAR", "PLAIN"):
        changes = {"kafka_sasl_password": SecretStr("wrong-word"), "kafka_sasl_mechanism": mechanism}
        wrong = kafka.settings(settings, listener, **changes)
        await _refused(wrong, "PROJECTOR_KAFKA_SASL_USERNAME", "PROJECTOR_KAFKA_SASL_PASSWORD", mechanism)


async def test_an_unknown_user_is_told_as_a_wrong_password_is(kafka: SecureKafka, settings: Settings) -> None:
    await _refused(kafka.settings(settings, "SCRAM", kafka_sasl_username="nobody"), "PROJECTOR_KAFKA_SASL_USERNAME")


async def test_a_mechanism_that_the_listener_lacks_is_named(kafka: SecureKafka, settings: Settings) -> None:
    lacking = kafka.settings(settings, "CLEAR", kafka_sasl_mechanism="SCRAM-SHA-512")
    await _refused(lacking, "PROJECTOR_KAFKA_SASL_MECHANISM=SCRAM-SHA-512")


async def test_a_broker_of_an_unknown_authority_is_not_trusted(
    kafka: SecureKafka, settings: Settings, tmp_path
) -> None:
    foreign = str(Authority(tmp_path / "foreign").file)
    for cafile in (foreign, ""):  # without a file: the authorities of the system
        await _refused(kafka.settings(settings, "SCRAM", kafka_ssl_cafile=cafile), "PROJECTOR_KAFKA_SSL_CAFILE")


async def test_a_broker_under_a_name_that_its_certificate_lacks_is_not_trusted(
    kafka: SecureKafka, settings: Settings
) -> None:
    address = f"localhost:{kafka.port['SCRAM']}"
    renamed = kafka.settings(settings, "SCRAM", kafka_bootstrap_servers=address)
    await _refused(renamed, "PROJECTOR_KAFKA_BOOTSTRAP_SERVERS", "localhost")


async def test_a_missing_or_foreign_client_certificate_names_the_settings(
    kafka: SecureKafka, settings: Settings, tmp_path
) -> None:
    await _refused(kafka.settings(settings, "MUTUAL"), "PROJECTOR_KAFKA_SSL_CERTFILE")
    certificate, key = Authority(tmp_path / "foreign").issue("client")
    files = {"kafka_ssl_certfile": str(certificate), "kafka_ssl_keyfile": str(key)}
    await _refused(kafka.settings(settings, "MUTUAL", **files), "PROJECTOR_KAFKA_SSL_CERTFILE")


@pytest.mark.parametrize("listener", ["SCRAM", "CLEAR", "MUTUAL"])
async def test_a_listener_of_another_protocol_is_told_from_an_absent_broker(
    kafka: SecureKafka, settings: Settings, listener: str
) -> None:
    address = f"{ports.LOOPBACK}:{kafka.port[listener]}"
    await _refused(
        settings.model_copy(update={"kafka_bootstrap_servers": address}), "PROJECTOR_KAFKA_SECURITY_PROTOCOL=PLAINTEXT"
    )
    if listener == "CLEAR":
        encrypted = kafka.settings(settings, "SCRAM", kafka_bootstrap_servers=address)
        await _refused(encrypted, "PROJECTOR_KAFKA_SECURITY_PROTOCOL=SASL_SSL")


async def test_an_absent_broker_is_not_blamed_on_the_password(kafka: SecureKafka, settings: Settings) -> None:
    absent = kafka.settings(settings, "SCRAM", kafka_bootstrap_servers="127.0.0.1:1")
    with pytest.raises(BrokerUnavailableError, match="PROJECTOR_KAFKA_BOOTSTRAP_SERVERS") as caught:
        await ensure_topics(absent)
    assert type(caught.value) is BrokerUnavailableError


async def test_a_broker_that_is_up_is_found_behind_one_that_refuses(kafka: SecureKafka) -> None:
    addresses = f"127.0.0.1:{kafka.port['MUTUAL']},127.0.0.1:{kafka.port['SCRAM']}"
    assert await _round_trip(kafka.settings(NO_SERVER, "SCRAM", kafka_bootstrap_servers=addresses))


def test_a_file_that_cannot_be_used_is_named_with_its_setting(kafka: SecureKafka, tmp_path) -> None:
    certificate, key = kafka.authority.issue("client-of-files", "a secret of the key's")
    text = tmp_path / "text.pem"
    text.write_text("not a certificate")
    usable = {"kafka_ssl_certfile": str(certificate), "kafka_ssl_keyfile": str(key)}
    for setting, value in [
        ("kafka_ssl_cafile", "/nowhere/ca.pem"),
        ("kafka_ssl_cafile", str(text)),
        ("kafka_ssl_certfile", "/nowhere/client.pem"),
        ("kafka_ssl_certfile", str(text)),
        ("kafka_ssl_keyfile", "/nowhere/client.key"),
        ("kafka_ssl_keyfile_password", SecretStr("wrong-word")),
        ("kafka_ssl_keyfile_password", SecretStr("")),
    ]:
        with pytest.raises(ConfigError, match=f"PROJECTOR_{setting.upper()}") as caught:
            client_options(kafka.settings(NO_SERVER, "MUTUAL", **usable | {setting: value}))
        assert "wrong-word" not in str(caught.value)


def test_the_options_are_those_of_the_settings(kafka: SecureKafka) -> None:
    options = client_options(kafka.settings(NO_SERVER, "CLEAR"))
    assert options == {
        "bootstrap_servers": f"127.0.0.1:{kafka.port['CLEAR']}",
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": USER,
        "sasl_plain_password": PASSWORD,
    }
