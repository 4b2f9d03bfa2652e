"""Topics: created with what the log needs, refused when they would lose records."""

from __future__ import annotations

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from projector.cdc.topics import check_topics, ensure_topics
from projector.errors import TopicSettingsError
from projector.log.topics import Topics


async def create_topic(settings, name: str, partitions: int, **configs: str) -> None:
    client = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await client.start()
    try:
        configs = {key.replace("_", "."): value for key, value in configs.items()}
        await client.create_topics([NewTopic(name, partitions, 1, topic_configs=configs)])
    finally:
        await client.close()


async def test_topics_are_created_once_with_what_the_log_needs(settings) -> None:
    topics = Topics(settings.topic_prefix)
    assert await ensure_topics(settings) == [*topics.all(settings.apps), topics.watermarks]
    assert await ensure_topics(settings) == []
    assert await check_topics(settings) == []


@pytest.mark.parametrize(
    ("partitions", "configs", "match", "remedy"),
    [
        (3, {}, "has 3 partitions", "PROJECTOR_TOPIC_PARTITIONS=3"),
        (4, {"retention_ms": "1000"}, "retention.ms=1000", "retention.ms=-1"),
        (4, {}, "retention.ms=604800000", "retention.ms=-1"),
        (4, {"retention_ms": "-1", "retention_bytes": "99999"}, "retention.bytes=99999", "retention.bytes=-1"),
        (4, {"retention_ms": "-1", "cleanup_policy": "compact"}, "cleanup.policy=compact", "cleanup.policy=delete"),
        (4, {"retention_ms": "-1"}, "max.message.bytes=1048588", "max.message.bytes=8388608"),
    ],
)
async def test_a_topic_that_would_lose_records_is_refused_by_name(
    settings, partitions: int, configs: dict[str, str], match: str, remedy: str
) -> None:
    topic = Topics(settings.topic_prefix).due
    await create_topic(settings, topic, partitions, **configs)
    with pytest.raises(TopicSettingsError, match=f"topic {topic} has") as caught:
        await ensure_topics(settings)
    findings = await check_topics(settings)
    assert any(match in finding.what and remedy in finding.remedy for finding in findings)
    # The tools of Kafka do nothing without it.
    commands = [finding.remedy for finding in findings if "kafka-" in finding.remedy]
    assert all(f"--bootstrap-server {settings.kafka_bootstrap_servers}" in command for command in commands)
    assert caught.value.message == findings[0].what
