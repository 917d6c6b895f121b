"""Connections to Kafka as configured in [kafka], and translation of the client's errors."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.conn import AIOKafkaConnection

from pipeline.config import Kafka, read_secret
from pipeline.config.table import host_and_port
from pipeline.config.tls import ssl_context
from pipeline.streaming.topics import largest_message_bytes
from rating.errors import ConfigError, WeirError, WorldError

PATIENCE_S: Final = 10.0  # how long a command or worker retries to reach the broker when it starts
REQUEST_S: Final = 30.0  # longest time of a request, and longest time that a reader gets no data although there is some
FORBIDDEN: Final = (
    errors.TopicAuthorizationFailedError,
    errors.GroupAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
)

_PROBE_S: Final = 5.0
_RETRY_S: Final = 0.25
_LEAVE_S: Final = 0.5
_PROTOCOLS: Final = {"plain": "PLAINTEXT", "tls": "SSL", "sasl": "SASL_PLAINTEXT", "sasl_tls": "SASL_SSL"}
_REFUSED: Final = (
    errors.AuthenticationFailedError,
    errors.AuthenticationMethodNotSupported,
    errors.SaslAuthenticationFailed,
    errors.UnsupportedSaslMechanismError,
    errors.IllegalSaslStateError,
)

# Silence the client while it retries: if retries fail, an error is raised. A worker's log shows its messages as well.
logging.getLogger("aiokafka").addHandler(logging.NullHandler())


def client_settings(kafka: Kafka) -> dict[str, Any]:
    """Return the settings for every aiokafka client and for Faust's broker credentials.

    Reads passwords and certificates. Raises ConfigError if they cannot be used.
    """
    settings: dict[str, Any] = {
        "bootstrap_servers": list(kafka.addresses),
        "security_protocol": _PROTOCOLS[kafka.security],
        "request_timeout_ms": int(REQUEST_S * 1000),
    }
    if kafka.encrypted:
        settings["ssl_context"] = ssl_context(kafka)
    if kafka.sasl:
        settings["sasl_mechanism"] = kafka.mechanism
        settings["sasl_plain_username"] = kafka.user
        settings["sasl_plain_password"] = read_secret(kafka.password_env, kafka.password_file, "[kafka]")
    return settings


async def reach(kafka: Kafka, patience_s: float = PATIENCE_S) -> dict[str, Any]:
    """Wait until a broker accepts a connection with these credentials, and return the settings for clients.

    Raises WorldError if no broker answers within `patience_s`, ConfigError if one rejects the connection.
    """
    settings = client_settings(kafka)
    probe = settings | {"request_timeout_ms": int(_PROBE_S * 1000)}
    del probe["bootstrap_servers"]
    deadline_s = time.monotonic() + patience_s
    while True:
        problems = []
        for address in kafka.addresses:
            place = host_and_port(address)
            assert place is not None  # load_config checks this
            connection = AIOKafkaConnection(*place, **probe)
            try:
                with broker_errors(kafka, address):
                    async with asyncio.timeout(_PROBE_S):
                        await connection.connect()
                await _closed(connection)
                return settings
            except ConfigError:
                await _closed(connection)
                raise
            except WorldError as error:
                problems.append(error)
        if time.monotonic() >= deadline_s:
            raise problems[0]
        await asyncio.sleep(_RETRY_S)


async def _closed(connection: AIOKafkaConnection) -> None:
    """Close the probe connection. TLS needs a moment to shut down."""
    over = connection.close()
    if over is not None:
        await asyncio.wait([over], timeout=_LEAVE_S)


@contextmanager
def broker_errors(kafka: Kafka, address: str | None = None) -> Iterator[None]:
    """Translate errors of the Kafka client into WorldError or ConfigError, with the next action to take."""
    where = address or ", ".join(kafka.addresses)
    try:
        yield
    except WeirError:
        raise
    except _REFUSED as error:
        raise ConfigError(
            f"Kafka at {where} refused user {kafka.user!r} ({_said(error)}); check user, password and mechanism "
            f"({kafka.mechanism}) in [kafka]"
        ) from error
    except FORBIDDEN as error:
        raise ConfigError(
            f"Kafka at {where} does not allow this ({_said(error)}); give the user of [kafka] rights on topics that "
            f"begin with {kafka.prefix!r} and on the group, or name another user"
        ) from error
    except (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError) as error:
        raise ConfigError(
            f"Kafka at {where} takes no message of this size; set max.message.bytes of the topics to at least "
            f"{largest_message_bytes(kafka)}, or make [kafka].limit_bytes smaller"
        ) from error
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(
            f"Kafka at {where} shows a certificate that does not hold: {error.verify_message}; check ca_file in "
            "[kafka], and that the broker's certificate names this host"
        ) from error
    except ssl.SSLError as error:
        raise ConfigError(
            f"Kafka at {where}: no encrypted connection: {_said(error)}; check security, cert_file and key_file in "
            "[kafka], and that the port is one for TLS"
        ) from error
    except errors.UnknownTopicOrPartitionError as error:
        raise WorldError(
            f"Kafka at {where}: a topic or partition is missing; start a worker, which makes it"
        ) from error
    except (errors.KafkaError, OSError, TimeoutError) as error:
        raise WorldError(
            f"Kafka at {where} does not answer ({_said(error)}); start the broker (`weir kafka` runs one here), check "
            "servers and security in [kafka] and the network, then give the command again"
        ) from error


@asynccontextmanager
async def admin_of(kafka: Kafka) -> AsyncIterator[AIOKafkaAdminClient]:
    """Open an administration client."""
    settings = await reach(kafka)
    admin = AIOKafkaAdminClient(**settings)
    with broker_errors(kafka):
        try:
            await admin.start()
            yield admin
        finally:
            await admin.close()


def _said(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
