"""Topics with the settings that the log needs: kept for ever, never compacted, large records allowed.

Nothing is created before all that exist have been looked at; nothing that exists is ever changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAlreadyExistsError, for_code

from projector.config import Settings
from projector.errors import Finding, TopicSettingsError
from projector.kafka import admin, refused_topics
from projector.log.topics import Topics
from projector.logging import get

_FOR_EVER: Final = "-1"
_NO_LIMIT: Final = str(2**63 - 1)

log = get("cdc")


def wanted_settings(settings: Settings) -> dict[str, str]:
    """The settings of a topic that is created here."""
    return {
        "cleanup.policy": "delete",
        "retention.ms": _FOR_EVER,
        "retention.bytes": _FOR_EVER,
        "max.message.bytes": str(settings.max_message_bytes),
        # The timestamp is the commit time, by the clock of the database: never a reason to refuse a record.
        "message.timestamp.type": "CreateTime",
        "message.timestamp.after.max.ms": _NO_LIMIT,
        "message.timestamp.before.max.ms": _NO_LIMIT,
        # A leader that lacks acknowledged records would lose them for all.
        "unclean.leader.election.enable": "false",
    }


def watermark_settings() -> dict[str, str]:
    """Of the watermark topic only the newest record matters: it is compacted, in small segments."""
    return {
        "cleanup.policy": "compact",
        "segment.bytes": str(16 * 1024 * 1024),
        "min.cleanable.dirty.ratio": "0.1",
        "message.timestamp.type": "CreateTime",
        "message.timestamp.after.max.ms": _NO_LIMIT,
        "message.timestamp.before.max.ms": _NO_LIMIT,
    }


async def ensure_topics(settings: Settings) -> list[str]:
    """Creates the topics that are missing and returns their names.

    Raises TopicSettingsError for the first topic that exists with settings under which the log would lose
    records, or a key its partition; BrokerUnavailableError when there is no broker.
    """
    async with admin(settings) as client:
        found, missing = await _inspect(client, settings)
        for finding in (finding for finding in found if finding.severity == "error"):
            raise TopicSettingsError(finding.what, finding.remedy)
        if missing:
            await _create(client, settings, missing)
            log.info("topics created", topics=missing, partitions=settings.topic_partitions)
        return missing


async def check_topics(settings: Settings) -> list[Finding]:
    """What is wrong with the topics that exist; those that do not are created at the start of the stream."""
    async with admin(settings) as client:
        found, _ = await _inspect(client, settings)
        return found


async def _inspect(client: AIOKafkaAdminClient, settings: Settings) -> tuple[list[Finding], list[str]]:
    topics = Topics(settings.topic_prefix)
    wanted = [*topics.all(settings.apps), topics.watermarks]
    existing = set(await client.list_topics())
    present = [topic for topic in wanted if topic in existing]
    missing = [topic for topic in wanted if topic not in existing]
    found: list[Finding] = []
    if present:
        partitions = {d["topic"]: len(d["partitions"]) for d in await client.describe_topics(present)}
        values = await _topic_settings(client, present)
        for topic in present:
            judge = _judge_watermarks if topic == topics.watermarks else _judge
            found += judge(topic, partitions[topic], values[topic], settings)
    return found, missing


async def _topic_settings(client: AIOKafkaAdminClient, topics: list[str]) -> dict[str, dict[str, str]]:
    asked = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
    result = {}
    for response in await client.describe_configs(asked):
        for code, message, _, name, entries in response.resources:
            if code:
                raise TopicSettingsError(f"cannot read the settings of topic {name}: {message or for_code(code)}")
            result[name] = {entry[0]: entry[1] for entry in entries}
    return result


def _change(topic: str, settings: Settings) -> str:
    return f"kafka-configs.sh {_brokers(settings)} --alter --entity-type topics --entity-name {topic} --add-config"


def _brokers(settings: Settings) -> str:
    """What the tools need to reach the cluster; how to log in there they read from a file of their own."""
    words = f"--bootstrap-server {settings.kafka_bootstrap_servers}"
    plain = settings.kafka_security_protocol == "PLAINTEXT"
    return words if plain else f"{words} --command-config client.properties"


def remake(settings: Settings, topic: str) -> str:
    """What mends a topic that cannot be altered back: keys stay where they are only while it keeps its partitions."""
    return (
        f"kafka-topics.sh {_brokers(settings)} --delete --topic {topic}; `projector run cdc` makes it anew with"
        " PROJECTOR_TOPIC_PARTITIONS partitions and publishes it out of the table"
    )


def _judge(topic: str, partitions: int, values: dict[str, str], settings: Settings) -> Iterator[Finding]:
    if partitions != settings.topic_partitions:
        yield Finding(
            "error",
            f"topic {topic} has {partitions} partitions, PROJECTOR_TOPIC_PARTITIONS says {settings.topic_partitions}",
            "a key must stay on its partition: with another count a user's changes lose their order",
            f"set PROJECTOR_TOPIC_PARTITIONS={partitions}; or, if the topic was altered: {remake(settings, topic)}",
        )
    change = _change(topic, settings)
    for name in ("retention.ms", "retention.bytes"):
        value = values.get(name, _FOR_EVER)
        if value != _FOR_EVER:
            yield Finding(
                "error",
                f"topic {topic} has {name}={value}",
                "records are lost after a while, and a view cannot be rebuilt from what is left",
                f"{change} {name}=-1",
            )
    if values.get("cleanup.policy", "delete") != "delete":
        yield Finding(
            "error",
            f"topic {topic} has cleanup.policy={values['cleanup.policy']}",
            "the key is the user, so of each user only the newest change would be kept",
            f"{change} cleanup.policy=delete",
        )
    limit = int(values.get("max.message.bytes", settings.max_message_bytes))
    if limit < settings.max_message_bytes:
        yield Finding(
            "error",
            f"topic {topic} has max.message.bytes={limit}, PROJECTOR_MAX_MESSAGE_BYTES says"
            f" {settings.max_message_bytes}",
            "the broker would refuse a large record, and the stream would stand still before it",
            f"{change} max.message.bytes={settings.max_message_bytes}",
        )
    if values.get("message.timestamp.type", "CreateTime") != "CreateTime":
        yield Finding(
            "error",
            f"topic {topic} has message.timestamp.type={values['message.timestamp.type']}",
            "the broker's time replaces the time of the commit",
            f"{change} message.timestamp.type=CreateTime",
        )


def _judge_watermarks(topic: str, partitions: int, values: dict[str, str], settings: Settings) -> Iterator[Finding]:
    if partitions != 1:
        yield Finding(
            "error",
            f"topic {topic} has {partitions} partitions instead of one",
            "the newest watermark must be the last record of one partition",
            f"kafka-topics.sh {_brokers(settings)} --delete --topic {topic}; the stream makes it anew",
        )
    if values.get("cleanup.policy") != "compact":
        yield Finding(
            "warning",
            f"topic {topic} has cleanup.policy={values.get('cleanup.policy')}",
            "it grows with every watermark, of which only the newest matters",
            f"{_change(topic, settings)} cleanup.policy=compact",
        )


async def _create(client: AIOKafkaAdminClient, settings: Settings, names: list[str]) -> None:
    watermarks = Topics(settings.topic_prefix).watermarks
    replicas = settings.topic_replication_factor
    response = await client.create_topics(
        [
            NewTopic(name, 1, replicas, topic_configs=watermark_settings())
            if name == watermarks
            else NewTopic(name, settings.topic_partitions, replicas, topic_configs=wanted_settings(settings))
            for name in names
        ]
    )
    for name, kind, why in refused_topics(response.topic_errors):
        # Another process may have been faster; it looks at the same settings.
        if kind is not TopicAlreadyExistsError:
            raise TopicSettingsError(f"cannot create topic {name}: {why}")
