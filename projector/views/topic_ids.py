"""The ids of topics: a topic that is deleted and made anew has another one, whatever its name and offsets say.

aiokafka asks in a version of the protocol that does not tell them, so the request is written out here: Metadata 10,
which brokers know from Kafka 2.8 on.
"""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from typing import Any
from uuid import UUID

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Schema, TaggedFields

from projector.config import Settings
from projector.errors import BrokerRefusedError, BrokerUnavailableError
from projector.kafka import client_options, explain_failure

_UNKNOWN = UUID(int=0)


class _Uuid(AbstractType[UUID]):  # type: ignore[misc]  # aiokafka has no types
    @classmethod
    def encode(cls, value: UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> UUID:
        return UUID(bytes=data.read(16))


class _Response(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _Struct(RequestStruct):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 10
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _Response
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", _Uuid), ("topic", CompactString("utf-8")), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _Request(Request[_Struct]):  # type: ignore[misc]
    API_KEY = 3

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_Struct]) -> _Struct:
        return request_struct_class([(_UNKNOWN, topic, {}) for topic in self._topics], False, False, False, {})


async def topic_ids(settings: Settings, topics: Iterable[str]) -> dict[str, UUID]:
    """The ids of `topics`. Raises BrokerUnavailableError, also for a topic that the broker does not know (yet)."""
    wanted = list(topics)
    if not wanted:
        return {}
    client = AIOKafkaClient(**client_options(settings))
    try:
        await client.bootstrap()
        node = client.get_random_node()
        response: Any = await client.send(node, _Request(wanted))
    except (IncompatibleBrokerVersion, NotImplementedError) as error:
        raise BrokerRefusedError("the broker does not tell the ids of topics", "use Kafka 3.7 or later") from error
    except KafkaError as error:
        raise await explain_failure(settings, error, "cannot ask for the ids of topics") from error
    finally:
        await client.close()
    ids = {topic: topic_id for _, topic, topic_id, *_ in response.topics}
    for topic, topic_id in ids.items():
        if topic_id == _UNKNOWN:
            raise BrokerUnavailableError(f"the broker knows no topic {topic}")
    return ids
