"""The one place where Kafka clients get their connection, and where a refused one is explained."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import create_conn
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
    for_code,
)
from aiokafka.protocol.metadata import MetadataRequest

from projector.config import Settings
from projector.errors import BrokerRefusedError, BrokerUnavailableError, ConfigError

REQUEST_TIMEOUT_MS = 15_000
"""How long the change stream waits for an answer before it begins anew, which costs it nothing but the time."""

_ANSWER_MS = 5_000


def client_options(settings: Settings) -> dict[str, Any]:
    """Keyword arguments for any aiokafka client: `bootstrap_servers`, `security_protocol`, `ssl_context`, `sasl_*`.

    Certificates are read at each call, so a new one is used as soon as clients are made anew. Raises ConfigError
    for a file that cannot be used.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": settings.require_kafka(),
        "security_protocol": settings.kafka_security_protocol,
    }
    if settings.kafka_tls:
        options["ssl_context"] = _ssl_context(settings)
    if settings.kafka_sasl:
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        options["sasl_plain_username"] = settings.kafka_sasl_username
        options["sasl_plain_password"] = settings.kafka_sasl_password.get_secret_value()
    return options


def _ssl_context(settings: Settings) -> ssl.SSLContext:
    """Broker and its name are always verified; without a CA file of ours, by the system's."""
    try:
        context = ssl.create_default_context(cafile=settings.kafka_ssl_cafile or None)
    except OSError as error:
        raise _unusable("CAFILE", settings.kafka_ssl_cafile, error) from None
    if settings.kafka_ssl_certfile:
        key = settings.kafka_ssl_keyfile or settings.kafka_ssl_certfile
        for name, file in ("CERTFILE", settings.kafka_ssl_certfile), ("KEYFILE", key):
            try:
                Path(file).open("rb").close()
            except OSError as error:
                raise _unusable(name, file, error) from None
        try:
            # A function: without one, OpenSSL would ask the terminal for the password of an encrypted key.
            password = settings.kafka_ssl_keyfile_password.get_secret_value
            context.load_cert_chain(settings.kafka_ssl_certfile, key, password)
        except ssl.SSLError as error:
            raise ConfigError(
                f"PROJECTOR_KAFKA_SSL_CERTFILE={settings.kafka_ssl_certfile} with the key in {key}: {_reason(error)}",
                "both are PEM files that belong together; an encrypted key needs PROJECTOR_KAFKA_SSL_KEYFILE_PASSWORD",
            ) from None
    return context


def _unusable(name: str, file: str, error: OSError) -> ConfigError:
    return ConfigError(
        f"PROJECTOR_KAFKA_SSL_{name}={file}: {_reason(error)}", "name a PEM file that this process may read"
    )


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return (isinstance(error, ssl.SSLError) and error.reason) or error.strerror or str(error)


@asynccontextmanager
async def admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """An admin client; raises BrokerUnavailableError, BrokerRefusedError or ConfigError before it is handed out."""
    client = AIOKafkaAdminClient(**client_options(settings))
    try:
        await client.start()
    except KafkaError as error:
        await client.close()
        raise await explain_failure(settings, error, "cannot connect to Kafka") from error
    try:
        yield client
    finally:
        await client.close()


def refused_topics(results: Iterable[Sequence[Any]]) -> Iterator[tuple[str, type[KafkaError], str]]:
    """Of an admin request's `results` (name, code, perhaps a message, of each topic) those with an error, and why."""
    for name, code, *message in results:
        if code:
            kind = for_code(code)
            yield name, kind, (message[0] if message else None) or kind.__name__


async def explain_failure(settings: Settings, error: Exception, what: str) -> BrokerUnavailableError:
    """The error to raise when a client did not start: `what` failed.

    aiokafka only says that no broker could be had, so each is asked once more for its reason.
    """
    options = client_options(settings)
    addresses = AIOKafkaClient(bootstrap_servers=options.pop("bootstrap_servers")).hosts
    for host, port, _ in addresses:
        cause = await _ask(host, port, options)
        if cause is not None and (refusal := _refusal(settings, cause)) is not None:
            return BrokerRefusedError(f"{what}: {host}:{port} {refusal[0]}", refusal[1])
    return BrokerUnavailableError(f"{what}: {error}")


async def _ask(host: str, port: int, options: dict[str, Any]) -> BaseException | None:
    """Asks a broker for its metadata as clients do at their start; returns what prevents the answer."""
    try:
        connection = await create_conn(host, port, request_timeout_ms=_ANSWER_MS, **options)
        try:
            await connection.send(MetadataRequest([]))
        finally:
            await connection.close()
    except (KafkaError, OSError, TimeoutError) as error:
        return error.__cause__ or error
    return None


def _refusal(settings: Settings, cause: BaseException) -> tuple[str, str] | None:
    """What a broker that is there has against this client, and the remedy; None when none is there."""
    protocol = f"PROJECTOR_KAFKA_SECURITY_PROTOCOL={settings.kafka_security_protocol}"
    mechanism = f"PROJECTOR_KAFKA_SASL_MECHANISM={settings.kafka_sasl_mechanism}"
    match cause:
        case SaslAuthenticationFailed():
            return (
                "does not accept the user name with this password",
                "check PROJECTOR_KAFKA_SASL_USERNAME and PROJECTOR_KAFKA_SASL_PASSWORD, and that the broker has this"
                f" user for {mechanism}",
            )
        case UnsupportedSaslMechanismError():
            return f"does not offer {mechanism}", "set it to one that this listener of the broker has"
        case ssl.SSLCertVerificationError():
            return (
                f"has a certificate that is not accepted: {cause.verify_message}",
                "set PROJECTOR_KAFKA_SSL_CAFILE to the authority that signed it, and write the broker's address in"
                " PROJECTOR_KAFKA_BOOTSTRAP_SERVERS as the certificate does",
            )
        case ssl.SSLError() if "_CERTIFICATE" in (cause.reason or "") or "_UNKNOWN_CA" in (cause.reason or ""):
            return (
                f"does not accept our certificate, or asks for one: {cause.reason}",
                "set PROJECTOR_KAFKA_SSL_CERTFILE and PROJECTOR_KAFKA_SSL_KEYFILE to a certificate that it knows the"
                " authority of",
            )
        case ssl.SSLError() | ConnectionResetError() | EOFError() | KafkaConnectionError():
            return "answers and hangs up", f"check that this listener of the broker speaks {protocol}"
    return None
